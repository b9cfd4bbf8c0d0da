//! Whether the process was stopped and continued (SIGSTOP, SIGCONT), for vCPUs that cannot tell from
//! their clocks.
//!
//! SIGCONT is blocked in every thread: from the moment the process is continued, before any of its
//! threads runs, the signal is pending, until the main loop [notes](note) it and only then takes it. So
//! whoever asks finds one or the other.
#![allow(unsafe_code)] // sigpending(2).

use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};

/// How often the process was continued, as far as the main loop has noted.
static CONTINUED: AtomicU64 = AtomicU64::new(0);

/// To be called before SIGCONT is taken from the pending signals; once too often does no harm.
pub fn note() {
    CONTINUED.fetch_add(1, Ordering::Release);
}

/// What one thread knows.
#[derive(Debug)]
pub struct Stops(u64);

impl Stops {
    /// Knows of all stops so far.
    pub fn so_far() -> Self {
        Self(CONTINUED.load(Ordering::Acquire))
    }

    /// Whether the process was continued since the last call. One stop may be told twice.
    pub fn happened(&mut self) -> bool {
        // In this order: what is not pending any more was noted before.
        let pending = is_pending();
        let continued = CONTINUED.load(Ordering::Acquire);
        pending | (mem::replace(&mut self.0, continued) != continued)
    }
}

fn is_pending() -> bool {
    // SAFETY: an all-zero sigset_t is valid storage for the answer.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: `set` is ours.
    let asked = unsafe { libc::sigpending(&raw mut set) };
    // SAFETY: as above; the number is valid.
    asked == 0 && unsafe { libc::sigismember(&raw const set, libc::SIGCONT) } == 1
}
