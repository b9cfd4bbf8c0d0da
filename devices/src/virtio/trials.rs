//! [`Trials`]: what ways of working have in common that are tried out on a stream of requests and kept only while they pay.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Windows after which what pays is left for one, to see what there is without it.
pub(super) const SPELL: u32 = 16;
/// Most windows to leave alone what did not pay.
const MOST_REST: u32 = 128;

/// When something is tried again: at once if it paid, else later each time.
#[derive(Debug)]
pub(super) struct Trials {
    /// Windows to leave it alone, now and after the next time that it does not pay.
    rest: u32,
    next_rest: u32,
}

impl Trials {
    pub(super) fn new() -> Self {
        Self { rest: 0, next_rest: 1 }
    }

    /// A window is over without it: whether it may be tried.
    pub(super) fn are_due(&mut self) -> bool {
        let due = self.rest == 0;
        self.rest = self.rest.saturating_sub(1);
        due
    }

    /// It was tried, and is over.
    pub(super) fn ended(&mut self, paid: bool) {
        if paid {
            *self = Self::new();
        } else {
            self.rest = self.next_rest;
            self.next_rest = (self.next_rest * 2).min(MOST_REST);
        }
    }

    /// Whether the last one paid, or there was none.
    #[cfg(test)]
    pub(super) fn pay(&self) -> bool {
        self.next_rest == 1
    }
}

/// Processor time of this thread.
pub(super) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
