//! When the steps of a start happened, for `--timings` and the start-up benchmark.
//!
//! Marks are taken once each and cost one clock read; nothing is measured after the first exit.

use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// One moment, set at most once.
#[derive(Debug, Default)]
pub struct Mark(OnceLock<Instant>);

impl Mark {
    /// Notes that this moment is now, if it has not been before.
    pub fn mark(&self) {
        if self.0.get().is_none() {
            let _ = self.0.set(Instant::now());
        }
    }
}

/// The moments of a run, in the order they are reached.
#[derive(Debug)]
pub struct Timings {
    start: Instant,
    /// Kernel, initrd and command line are opened and recognized.
    pub opened: Mark,
    /// The process has given up what it does not need any more.
    pub confined: Mark,
    /// The virtual machine exists, with its interrupt controller.
    pub vm: Mark,
    /// Guest memory is mapped and in its slots.
    pub memory: Mark,
    /// Kernel, initrd and tables are in guest memory.
    pub loaded: Mark,
    /// All vCPUs exist with their registers set.
    pub vcpus: Mark,
    /// The first vCPU is about to run its first instruction.
    pub first_entry: Mark,
    /// The first vCPU left the guest for the first time.
    pub first_exit: Mark,
    /// The guest's end was known.
    pub ended: Mark,
    /// All vCPU threads are gone and the machine is taken down.
    pub stopped: Mark,
}

impl Timings {
    /// Timings that count from `start`, the program's first moment.
    pub fn new(start: Instant) -> Self {
        Self {
            start,
            opened: Mark::default(),
            confined: Mark::default(),
            vm: Mark::default(),
            memory: Mark::default(),
            loaded: Mark::default(),
            vcpus: Mark::default(),
            first_entry: Mark::default(),
            first_exit: Mark::default(),
            ended: Mark::default(),
            stopped: Mark::default(),
        }
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Each moment reached, with its name and its distance from the start.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Duration)> {
        [
            ("opened", &self.opened),
            ("confined", &self.confined),
            ("vm", &self.vm),
            ("memory", &self.memory),
            ("loaded", &self.loaded),
            ("vcpus", &self.vcpus),
            ("first_entry", &self.first_entry),
            ("first_exit", &self.first_exit),
            ("ended", &self.ended),
            ("stopped", &self.stopped),
        ]
        .into_iter()
        .filter_map(|(name, mark)| {
            mark.0.get().map(|at| (name, at.saturating_duration_since(self.start)))
        })
    }
}

impl fmt::Display for Timings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = Duration::ZERO;
        for (name, at) in self.iter() {
            let step = at.saturating_sub(last);
            writeln!(f, "{name:12} {:>9} µs  +{} µs", at.as_micros(), step.as_micros())?;
            last = at;
        }
        Ok(())
    }
}
