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
        return arguments.subject.there(workspace);
    }
    let carve = arguments.subject.carve(workspace)?;
    let guest = arguments.subject.guest(workspace)?;
    let initrd = guest.initrds.get("standard").ok_or("there is no such initrd")?;
    let (mut dirty, mut clean) = (Vec::new(), Vec::new());
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
        let private = private_kib(&smaps?, RAM_KIB);
        dirty.push(private.dirty / 1024.0);
        clean.push(private.clean / 1024.0);
    }
    println!(
        "private memory beside guest RAM, {} with 1 vCPU and 512 MiB, {} guests, medians: {:.2} MiB dirty; {:.2} MiB \
         clean, which is the program's own file and shared as soon as two guests run",
        guest.version,
        arguments.rounds,
        median(dirty),
        median(clean)
    );
    Ok(())
}

/// Memory of every mapping but the guest's RAM, in KiB (proc_pid_smaps(5)).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Private {
    pub dirty: f64,
    pub clean: f64,
    /// Private memory, and of what is shared this process's part.
    pub proportional: f64,
}

/// What `smaps` accounts for beside mappings of `ram` KiB.
pub fn private_kib(smaps: &str, ram: u64) -> Private {
    let (mut private, mut size) = (Private::default(), 0);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(value)) = (words.next(), words.next()) else { continue };
        let Ok(kib) = value.parse::<u32>() else { continue };
        match name {
            "Size:" => size = u64::from(kib),
            "Private_Dirty:" | "Private_Hugetlb:" if size != ram => {
                private.dirty += f64::from(kib);
            }
            "Private_Clean:" if size != ram => private.clean += f64::from(kib),
            "Pss:" if size != ram => private.proportional += f64::from(kib),
            _ => {}
        }
    }
    private
}

#[cfg(test)]
mod memory_test {
    use super::*;

    #[test]
    fn the_guest_s_ram_does_not_count() {
        let smaps = "7f00-7f01 rw-p 0 00:00 0\nSize: 524288 kB\nPrivate_Dirty: 1000 kB\n\
            5500-5600 r-xp 0 00:00 0 /carve\nSize: 100 kB\nPss: 50 kB\nPrivate_Clean: 30 kB\nPrivate_Dirty: 4 kB\n";
        let private = Private { dirty: 4.0, clean: 30.0, proportional: 50.0 };
        assert_eq!(private_kib(smaps, RAM_KIB), private);
    }
}
