//! `xtask bench`: measurements beside a peer, in turn and in one run, as medians and ratios. Machines differ and are
//! busy: a ratio says something, an absolute time alone does not.

mod account;
mod block;
mod boot;
mod density;
mod devices;
mod elf;
mod lifecycle;
mod memory;
mod net;
mod plan;
mod sample;
mod startup;
mod stats;
mod stock;
mod table;
mod thp;
mod threads;
mod vsock;

use std::path::PathBuf;
use std::process::Command;

use crate::cargo::{self, Profile};
use crate::workspace::Workspace;
use crate::{guest, process};

/// A program measured: its name, and how to start it.
type Contender<'a> = (&'a str, Box<dyn Fn() -> Command + 'a>);
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Arguments of `xtask bench`.
#[derive(Debug, clap::Subcommand)]
pub enum Arguments {
    /// From exec to the first guest instruction and on to the process's end: a tiny guest on this machine's own KVM, beside QEMU microvm
    Startup(startup::Arguments),
    /// From exec to the first line of user space: a stock kernel on a KVM host, beside QEMU microvm and --no-extract
    Boot(boot::Arguments),
    /// Private memory beside the guest's RAM, of a running stock guest on a KVM host
    Memory(memory::Arguments),
    /// What each of many idle stock guests takes of a KVM host, beside QEMU microvm
    Density(density::Arguments),
    /// A disk's requests at real speed: a driver that polls on this machine's own KVM, beside QEMU microvm. With --stock,
    /// fio in a stock guest on a KVM host
    Block(block::Arguments),
    /// Frames through a tap at real speed, likewise. With --stock, iperf3 and ping in a stock guest on a KVM host
    Net(net::Arguments),
    /// A host of 256 CPUs divided between many VMs, from exec to the process's end
    Plan(plan::Arguments),
    /// Commands on guests of a few instructions on this machine's own KVM, a list of many, and memory of each
    Lifecycle(lifecycle::Arguments),
    /// Streams between a stock guest and its KVM host, beside QEMU with vhost-vsock
    Vsock(vsock::Arguments),
}

/// Runs a benchmark.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    match arguments {
        Arguments::Startup(arguments) => startup::run(workspace, arguments),
        Arguments::Boot(arguments) => boot::run(workspace, arguments),
        Arguments::Memory(arguments) => memory::run(workspace, arguments),
        Arguments::Density(arguments) => density::run(workspace, arguments),
        Arguments::Block(arguments) => block::run(workspace, arguments),
        Arguments::Net(arguments) => net::run(workspace, arguments),
        Arguments::Plan(arguments) => plan::run(workspace, arguments),
        Arguments::Lifecycle(arguments) => lifecycle::run(workspace, arguments),
        Arguments::Vsock(arguments) => vsock::run(workspace, arguments),
    }
}

/// What a benchmark with a stock guest boots, and the binary under test.
#[derive(Debug, Clone, clap::Args)]
struct Subject {
    /// The kernel, by the name `xtask guest` prints
    #[arg(long, default_value = "debian-6.1-cloud")]
    kernel: String,
    /// Measure in this process, which runs on a KVM host already
    #[arg(long, hide = true)]
    here: bool,
    /// The carve binary; built where it is not given
    #[arg(long, value_name = "FILE")]
    carve: Option<PathBuf>,
}

impl Subject {
    fn carve(&self, workspace: &Workspace) -> Result<PathBuf> {
        match &self.carve {
            Some(carve) => Ok(carve.clone()),
            None => Ok(cargo::build_carve(workspace, Profile::Release, None)?),
        }
    }

    fn guest(&self, workspace: &Workspace) -> Result<guest::Guest> {
        Ok(guest::obtain(workspace, false)?.guest(Some(&self.kernel))?.clone())
    }

    /// Runs this same benchmark, with these same arguments, on a KVM host.
    fn there(&self, workspace: &Workspace) -> Result<()> {
        // Both are made here, where there is a network and a compiler's cache.
        self.guest(workspace)?;
        let carve = self.carve(workspace)?;
        let this = std::env::current_exe()?;
        let mut command = Command::new(&this);
        command.args(["host", "--no-stdin", "--time-limit", "2h", "--"]).arg(&this);
        command.args(std::env::args_os().skip(1)).arg("--here");
        if self.carve.is_none() {
            command.arg("--carve").arg(carve);
        }
        Ok(process::run(&mut command)?)
    }
}
