//! A limit on how often a guest makes the host do something expensive: many at once, but in the long run
//! not more than so many a second.

use std::time::{Duration, Instant};

/// How much of the allowance is used up.
#[derive(Debug)]
pub struct Pace {
    interval: Duration,
    burst: Duration,
    used: Duration,
    last: Instant,
}

impl Pace {
    /// `burst` at once, afterwards one each `interval`.
    pub fn new(burst: u32, interval: Duration) -> Self {
        Self { interval, burst: interval * burst, used: Duration::ZERO, last: Instant::now() }
    }

    /// Counts one more at `now`; how long to wait with it.
    pub fn admit(&mut self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.last);
        self.last = now;
        self.used = self.used.saturating_sub(passed) + self.interval;
        self.used.saturating_sub(self.burst)
    }
}

#[cfg(test)]
mod pace_test {
    use super::*;

    #[test]
    fn a_burst_passes_and_what_follows_is_spread() {
        let interval = Duration::from_millis(1);
        let mut pace = Pace::new(3, interval);
        let mut now = Instant::now();
        for _ in 0..3 {
            assert_eq!(pace.admit(now), Duration::ZERO);
        }
        for _ in 0..10 {
            let wait = pace.admit(now);
            assert!(wait > Duration::ZERO && wait <= interval, "{wait:?}");
            now += wait;
        }
        now += interval * 100;
        assert_eq!(pace.admit(now), Duration::ZERO);
    }
}
