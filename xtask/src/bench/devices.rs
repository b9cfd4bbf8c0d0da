//! What benchmarks of devices share: their arguments, and, at real speed, the two monitors that boot the payload.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::table::Table;
use super::{Result, Subject, account};
use crate::host::qemu::Qemu;
use crate::workspace::Workspace;
use crate::{cargo, process, tsc};

/// For a run besides its workloads: firmware, most of all.
const BOOT_LIMIT: Duration = Duration::from_secs(60);

/// Arguments of every benchmark of devices.
#[derive(Debug, clap::Args)]
pub struct Common {
    #[command(flatten)]
    pub subject: Subject,
    /// Counted runs of each monitor; 5, or 3 with a stock guest
    #[arg(long)]
    rounds: Option<usize>,
    /// How long each workload runs; 0.4 s, or 5 s with a stock guest
    #[arg(long)]
    seconds: Option<f64>,
    /// Only these workloads
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    only: Vec<String>,
}

/// Arguments of those that can be measured at real speed.
#[derive(Debug, clap::Args)]
pub struct Speed {
    /// Measure programs in a stock guest on a KVM host, an emulated one if need be
    #[arg(long)]
    pub stock: bool,
    /// Run both monitors at a real-time priority: what else a shared machine does hardly counts then
    #[arg(long, conflicts_with = "stock")]
    real_time: bool,
}

/// The device measured: what both monitors have to be told.
#[derive(Debug)]
pub struct Device<'a> {
    /// What the payload calls it.
    pub bench: &'a str,
    /// Its workloads.
    pub workloads: &'a [&'a str],
    /// Carve's arguments for it.
    pub carve: Vec<String>,
    /// QEMU's.
    pub qemu: Vec<String>,
}

/// Measures a device with both monitors in turn and prints the table.
pub fn measure(
    workspace: &Workspace,
    arguments: &Common,
    speed: &Speed,
    device: &Device<'_>,
) -> Result<()> {
    let carve = arguments.subject.carve(workspace)?;
    let (rounds, seconds) = (arguments.rounds(5), arguments.seconds(0.4));
    let (qemu, payload) = (Qemu::obtain(workspace)?, cargo::build_payload(workspace)?);
    let tsc = tsc::rate();
    if speed.real_time {
        // Above the monitors, to see their CPU time when the payload speaks.
        let this = std::process::id().to_string();
        process::run_quietly(Command::new("chrt").args(["-f", "-p", "2", &this]))?;
    }
    let names = arguments.chosen(device.workloads);
    let cmdline =
        format!("bench={} cycles={:.0} run={}", device.bench, seconds * tsc, names.join(","));
    let commands = [
        carve_command(&carve, &payload, &cmdline, &device.carve),
        qemu_command(&qemu, &payload, &cmdline, &device.qemu),
    ];
    let mut commands = commands.map(|command| speed.at_priority(command));
    let limit = BOOT_LIMIT + Duration::from_secs_f64(2.0 * seconds) * u32::try_from(names.len())?;
    let mut table = Table::default();
    for round in 0..=rounds {
        for (contender, command) in commands.iter_mut().enumerate() {
            let samples = account::run(command, tsc, limit, names.len())?;
            // The first round warms caches.
            if round > 0 {
                table.add(contender, samples);
            }
        }
    }
    println!(
        "virtio-{} over MMIO, driver polling in ring 3 on this machine's own KVM, 1 vCPU, {} rounds in turn of {} s each, \
         medians; CPU time of all threads but the vCPU's",
        device.bench, rounds, seconds
    );
    table.print("qemu microvm");
    Ok(())
}

impl Common {
    /// Counted runs of each monitor.
    pub fn rounds(&self, default: usize) -> usize {
        self.rounds.unwrap_or(default)
    }

    /// How long each workload runs.
    pub fn seconds(&self, default: f64) -> f64 {
        self.seconds.unwrap_or(default)
    }

    /// Those of `all` workloads that are wanted.
    pub fn chosen<'a>(&'a self, all: &[&'a str]) -> Vec<&'a str> {
        match &self.only[..] {
            [] => all.to_vec(),
            only => only.iter().map(String::as_str).collect(),
        }
    }
}

impl Speed {
    fn at_priority(&self, command: Command) -> Command {
        if !self.real_time {
            return command;
        }
        let mut scheduled = Command::new("chrt");
        scheduled.args(["-f", "1"]).arg(command.get_program()).args(command.get_args());
        scheduled
    }
}

fn carve_command(carve: &Path, payload: &Path, cmdline: &str, device: &[String]) -> Command {
    let mut command = Command::new(carve);
    command.args(["run", "--log-level", "error", "--memory", "256MiB", "--debug-exit"]);
    command
        .args(["--transport", "mmio", "--cmdline", cmdline, "--kernel"])
        .arg(payload)
        .args(device);
    command
}

/// With the shortest firmware there is, as it is interpreted.
fn qemu_command(qemu: &Qemu, payload: &Path, cmdline: &str, device: &[String]) -> Command {
    let mut command = Command::new(qemu.path());
    command
        .args(["-M", "microvm,pit=off,pic=off,rtc=off,isa-serial=on,auto-kernel-cmdline=off"])
        .args(["-accel", "kvm", "-m", "256", "-smp", "1", "-nodefaults", "-no-user-config"])
        .args(["-display", "none", "-no-reboot", "-serial", "stdio", "-bios", "qboot.rom"])
        .args(["-name", "payload,debug-threads=on", "-global", "virtio-mmio.force-legacy=false"])
        .args(["-device", "isa-debug-exit,iobase=0x501,iosize=1", "-append", cmdline, "-kernel"])
        .arg(payload)
        .args(device);
    command
}
