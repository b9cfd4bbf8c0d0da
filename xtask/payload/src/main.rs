//! A guest without an operating system that measures a virtual machine monitor, or attacks it, from ring 3, where guest
//! code has the host's speed even on a KVM that interprets ring 0.
//!
//! It is booted by PVH, told by its command line what to do, answers through the serial port, and ends through the
//! debug-exit port: with 0 where all went well.
//!
//! - `bench=block|net`, `cycles=N` (TSC cycles of each workload), `run=NAME[,NAME…]`: polls the rings of a device; a
//!   line `begin NAME` before and a line `end NAME OPERATIONS CYCLES` after each workload.
//! - `hostile=SEED`, `operations=N`, `hypercalls=1`: plays a driver that means harm, see [`hostile`]; makes hypercalls,
//!   too, on which a KVM without hardware virtualization stands still.
//! - `drive=SEED`: makes every device work, says `driving` and asks nothing of them any more.

#![no_std]
#![no_main]

mod block;
mod hostile;
mod io;
mod mmio;
mod net;
mod queue;
mod runtime;

use core::fmt::Write;

use io::{Serial, exit};

core::arch::global_asm!(include_str!("entry.s"));

/// TSC cycles before and after a workload, some 20 ms.
const REST: u64 = 50_000_000;

/// What a workload did in its time.
pub struct Outcome {
    /// Operations that ended.
    pub operations: u64,
    /// TSC cycles.
    pub cycles: u64,
}

/// First instruction in ring 3; `start_info` is PVH's.
#[unsafe(no_mangle)]
extern "sysv64" fn payload_main(start_info: *const u64) -> ! {
    let line = io::command_line(start_info);
    let names = word(line, "run=").unwrap_or_default().split(',');
    let number = |key| word(line, key).and_then(|word| word.parse().ok());
    if let Some(seed) = number("hostile=") {
        let hypercalls = number("hypercalls=") == Some(1);
        hostile::run(seed, number("operations=").unwrap_or(100_000), hypercalls);
        exit(0);
    }
    let cycles = number("cycles=").unwrap_or(1_000_000_000);
    if let Some(seed) = number("drive=") {
        hostile::drive(seed);
    }
    let done = match word(line, "bench=") {
        Some("block") => block::run(names, cycles),
        Some("net") => net::run(names, cycles),
        _ => Err("bench= is missing"),
    };
    if let Err(why) = done {
        let _ = writeln!(Serial, "failed {why}");
        exit(1);
    }
    exit(0)
}

/// Runs one workload between its two lines.
pub fn report(
    name: &str,
    workload: impl FnOnce() -> Result<Outcome, &'static str>,
) -> Result<(), &'static str> {
    // At each line the account of the monitor's threads is read: none of them may be kept from printing it by work, or
    // end with a reset of the device before.
    let _ = writeln!(Serial, "begin {name}");
    rest();
    let outcome = workload()?;
    let _ = writeln!(Serial, "end {name} {} {}", outcome.operations, outcome.cycles);
    rest();
    Ok(())
}

/// Leaves the monitor alone for a while.
fn rest() {
    let start = io::now();
    while io::now() - start < REST {
        core::hint::spin_loop();
    }
}

/// What follows `key` in the command line, up to a space.
fn word<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split(' ').find_map(|word| word.strip_prefix(key))
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(Serial, "failed {info}");
    exit(1)
}
