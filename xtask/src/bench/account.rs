//! The account that a guest gives of what it measures, while the CPU time of its monitor's threads is watched:
//!
//! ```text
//! begin NAME
//! end NAME OPERATIONS TIME
//! ```
//!
//! Lines of the payload and of scripts in stock guests alike; each has a clock of its own.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::{Result, threads};
use crate::{child, process};

/// What a guest measured in one workload, and what the monitor spent on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Name of the workload.
    pub name: String,
    /// Operations a second, by the guest's own clock.
    pub rate: f64,
    /// CPU time of all threads but the vCPU's, by operation.
    pub cpu: Duration,
}

/// Runs a monitor to the end of its guest, whose clock has `ticks` a second.
///
/// # Errors
///
/// The guest failed, or was not through with `count` workloads by `limit`.
pub fn run(
    command: &mut Command,
    ticks: f64,
    limit: Duration,
    count: usize,
) -> Result<Vec<Sample>> {
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
    let samples = follow(&lines, monitor.id(), ticks, Instant::now() + limit, count);
    let _ = monitor.kill();
    let ended = monitor.wait_with_output()?;
    let _ = reader.join();
    samples.map_err(|error| {
        format!("{shown}: {error}\n{}", String::from_utf8_lossy(&ended.stderr)).into()
    })
}

/// Makes samples of the guest's lines until there are no more.
fn follow(
    lines: &mpsc::Receiver<String>,
    monitor: u32,
    ticks: f64,
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
            ["end", name, operations, time] => {
                let after = threads::cpu_beside_vcpus(monitor)?;
                let (operations, time) = (operations.parse::<u32>()?, time.parse::<f64>()?);
                samples.push(Sample {
                    name: name.to_owned(),
                    rate: f64::from(operations) / (time / ticks),
                    cpu: after.saturating_sub(before) / operations.max(1),
                });
            }
            ["failed", ..] | ["!", ..] => return Err(line.into()),
            // Firmware says something too.
            _ => {}
        }
    }
}
