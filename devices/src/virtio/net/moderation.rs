//! Whether a driver that rings for every few frames is spared the doorbell for a while: the queue is then looked at
//! after a delay instead, which finds what has come meanwhile, all at once.
//!
//! That is to cost a stream of small frames less, and nothing else anything. So it begins only when being woken up takes
//! a good part of all the time there is; the delay is a few times what one waking up takes here; and it is kept
//! only if as many frames pass as before. They do not where the driver waits for an answer, or has only so many under
//! way: then it is left alone, longer each time.

use std::time::{Duration, Instant};

use crate::virtio::trials::{SPELL, Trials, cpu_time};

/// Wakings or looks that are judged together.
const WINDOW: u32 = 32;
/// Looks after which it shows that nothing gathers.
const FIRST: u32 = 4;
/// Wakings are worth sparing where one comes within so many times of what it takes.
const DEAR: u32 = 10;
/// The delay is so many times of what a waking up takes the worker: interrupting a vCPU takes several times of that again.
const LONG: u32 = 20;
/// What a look has to find, on the average.
const MANY: u32 = 4;
/// Bounds of the delay: a timer is no more exact than the one, and nobody should wait longer than the other.
const SHORTEST: Duration = Duration::from_micros(20);
const LONGEST: Duration = Duration::from_millis(1);

/// What there was from a point in time on.
#[derive(Debug)]
struct Count {
    since: Instant,
    /// Processor time of this thread by then.
    used: Duration,
    /// Wakings or looks.
    times: u32,
    frames: u32,
}

impl Count {
    fn new(now: Instant, used: Duration) -> Self {
        Self { since: now, used, times: 0, frames: 0 }
    }

    /// Frames a second.
    fn rate(&self, now: Instant) -> f64 {
        f64::from(self.frames) / now.saturating_duration_since(self.since).as_secs_f64()
    }
}

/// The moderation of one queue.
#[derive(Debug)]
pub(super) struct Moderation {
    /// Frames since the queue was empty.
    fresh: u32,
    /// None before the first frame.
    count: Option<Count>,
    /// The driver does not ring.
    spell: Option<Spell>,
    trials: Trials,
}

/// A time without doorbells.
#[derive(Debug)]
struct Spell {
    delay: Duration,
    due: Instant,
    /// Frames a second before.
    rate: f64,
    /// The last look found nothing.
    idle: bool,
    /// Windows that paid.
    windows: u32,
}

impl Moderation {
    pub(super) fn new() -> Self {
        Self { fresh: 0, count: None, spell: None, trials: Trials::new() }
    }

    /// How long the queue is not to be looked at yet.
    pub(super) fn early(&self) -> Option<Duration> {
        let spell = self.spell.as_ref()?;
        let left = spell.due.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// So many frames have been sent, and there may be more.
    pub(super) fn sent(&mut self, frames: u16) {
        self.fresh = self.fresh.saturating_add(frames.into());
    }

    /// So many frames have been sent, and the queue is empty: when to look again, if the driver is not to ring.
    pub(super) fn emptied(&mut self, frames: u16) -> Option<Duration> {
        self.sent(frames);
        let frames = std::mem::take(&mut self.fresh);
        // Woken up for something else.
        if frames == 0 && self.spell.is_none() {
            return None;
        }
        self.judge(frames, Instant::now(), cpu_time)
    }

    /// The same at a time, with a clock of the processor time used.
    fn judge(
        &mut self,
        frames: u32,
        now: Instant,
        used: impl Fn() -> Duration,
    ) -> Option<Duration> {
        let count = self.count.get_or_insert_with(|| Count::new(now, used()));
        count.times += 1;
        count.frames += frames;
        match &mut self.spell {
            None if count.times < WINDOW => None,
            None => {
                let (window, used) = (now.saturating_duration_since(count.since), used());
                let each = used.saturating_sub(count.used) / count.times;
                let (rate, many) = (count.rate(now), count.frames >= MANY * count.times);
                self.count = Some(Count::new(now, used));
                if !self.trials.are_due() || many || window > each * DEAR * WINDOW {
                    return None;
                }
                let delay = (each * LONG).clamp(SHORTEST, LONGEST);
                self.spell = Some(Spell { delay, due: now + delay, rate, idle: false, windows: 0 });
                Some(delay)
            }
            Some(spell) => {
                // Once may be because the guest was kept from running.
                let idle = std::mem::replace(&mut spell.idle, frames == 0);
                let ended = idle && spell.idle;
                let single = count.times == FIRST && count.frames < 2 * FIRST && spell.windows == 0;
                let whole = count.times == WINDOW;
                let pays =
                    count.frames >= MANY * count.times && count.rate(now) >= spell.rate * 0.95;
                if ended || single || whole && !pays {
                    // A stream that has ended was worth it.
                    let paid = ended && spell.windows > 0;
                    self.end(paid);
                    return None;
                }
                if whole {
                    *count = Count::new(now, Duration::ZERO);
                    spell.windows += 1;
                    if spell.windows == SPELL {
                        self.end(true);
                        return None;
                    }
                }
                spell.due = now + spell.delay;
                Some(spell.delay)
            }
        }
    }

    /// From now on the driver rings again.
    fn end(&mut self, paid: bool) {
        (self.spell, self.count) = (None, None);
        self.trials.ended(paid);
    }
}

#[cfg(test)]
#[path = "moderation_test.rs"]
mod moderation_test;
