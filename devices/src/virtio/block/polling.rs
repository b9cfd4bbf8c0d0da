//! How long a queue's worker looks for the next request before it sleeps: a driver that has one ready at once is
//! spared the doorbell, and the worker being woken up.
//!
//! Looks that find nothing are processor time for nothing, so they have to be earned: by requests that came so soon
//! after the worker had gone to sleep that a look would have found them, and by looks that found one. The worst that a
//! driver can do with that is to cost [`HIT`] µs more for each request that is found, and one for each that is not.

use std::time::Duration;

use rustix::thread::sched_getaffinity;

/// The longest look.
pub(super) const LOOK: Duration = Duration::from_micros(32);
/// A sleep that is no longer would have been spared by a look: it took as long again to be woken up.
const SHORT: Duration = Duration::from_micros(64);

/// What a look costs that finds nothing: one for each of its microseconds.
const MISS: u32 = 32;
/// What one earns that finds something.
const HIT: u32 = 4;
/// The most that is saved up: two looks in vain after many that paid.
const MOST: u32 = 2 * MISS;

/// Whether a look pays.
#[derive(Debug)]
pub(super) struct Polling {
    credit: u32,
    /// There is another processor for whoever is waited for.
    possible: bool,
}

impl Polling {
    /// For the thread that calls this.
    pub(super) fn new() -> Self {
        // On a single processor a look only keeps the guest from going on. Where the host has no answer, neither.
        let possible = sched_getaffinity(None).is_ok_and(|processors| processors.count() > 1);
        Self { credit: 0, possible }
    }

    /// None, whatever happens.
    pub(super) fn never() -> Self {
        Self { credit: 0, possible: false }
    }

    /// Whether it is worth knowing how long the worker [sleeps](Self::slept).
    pub(super) fn is_possible(&self) -> bool {
        self.possible
    }

    /// Whether to look before sleeping.
    pub(super) fn pays(&self) -> bool {
        self.possible && self.credit >= MISS
    }

    /// A look has found something.
    pub(super) fn hit(&mut self) {
        self.credit = (self.credit + HIT).min(MOST);
    }

    /// A look has found nothing.
    pub(super) fn missed(&mut self) {
        self.credit = self.credit.saturating_sub(MISS);
    }

    /// The worker was woken up after so long.
    pub(super) fn slept(&mut self, time: Duration) {
        if self.pays() {
            return;
        }
        // After long sleeps in between it starts over.
        self.credit = if time <= SHORT { self.credit + 1 } else { 0 };
    }
}

#[cfg(test)]
#[path = "polling_test.rs"]
mod polling_test;
