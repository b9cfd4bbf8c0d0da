//! What a vCPU has done over all resets of its guest: written by its thread, read by anyone.
#![allow(unsafe_code)] // Clocks of other threads.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Counts of one vCPU.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Tally {
    exits: AtomicU64,
    /// CPU time of threads that have ended, in nanoseconds.
    past: AtomicU64,
    /// Clock of the thread whose time is not in `past`; [`NONE`] if there is no such thread.
    clock: AtomicI32,
}

/// Not a thread's clock: those are negative (clock_getres(2)).
const NONE: libc::clockid_t = 0;

/// A vCPU's thread while it runs.
#[derive(Debug)]
pub struct Running<'a>(&'a Tally);

impl Tally {
    /// Starts counting this thread's CPU time, until what is returned is dropped, on this thread too.
    pub fn start(&self) -> Running<'_> {
        self.clock.store(own_clock(), Relaxed);
        Running(self)
    }

    /// Counts an exit. Only for the vCPU's own thread.
    pub fn exited(&self) {
        // Cheaper than an addition that others could disturb.
        self.exits.store(self.exits.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// Times the guest was left for this program.
    pub fn exits(&self) -> u64 {
        self.exits.load(Relaxed)
    }

    /// CPU time of the vCPU.
    pub fn cpu_time(&self) -> Duration {
        let live = match self.clock.load(Relaxed) {
            NONE => None,
            clock => read(clock),
        };
        Duration::from_nanos(self.past.load(Relaxed)) + live.unwrap_or_default()
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let spent = Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default();
        let spent = u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX);
        self.0.clock.store(NONE, Relaxed);
        self.0.past.fetch_add(spent, Relaxed);
    }
}

/// Clock of the CPU time of this thread, which other threads of the process can read.
fn own_clock() -> libc::clockid_t {
    let mut clock = NONE;
    // SAFETY: it has no conditions.
    let thread = unsafe { libc::pthread_self() };
    // SAFETY: this thread runs; `clock` is ours.
    match unsafe { libc::pthread_getcpuclockid(thread, &raw mut clock) } {
        0 => clock,
        _ => NONE,
    }
}

/// What `clock` shows; nothing once its thread has ended.
fn read(clock: libc::clockid_t) -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is ours; a clock of a thread that has ended meanwhile is refused.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return None;
    }
    let (seconds, nanos) = (u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?);
    Some(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tally_test {
    use std::sync::{Arc, Barrier};
    use std::thread;
    use std::time::Instant;

    use super::*;

    #[test]
    fn cpu_time_counts_while_a_thread_runs_and_after_it() {
        let (tally, barrier) = (Arc::new(Tally::default()), Arc::new(Barrier::new(2)));
        let (of, at) = (Arc::clone(&tally), Arc::clone(&barrier));
        let thread = thread::spawn(move || {
            let _running = of.start();
            of.exited();
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(50) {}
            at.wait();
            at.wait();
        });
        barrier.wait();
        let live = tally.cpu_time();
        barrier.wait();
        thread.join().unwrap();
        let past = tally.cpu_time();
        assert!(live > Duration::ZERO && past >= live, "{live:?}, {past:?}");
        assert_eq!(tally.exits(), 1);
    }
}
