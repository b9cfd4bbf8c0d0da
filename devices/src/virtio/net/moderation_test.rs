use super::*;

/// A driver, how long being woken up takes, and the time.
struct World {
    moderation: Moderation,
    now: Instant,
    used: Duration,
    looks: u32,
    doorbells: u32,
}

const WAKING: Duration = Duration::from_micros(20);

impl World {
    fn new() -> Self {
        let moderation = Moderation::new();
        Self { moderation, now: Instant::now(), used: Duration::ZERO, looks: 0, doorbells: 0 }
    }

    /// The queue is served and empty each time `next` says after how long and how many frames, given the delay if there
    /// is one.
    fn run(&mut self, times: u32, next: impl Fn(Option<Duration>) -> (Duration, u32)) {
        let mut delay = None;
        for _ in 0..times {
            let (time, frames) = next(delay);
            *(if delay.is_some() { &mut self.looks } else { &mut self.doorbells }) += 1;
            (self.now, self.used) = (self.now + time, self.used + WAKING);
            delay = match (frames, &self.moderation.spell) {
                (0, None) => None,
                _ => self.moderation.judge(frames, self.now, || self.used),
            };
        }
    }
}

/// A stream of frames 5 µs apart that each doorbell and waking up holds up for 60 µs.
fn stream(delay: Option<Duration>) -> (Duration, u32) {
    match delay {
        None => (Duration::from_micros(65), 1),
        Some(delay) => (delay + WAKING, u32::try_from(delay.as_micros()).unwrap() / 5),
    }
}

#[test]
fn a_stream_of_small_frames_is_looked_at_instead_of_heard_of() {
    let mut world = World::new();
    world.run(10_000, stream);
    // One window in seventeen is heard of.
    assert!(world.looks > 9000 && world.doorbells > 400, "{} looks", world.looks);
    assert!(world.moderation.trials.pay());
}

#[test]
fn who_waits_for_an_answer_gets_it_at_once() {
    let mut world = World::new();
    world.run(100_000, |delay| (delay.unwrap_or_default() + Duration::from_micros(50), 1));
    assert!((FIRST..40 * FIRST).contains(&world.looks), "{} looks", world.looks);
}

#[test]
fn who_has_only_so_many_frames_under_way_is_not_held_up() {
    let mut world = World::new();
    // The same frames later.
    world.run(100_000, |delay| match delay {
        None => (Duration::from_micros(30), 3),
        Some(delay) => (delay, 16),
    });
    assert!((WINDOW..40 * WINDOW).contains(&world.looks), "{} looks", world.looks);
}

#[test]
fn frames_that_are_rare_or_many_at_once_are_heard_of() {
    for (gap, frames) in [(250, 1), (1000, 2), (50, 8)] {
        let mut world = World::new();
        world.run(10_000, |_| (Duration::from_micros(gap), frames));
        assert_eq!(world.looks, 0, "{frames} every {gap} µs");
    }
}

#[test]
fn a_stream_that_pauses_is_looked_at_again_when_it_goes_on() {
    let mut world = World::new();
    for _ in 0..20 {
        world.run(WINDOW * 4, stream);
        assert!(world.moderation.spell.is_some());
        world.run(2, |_| (Duration::from_millis(1), 0));
        assert!(world.moderation.spell.is_none() && world.moderation.trials.pay());
    }
}

#[test]
fn the_queue_is_left_alone_until_a_look_is_due() {
    let mut moderation = Moderation::new();
    assert_eq!((moderation.early(), moderation.emptied(0)), (None, None));
    let (delay, due) = (LONGEST, Instant::now() + Duration::from_secs(60));
    moderation.spell = Some(Spell { delay, due, rate: 1.0, idle: false, windows: 0 });
    assert!(moderation.early().is_some());
    moderation.spell =
        Some(Spell { delay, due: Instant::now(), rate: 1.0, idle: false, windows: 0 });
    assert_eq!(moderation.early(), None);
    moderation.sent(60);
    assert_eq!(moderation.emptied(4), Some(delay));
    assert_eq!(moderation.count.as_ref().unwrap().frames, 64);
}
