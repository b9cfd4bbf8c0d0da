//! What a guest is started from, and what its devices are connected to: opened once, used again at
//! every reset.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use boot::cmdline::CommandLine;
use boot::initrd::Initrd;
use boot::kernel::{self, Kernel};
use boot::layout::RamLayout;
use boot::{BootSource, Protocol};
use devices::virtio::VirtioDevice;
use devices::virtio::interrupt::InterruptCounts;
use devices::virtio::rng::Rng;
use resources::config::{BootProtocol, Named, VmConfig};

use super::balloons::{self, BalloonControl};
use super::console_ports::{self, ConsoleBackEnds, Stdio};
use super::disks::{self, Disks};
use super::networks::{self, Networks};
use super::passt::Outside;
use super::vsocks::{self, VsockSocket};
use crate::console::stdio_port::StdioPort;

/// Why a guest's sources cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be opened.
    #[error("cannot open {what} {path}: {source}; check the path and its permissions")]
    Open {
        /// Which file.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file is unsuitable, or does not fit.
    #[error(transparent)]
    Boot(#[from] boot::Error),
    /// The command line is no command line.
    #[error(transparent)]
    CommandLine(#[from] boot::cmdline::Error),
    /// A port of the virtio console.
    #[error(transparent)]
    Console(#[from] console_ports::Error),
    /// The socket device.
    #[error(transparent)]
    Vsock(#[from] vsocks::Error),
    /// The balloon.
    #[error(transparent)]
    Balloon(#[from] balloons::Error),
    /// A disk.
    #[error(transparent)]
    Disk(#[from] disks::Error),
    /// A network device.
    #[error(transparent)]
    Net(#[from] networks::Error),
}

/// Kernel, initrd and command line, and the host's side of the devices.
pub struct Sources {
    pub(super) boot: BootSource,
    disks: Disks,
    networks: Networks,
    consoles: Option<ConsoleBackEnds>,
    vsock: Option<VsockSocket>,
    balloon: Option<BalloonControl>,
    rng: bool,
    /// Of each device, in the order in which the guest finds them.
    interrupts: Vec<DeviceInterrupts>,
}

/// The interrupts of a device over all resets.
struct DeviceInterrupts {
    kind: &'static str,
    name: String,
    counts: Arc<InterruptCounts>,
}

impl Sources {
    /// Opens and recognizes what `config` names; `cache` is the folder for extracted kernels, `stdio`
    /// what a console that is `stdio` is connected to, `outside` who starts programs in this process's stead.
    ///
    /// # Errors
    ///
    /// [`Error`] naming the file, the reason and the remedy.
    pub fn open(
        config: &VmConfig,
        cache: Option<&Path>,
        stdio: Option<Stdio>,
        outside: Option<&dyn Outside>,
    ) -> Result<Self, Error> {
        let options = kernel::Options {
            cache: cache.map(Path::to_owned),
            extract: config.boot.extract,
            protocol: match config.boot.protocol {
                BootProtocol::Auto => None,
                BootProtocol::Linux64 => Some(Protocol::Linux64),
                BootProtocol::Pvh => Some(Protocol::Pvh),
            },
        };
        let kernel = open("kernel", &config.kernel)?;
        let kernel = Kernel::open(kernel, &config.kernel, &options).map_err(boot::Error::from)?;
        let initrd = match &config.initrd {
            Some(path) => {
                Some(Initrd::open(open("initrd", path)?, path).map_err(boot::Error::from)?)
            }
            None => None,
        };
        let cmdline = match StdioPort::console_number(config) {
            None => CommandLine::new(&config.cmdline)?,
            Some(number) => CommandLine::on_virtio_console(number, &config.cmdline)?,
        };
        let boot = BootSource { kernel, initrd, cmdline };
        boot.check(&RamLayout::new(config.memory.size.bytes()))?;
        let consoles = match config.console.is_empty() {
            true => None,
            false => Some(ConsoleBackEnds::open(&listed("", &config.console), stdio)?),
        };
        Ok(Self {
            boot,
            disks: Disks::open(&listed("", &config.disk))?,
            networks: Networks::open(&listed("net.", &config.net), outside)?,
            consoles,
            vsock: config.vsock.as_ref().map(VsockSocket::open).transpose()?,
            balloon: config.balloon.as_ref().map(BalloonControl::new).transpose()?,
            rng: config.devices.rng,
            interrupts: interrupts(config),
        })
    }

    /// What tells the virtio console's ports the size of the window.
    pub fn consoles(&self) -> Option<&ConsoleBackEnds> {
        self.consoles.as_ref()
    }

    /// The host's side of the disks.
    pub(crate) fn disks(&self) -> &Disks {
        &self.disks
    }

    /// The host's side of the network devices.
    pub(crate) fn networks(&self) -> &Networks {
        &self.networks
    }

    /// The folder for connections of the guest's sockets is elsewhere from now on.
    pub fn moved(&self, folder: Option<PathBuf>) {
        if let (Some(vsock), Some(folder)) = (&self.vsock, folder) {
            vsock.moved(folder);
        }
    }

    /// The host's side of the balloon.
    pub(crate) fn balloon(&self) -> Option<&BalloonControl> {
        self.balloon.as_ref()
    }

    /// Whether [`follow_host`](Self::follow_host) has anything to look at.
    pub fn has_disks(&self) -> bool {
        !self.disks.is_empty()
    }

    /// Has the disks follow files that the host has enlarged.
    pub fn follow_host(&self) {
        self.disks.follow_host();
    }

    /// How often each device has interrupted the guest: kind, name and counts, in the order in which the guest finds
    /// them.
    pub(crate) fn interrupts(&self) -> impl Iterator<Item = (&str, &str, &Arc<InterruptCounts>)> {
        self.interrupts.iter().map(|one| (one.kind, one.name.as_str(), &one.counts))
    }

    /// Fresh devices for a machine, in the order in which the guest finds them.
    pub(super) fn devices(&self) -> Result<Vec<Box<dyn VirtioDevice>>, Error> {
        let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::new();
        for disk in self.disks.devices()? {
            devices.push(Box::new(disk));
        }
        for network in self.networks.devices()? {
            devices.push(Box::new(network));
        }
        if let Some(consoles) = &self.consoles {
            devices.push(Box::new(consoles.device()?));
        }
        if let Some(vsock) = &self.vsock {
            devices.push(Box::new(vsock.device()));
        }
        if let Some(balloon) = &self.balloon {
            devices.push(Box::new(balloon.device()));
        }
        if self.rng {
            devices.push(Box::new(Rng::default()));
        }
        Ok(devices)
    }
}

/// Nothing counted yet, for each device that [`Sources::devices`] makes.
fn interrupts(config: &VmConfig) -> Vec<DeviceInterrupts> {
    let disks = config.disk.keys().map(|name| ("disk", name.to_string()));
    let nets = config.net.keys().map(|name| ("net", name.to_string()));
    let single = [
        ("console", !config.console.is_empty()),
        ("vsock", config.vsock.is_some()),
        ("balloon", config.balloon.is_some()),
        ("rng", config.devices.rng),
    ];
    let single = single.into_iter().filter(|(_, there)| *there);
    let all = disks.chain(nets).chain(single.map(|(kind, _)| (kind, kind.to_owned())));
    all.map(|(kind, name)| DeviceInterrupts { kind, name, counts: Arc::default() }).collect()
}

fn open(what: &'static str, path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|source| Error::Open { what, path: path.into(), source })
}

/// Devices with what messages call them.
fn listed<T: Clone>(kind: &str, devices: &Named<T>) -> Vec<(String, T)> {
    devices.iter().map(|(name, device)| (format!("{kind}{name}"), device.clone())).collect()
}
