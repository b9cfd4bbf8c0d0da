//! A bound on how often a guest may reset: one that reboots as soon as it starts would otherwise
//! keep a host busy for ever, unseen.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Resets within [`WINDOW`] that are still ordinary; one more ends the run.
pub(crate) const LIMIT: u32 = 10;
/// The time resets are counted over.
pub(crate) const WINDOW: Duration = Duration::from_secs(10);

/// Recent resets of a guest.
#[derive(Debug, Default)]
pub(crate) struct Resets {
    recent: VecDeque<Instant>,
    total: u32,
}

impl Resets {
    /// Counts a reset at `now`; returns whether it is one too many.
    pub(crate) fn count(&mut self, now: Instant) -> bool {
        self.total = self.total.saturating_add(1);
        self.recent.push_back(now);
        while self.recent.front().is_some_and(|&at| now.saturating_duration_since(at) > WINDOW) {
            self.recent.pop_front();
        }
        self.recent.len() > LIMIT as usize
    }

    /// All resets so far.
    pub(crate) fn total(&self) -> u32 {
        self.total
    }
}

#[cfg(test)]
mod resets_test {
    use super::*;

    #[test]
    fn slow_resets_go_on_for_ever() {
        let (mut resets, start) = (Resets::default(), Instant::now());
        assert!((0..1000).all(|i| !resets.count(start + Duration::from_millis(1001) * i)));
        assert_eq!(resets.total(), 1000);
    }

    #[test]
    fn one_more_than_the_limit_within_the_window_is_too_many() {
        let (mut resets, start) = (Resets::default(), Instant::now());
        assert!((0..LIMIT).all(|i| !resets.count(start + Duration::from_millis(10) * i)));
        assert!(resets.count(start + WINDOW));
    }
}
