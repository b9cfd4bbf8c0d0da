//! Bounds on what a guest can make the VMM log.
//!
//! Anything a guest can trigger at will it can trigger millions of times a second; a log line for
//! each would fill the host's disk and slow down its neighbours.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Log lines admitted at once, before the limit applies.
const BURST: u64 = 10;
/// Afterwards, time between two admitted lines.
const INTERVAL: Duration = Duration::from_secs(60);

/// Decides which of a series of guest-triggered events is worth a log line: the first ten, then
/// one a minute, which carries the number left out in between.
///
/// ```
/// # let limit = devices::rate_limit::RateLimitedLog::new();
/// if let Some(suppressed) = limit.admit() {
///     tracing::warn!(suppressed, "the guest wrote nonsense");
/// }
/// ```
#[derive(Debug)]
pub struct RateLimitedLog {
    start: Instant,
    total: AtomicU64,
    suppressed: AtomicU64,
    /// When the next line after the burst is due, in milliseconds since `start`.
    due: AtomicU64,
}

impl RateLimitedLog {
    /// A fresh allowance.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            total: AtomicU64::new(0),
            suppressed: AtomicU64::new(0),
            due: AtomicU64::new(0),
        }
    }

    /// Counts an event; returns the number of events suppressed since the last admitted one when
    /// this one may be logged.
    pub fn admit(&self) -> Option<u64> {
        self.admit_at(self.start.elapsed())
    }

    /// All events so far, logged or not.
    pub fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    fn admit_at(&self, now: Duration) -> Option<u64> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let next = millis(now.saturating_add(INTERVAL));
        let count = self.total.fetch_add(1, Relaxed);
        if count < BURST {
            self.due.fetch_max(next, Relaxed);
            return Some(0);
        }
        let due = self.due.load(Relaxed);
        // Of the threads that find a line due, the one that moves the date on logs it.
        if due <= millis(now) && self.due.compare_exchange(due, next, Relaxed, Relaxed).is_ok() {
            return Some(self.suppressed.swap(0, Relaxed));
        }
        self.suppressed.fetch_add(1, Relaxed);
        None
    }
}

impl Default for RateLimitedLog {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
#[path = "rate_limit_test.rs"]
mod rate_limit_test;
