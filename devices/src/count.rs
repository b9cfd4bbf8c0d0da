//! [`Count`]: a number that one thread counts and others read.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that one thread counts and others read.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Only for the one thread: cheaper than an addition that others could disturb.
    pub fn add(&self, by: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(by), Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
