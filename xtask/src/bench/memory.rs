//! `bench memory`: what a running guest costs beside its own RAM, as the kernel accounts it.

use std::process::{Command, Stdio};
use std::time::Duration;

use super::stats::median;
use super::{Result, Subject, sample};
use crate::workspace::Workspace;

/// The guest's RAM, by which its mapping is known.
const RAM_KIB: u64 = 512 << 10;

/// Arguments of `bench memory`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    subject: Subject,
    /// Guests measured, one after the other
    #[arg(long, default_value_t = 10)]
    rounds: usize,
}

pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    if !arguments.subject.here {
        let more = ["--rounds".to_owned(), arguments.rounds.to_string()];
        return arguments.subject.there(workspace, "memory", &more);
    }
    let carve = arguments.subject.carve(workspace)?;
    let guest = arguments.subject.guest(workspace)?;
    let initrd = guest.initrds.get("standard").ok_or("there is no such initrd")?;
    let mut private = Vec::new();
    for _ in 0..arguments.rounds {
        let mut command = Command::new(&carve);
        command.args(["run", "--log-level", "error", "--memory", "512MiB", "--cmdline", "quiet"]);
        command.arg("--kernel").arg(&guest.kernel).arg("--initrd").arg(initrd);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let ready = sample::wait_for(&mut child, "carve-guest: ready")?;
        // Let it come to its prompt.
        std::thread::sleep(Duration::from_secs(2));
        let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", child.id()));
        child.kill()?;
        child.wait()?;
        if !ready {
            return Err("the guest ended before it was ready".into());
        }
        private.push(private_kib(&smaps?) / 1024.0);
    }
    println!(
        "private memory beside guest RAM, {} with 1 vCPU and 512 MiB, {} guests: median {:.2} MiB",
        guest.version,
        arguments.rounds,
        median(private)
    );
    Ok(())
}

/// Private memory of every mapping but the guest's RAM, in KiB (proc_pid_smaps(5)).
fn private_kib(smaps: &str) -> f64 {
    let (mut total, mut size) = (0u64, 0u64);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(value)) = (words.next(), words.next()) else { continue };
        let Ok(kib) = value.parse::<u64>() else { continue };
        match name {
            "Size:" => size = kib,
            "Private_Clean:" | "Private_Dirty:" | "Private_Hugetlb:" if size != RAM_KIB => {
                total += kib;
            }
            _ => {}
        }
    }
    // Far below 2^52.
    total as f64
}

#[cfg(test)]
mod memory_test {
    use super::*;

    #[test]
    fn the_guest_s_ram_does_not_count() {
        let smaps = "7f00-7f01 rw-p 0 00:00 0\nSize: 524288 kB\nPrivate_Dirty: 1000 kB\n\
            5500-5600 r-xp 0 00:00 0 /carve\nSize: 100 kB\nPrivate_Clean: 30 kB\nPrivate_Dirty: 4 kB\n";
        assert_eq!(private_kib(smaps), 34.0);
    }
}
