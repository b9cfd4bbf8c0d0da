//! How fast this machine's time stamp counter is: as fast as that of a guest of its own KVM, and of an emulated host.

use std::time::{Duration, Instant};

/// Between the two readings.
const SPAN: Duration = Duration::from_millis(200);
/// Of each reading, as this thread may be kept from running between the two clocks.
const TRIES: usize = 5;

/// Cycles in a second.
pub fn rate() -> f64 {
    let (start, first) = reading();
    std::thread::sleep(SPAN);
    let (end, last) = reading();
    #[allow(clippy::cast_precision_loss)]
    let cycles = last.wrapping_sub(first) as f64;
    cycles / (end - start).as_secs_f64()
}

/// The clock and the counter at one moment, the closest of a few.
fn reading() -> (Instant, u64) {
    let read = || {
        let before = Instant::now();
        let cycles = counter();
        (before.elapsed(), before, cycles)
    };
    let closest = (1..TRIES).map(|_| read()).fold(read(), |a, b| if b.0 < a.0 { b } else { a });
    (closest.1, closest.2)
}

#[allow(unsafe_code)] // Reads the counter.
fn counter() -> u64 {
    // SAFETY: every x86-64 processor has the instruction.
    unsafe { core::arch::x86_64::_rdtsc() }
}
