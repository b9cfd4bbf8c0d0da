//! How fast the clock of the bare-metal guest of `xtask/payload/` is.
//!
//! The guest polls its rings from ring 3, where guest code has the host's speed even on a KVM that interprets ring 0: device
//! data paths are measured at real speed on a machine without hardware virtualization.

use std::time::{Duration, Instant};

/// Cycles of the time stamp counter in a second; a guest's counter runs as fast.
#[allow(unsafe_code)] // Reads the counter.
pub fn tsc_rate() -> f64 {
    let now = || {
        // SAFETY: every x86-64 processor has the instruction.
        unsafe { core::arch::x86_64::_rdtsc() }
    };
    let (start, cycles) = (Instant::now(), now());
    std::thread::sleep(Duration::from_millis(200));
    #[allow(clippy::cast_precision_loss)]
    let cycles = (now() - cycles) as f64;
    cycles / start.elapsed().as_secs_f64()
}
