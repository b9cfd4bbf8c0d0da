//! The bare-metal guest of `xtask/payload/`: building it, and running it under a monitor while the CPU time of the
//! monitor's threads is watched.
//!
//! It polls its rings from ring 3, where guest code has the host's speed even on a KVM that interprets ring 0: device
//! data paths are measured at real speed on a machine without hardware virtualization.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::{Result, threads};
use crate::workspace::Workspace;
use crate::{cargo, child, process};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the payload; its ELF file, which a PVH loader takes.
pub fn build(workspace: &Workspace) -> Result<PathBuf> {
    let target = workspace.cache("payload");
    let mut command = cargo::command(workspace);
    command
        .args(["build", "--quiet", "--locked", "--release", "--manifest-path"])
        .arg(workspace.root().join("xtask/payload/Cargo.toml"))
        .args(["--target", TARGET, "--target-dir"])
        .arg(&target)
        // Those of the caller are for programs with an operating system.
        .env_remove("RUSTFLAGS");
    process::run(&mut command)?;
    Ok(target.join(TARGET).join("release/payload"))
}

/// What the payload measured in one workload, and what the monitor spent on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Name of the workload.
    pub name: String,
    /// Operations a second, by the guest's own clock.
    pub rate: f64,
    /// CPU time of all threads but the vCPU's, by operation.
    pub cpu: Duration,
}

/// Runs a monitor that boots the payload, to its end.
///
/// # Errors
///
/// The payload failed, or was not through with `count` workloads by `limit`.
pub fn run(command: &mut Command, tsc: f64, limit: Duration, count: usize) -> Result<Vec<Sample>> {
    let shown = process::shown(command);
    child::die_with_parent(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut monitor = command.spawn().map_err(|error| format!("{shown}: {error}"))?;
    let output = monitor.stdout.take().ok_or("the output is not a pipe")?;
    let (sender, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(std::io::Result::ok) {
            let _ = sender.send(line);
        }
    });
    let samples = follow(&lines, monitor.id(), tsc, Instant::now() + limit, count);
    let _ = monitor.kill();
    let ended = monitor.wait_with_output()?;
    let _ = reader.join();
    samples.map_err(|error| {
        format!("{shown}: {error}\n{}", String::from_utf8_lossy(&ended.stderr)).into()
    })
}

/// Makes samples of the payload's lines until there are no more.
fn follow(
    lines: &mpsc::Receiver<String>,
    monitor: u32,
    tsc: f64,
    deadline: Instant,
    count: usize,
) -> Result<Vec<Sample>> {
    let (mut samples, mut before) = (Vec::new(), Duration::ZERO);
    loop {
        let line = match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => line,
            Err(mpsc::RecvTimeoutError::Disconnected) if samples.len() == count => {
                return Ok(samples);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err(format!("it ended after {} of {count} workloads", samples.len()).into());
            }
            Err(mpsc::RecvTimeoutError::Timeout) => return Err("it takes too long".into()),
        };
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["begin", _] => before = threads::cpu_beside_vcpus(monitor)?,
            ["end", name, operations, cycles] => {
                let after = threads::cpu_beside_vcpus(monitor)?;
                let (operations, cycles) = (operations.parse::<u32>()?, cycles.parse::<f64>()?);
                samples.push(Sample {
                    name: name.to_owned(),
                    rate: f64::from(operations) / (cycles / tsc),
                    cpu: after.saturating_sub(before) / operations.max(1),
                });
            }
            ["failed", ..] | ["!", ..] => return Err(line.into()),
            // Firmware says something too.
            _ => {}
        }
    }
}

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
