//! `bench boot`: from exec to the first line a stock guest's user space prints, Carve beside QEMU microvm and beside
//! itself without extraction, with transparent huge pages always and never.

use std::path::Path;
use std::process::Command;

use super::sample::{self, UntilText};
use super::stats::{median, ms};
use super::{Contender, Result, Subject, thp};
use crate::guest::Guest;
use crate::host::qemu::Qemu;
use crate::workspace::Workspace;

/// What the guest's init prints first.
pub const READY: &str = "carve-guest: ready";
/// Of every guest.
const MEMORY_MIB: u32 = 512;
const CMDLINE: &str = "console=ttyS0 quiet panic=-1";

/// Arguments of `bench boot`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    subject: Subject,
    /// Counted boots of each contender in each mode
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Which of the guest's images to boot with
    #[arg(long, default_value = "standard")]
    initrd: String,
}

pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let qemu = Qemu::obtain(workspace)?;
    if !arguments.subject.here {
        return arguments.subject.there(workspace);
    }
    let carve = arguments.subject.carve(workspace)?;
    let guest = arguments.subject.guest(workspace)?;
    let initrd = guest.initrds.get(&arguments.initrd).ok_or("there is no such initrd")?;
    println!(
        "exec to the first line of user space: {}, 1 vCPU, 512 MiB, {} rounds in turn, medians",
        guest.version, arguments.rounds
    );
    thp::in_both_modes(|| measure(arguments.rounds, &carve, &qemu, &guest, initrd))
}

fn measure(rounds: usize, carve: &Path, qemu: &Qemu, guest: &Guest, initrd: &Path) -> Result<()> {
    let contenders: [Contender<'_>; 3] = [
        ("carve", Box::new(|| carve_command(carve, guest, initrd, MEMORY_MIB, &[]))),
        (
            "--no-extract",
            Box::new(|| carve_command(carve, guest, initrd, MEMORY_MIB, &["--no-extract"])),
        ),
        ("qemu microvm", Box::new(|| qemu_command(qemu, guest, initrd, MEMORY_MIB))),
    ];
    let mut samples: [Vec<UntilText>; 3] = Default::default();
    for round in 0..=rounds {
        for (index, (_, command)) in contenders.iter().enumerate() {
            let sample = sample::until_text(&mut command(), READY)?;
            // The first round warms caches, that of extracted kernels included.
            if round > 0 {
                samples[index].push(sample);
            }
        }
    }
    let of = |index: usize, value: fn(&UntilText) -> f64| -> f64 {
        median(samples[index].iter().map(value).collect())
    };
    for (index, (name, _)) in contenders.iter().enumerate() {
        println!(
            "{name:14} wall {:6.0} ms   user {:5.0}   system {:5.0}   guest {:5.0}",
            of(index, |s| ms(s.wall)),
            of(index, |s| ms(s.cpu.user)),
            of(index, |s| ms(s.cpu.system)),
            of(index, |s| ms(s.cpu.guest)),
        );
    }
    let wall = |index| of(index, |s| ms(s.wall));
    println!(
        "ratio of wall times: to qemu microvm {:.3}, to --no-extract {:.3}",
        wall(0) / wall(2),
        wall(0) / wall(1)
    );
    Ok(())
}

/// A guest of `memory` MiB under Carve.
pub fn carve_command(
    carve: &Path,
    guest: &Guest,
    initrd: &Path,
    memory: u32,
    more: &[&str],
) -> Command {
    let mut command = Command::new(carve);
    command.args(["run", "--log-level", "error", "--cmdline", CMDLINE, "--memory"]);
    command.arg(format!("{memory}MiB"));
    command.arg("--kernel").arg(&guest.kernel).arg("--initrd").arg(initrd).args(more);
    command
}

/// And under its peer.
pub fn qemu_command(qemu: &Qemu, guest: &Guest, initrd: &Path, memory: u32) -> Command {
    let mut command = Command::new(qemu.path());
    command
        .args(["-M", "microvm,acpi=on,rtc=on,isa-serial=on"])
        .args(["-accel", "kvm", "-cpu", "host", "-smp", "1", "-nodefaults"])
        .args(["-m", &memory.to_string()])
        .args(["-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"])
        .args(["-append", CMDLINE, "-kernel"])
        .arg(&guest.kernel)
        .arg("-initrd")
        .arg(initrd);
    command
}
