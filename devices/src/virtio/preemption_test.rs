use super::*;

/// A stream, what being woken up takes, and the time.
struct World {
    preemption: Preemption,
    now: Instant,
    used: Duration,
    bytes: u64,
    /// Wakings with and without preemption.
    wakings: [u32; 2],
}

impl World {
    fn new() -> Self {
        let (preemption, now, used) = (Preemption::new(), Instant::now(), Duration::ZERO);
        Self { preemption, now, used, bytes: 0, wakings: [0; 2] }
    }

    /// The thread is woken up so often, each time after a time in µs, for a processor time in µs and some bytes, as `next`
    /// says of whether it waits for vCPUs.
    fn run(&mut self, times: u32, next: impl Fn(bool) -> (u64, u64, u64)) {
        for _ in 0..times {
            let waits = self.preemption.spell.is_some();
            let (time, used, bytes) = next(waits);
            self.now += Duration::from_micros(time);
            self.used += Duration::from_micros(used);
            self.bytes += bytes;
            self.wakings[usize::from(waits)] += 1;
            self.preemption.judge(self.bytes, self.now, || self.used);
        }
    }
}

#[test]
fn a_stream_that_gathers_meanwhile_is_left_to_gather() {
    let mut world = World::new();
    world.run(10_000, |waits| if waits { (500, 200, 10_000) } else { (100, 60, 1000) });
    // One window in seventeen is as before.
    assert!(world.wakings[1] > 9000 && world.wakings[0] > 500, "{:?}", world.wakings);
    assert!(world.preemption.trials.pay());
}

#[test]
fn who_waits_for_an_answer_or_has_a_rate_of_its_own_is_served_at_once() {
    for (time, bytes, most) in [(150, 100, FIRST), (100, 105, WINDOW)] {
        let mut world = World::new();
        world.run(100_000, |waits| if waits { (time, 50, bytes) } else { (100, 50, 100) });
        assert!(world.wakings[1] < 30 * most, "{:?}", world.wakings);
    }
}

#[test]
fn what_is_rare_is_served_at_once() {
    let mut world = World::new();
    world.run(100_000, |_| (1000, 90, 1000));
    assert_eq!(world.wakings[1], 0);
}

#[test]
fn after_a_stream_has_ended_who_comes_is_served_at_once() {
    let mut world = World::new();
    let stream = |waits| if waits { (500, 200, 10_000) } else { (100, 60, 1000) };
    world.run(10 * WINDOW, stream);
    assert!(world.preemption.spell.is_some());
    world.run(1, |_| (60_000, 10, 100));
    assert!(world.preemption.spell.is_none());
    // The next stream is found as soon as the first.
    world.run(2 * WINDOW, stream);
    assert!(world.preemption.spell.is_some());
}

#[test]
fn a_thread_changes_its_own_policy_and_no_other() {
    std::thread::spawn(|| {
        assert_eq!(policy(), libc::SCHED_OTHER);
        assert!(set_policy(libc::SCHED_BATCH));
        assert_eq!(policy(), libc::SCHED_BATCH);
        let other = std::thread::spawn(|| set_policy(libc::SCHED_OTHER).then(policy));
        assert_eq!(other.join().unwrap(), Some(libc::SCHED_OTHER));
        assert_eq!(policy(), libc::SCHED_BATCH);
        let mut preemption = Preemption::new();
        preemption.served(0);
        assert_eq!(preemption.possible, Some(false));
    })
    .join()
    .unwrap();
}
