//! A stock Debian guest under both monitors in turn on a KVM host, with what measures a device in it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::devices::Common;
use super::table::Table;
use super::{Result, account};
use crate::guest::{self, Guest};
use crate::host::qemu::Qemu;
use crate::percent;
use crate::workspace::Workspace;

/// For a boot, and for the start and the end of programs in an emulated guest.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
const WORKLOAD_LIMIT: Duration = Duration::from_secs(30);
/// Ticks of the guest's account in a second.
const MICROSECONDS: f64 = 1e6;

/// How devices are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    /// virtio-mmio; the peer is QEMU microvm
    Mmio,
    /// virtio-pci; the peer is QEMU q35
    Pci,
}

/// Arguments of a benchmark that can have a stock guest.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// What the stock guest's devices are attached to
    #[arg(long, value_enum, default_value = "mmio")]
    pub transport: Transport,
}

/// What is measured in the guest.
#[derive(Debug)]
pub struct Programs<'a> {
    /// Name of the device.
    pub device: &'a str,
    /// Names of what is measured.
    pub workloads: Vec<&'a str>,
    /// Defines a function `m` that runs the workload given for `$S` seconds and prints the end of its
    /// [account], in microseconds.
    pub script: String,
    /// Carve's arguments for the device.
    pub carve: Vec<String>,
    /// QEMU's.
    pub qemu: Vec<String>,
}

/// Both monitors, and what they boot.
#[derive(Debug)]
pub struct Monitors {
    carve: PathBuf,
    qemu: Qemu,
    guest: Guest,
    root: PathBuf,
    transport: Transport,
}

impl Monitors {
    /// Makes everything, on this side or inside of the host.
    pub fn obtain(workspace: &Workspace, common: &Common, transport: Transport) -> Result<Self> {
        let manifest = guest::obtain_with_roots(workspace, false)?;
        let root = manifest.roots.as_ref().and_then(|roots| roots.images.get("ext4"));
        Ok(Self {
            carve: common.subject.carve(workspace)?,
            qemu: Qemu::obtain(workspace)?,
            guest: manifest.guest(Some(&common.subject.kernel))?.clone(),
            root: root.ok_or("there is no root called ext4")?.clone(),
            transport,
        })
    }

    /// What the peer is called.
    pub fn peer(&self) -> &'static str {
        match self.transport {
            Transport::Mmio => "qemu microvm",
            Transport::Pci => "qemu q35",
        }
    }

    /// QEMU's name of the virtio device `name`.
    pub fn qemu_device(&self, name: &str) -> String {
        match self.transport {
            Transport::Mmio => format!("{name}-device"),
            Transport::Pci => format!("{name}-pci"),
        }
    }

    /// Carve and its peer with more arguments; the guest runs `script` and powers off.
    pub fn commands(&self, script: &str, carve: &[String], qemu: &[String]) -> [Command; 2] {
        let cmdline = format!(
            "console=ttyS0 quiet panic=-1 root=LABEL=root ro init=/bin/carve-test carve.run={}",
            percent::encode(script)
        );
        [self.carve_command(&cmdline, carve), self.qemu_command(&cmdline, qemu)]
    }

    fn carve_command(&self, cmdline: &str, device: &[String]) -> Command {
        let transport = match self.transport {
            Transport::Mmio => "mmio",
            Transport::Pci => "pci",
        };
        let mut command = Command::new(&self.carve);
        command
            .args(["run", "--log-level", "error", "--memory", "512MiB", "--transport", transport])
            .arg("--disk")
            .arg(format!("path={},readonly", self.root.display()))
            .args(["--cmdline", cmdline, "--kernel"])
            .arg(&self.guest.kernel)
            .arg("--initrd")
            .arg(self.initrd())
            .args(device);
        command
    }

    fn qemu_command(&self, cmdline: &str, device: &[String]) -> Command {
        let machine = match self.transport {
            Transport::Mmio => "microvm,acpi=on,rtc=on,isa-serial=on",
            Transport::Pci => "q35,hpet=off,i8042=off,sata=off,smbus=off,usb=off,vmport=off",
        };
        let root = format!(
            "if=none,id=root,file={},format=raw,readonly=on,file.locking=off",
            self.root.display()
        );
        let mut command = Command::new(self.qemu.path());
        command
            .args(["-M", machine, "-accel", "kvm", "-cpu", "host", "-m", "512", "-smp", "1"])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args(["-serial", "stdio", "-name", "guest,debug-threads=on"])
            .args(["-global", "virtio-mmio.force-legacy=false", "-drive", &root, "-device"])
            .arg(format!("{},drive=root", self.qemu_device("virtio-blk")))
            .args(["-append", cmdline, "-kernel"])
            .arg(&self.guest.kernel)
            .arg("-initrd")
            .arg(self.initrd())
            .args(device);
        command
    }

    fn initrd(&self) -> &Path {
        self.guest.initrds.get("standard").map_or_else(|| Path::new(""), PathBuf::as_path)
    }

    /// What a run of so many workloads takes at most.
    pub fn limit(workloads: usize, seconds: f64) -> Result<Duration> {
        let each = WORKLOAD_LIMIT + Duration::from_secs_f64(2.0 * seconds);
        Ok(BOOT_LIMIT + each * u32::try_from(workloads)?)
    }
}

/// Measures with both monitors in turn and prints the table.
///
/// `serve` starts what the guest's programs talk to; its result lives as long as a guest.
pub fn measure<T>(
    monitors: &Monitors,
    common: &Common,
    programs: &Programs<'_>,
    serve: impl Fn() -> Result<T>,
) -> Result<()> {
    let (rounds, seconds) = (common.rounds(3), common.seconds(5.0));
    let count = programs.workloads.len();
    let script = format!(
        "S={seconds:.0}; {}; for w in {}; do echo begin $w; m $w; done",
        programs.script,
        programs.workloads.join(" ")
    );
    let mut commands = monitors.commands(&script, &programs.carve, &programs.qemu);
    let mut table = Table::default();
    for _ in 0..rounds {
        for (contender, command) in commands.iter_mut().enumerate() {
            let limit = Monitors::limit(count, seconds)?;
            let serving = serve()?;
            table.add(contender, account::run(command, MICROSECONDS, limit, count)?);
            drop(serving);
        }
    }
    heading(monitors, programs.device, rounds, seconds);
    table.print(monitors.peer());
    Ok(())
}

/// Says what a table is about.
pub fn heading(monitors: &Monitors, device: &str, rounds: usize, seconds: f64) {
    println!(
        "{device} over {:?}, {} with 1 vCPU and 512 MiB on a KVM host, {rounds} rounds in turn of {seconds} s each, \
         medians; CPU time of all threads but the vCPU's",
        monitors.transport, monitors.guest.version
    );
}
