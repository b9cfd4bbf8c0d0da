//! What a guest is started from, and what its devices are connected to: opened once, used again at
//! every reset.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use boot::cmdline::CommandLine;
use boot::initrd::Initrd;
use boot::kernel::{self, Kernel};
use boot::layout::RamLayout;
use boot::{BootSource, Protocol};
use devices::virtio::VirtioDevice;
use devices::virtio::balloon;
use devices::virtio::rng::Rng;
use resources::config::{self, BootProtocol, VmConfig};

use super::console_ports::{self, ConsoleBackEnds, Stdio};
use super::vsocks::{self, VsockSocket};

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
    /// The host has no more descriptors.
    #[error("cannot set up the balloon: {0}")]
    Balloon(io::Error),
}

/// Kernel, initrd and command line, and the host's side of the devices.
#[derive(Debug)]
pub struct Sources {
    pub(super) boot: BootSource,
    consoles: Option<ConsoleBackEnds>,
    vsock: Option<VsockSocket>,
    balloon: Option<(balloon::Options, Arc<balloon::Handle>)>,
    rng: bool,
}

impl Sources {
    /// Opens and recognizes what `config` names; `cache` is the folder for extracted kernels, `stdio`
    /// what a console that is `stdio` is connected to.
    ///
    /// # Errors
    ///
    /// [`Error`] naming the file, the reason and the remedy.
    pub fn open(
        config: &VmConfig,
        cache: Option<&Path>,
        stdio: Option<Stdio>,
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
        let cmdline = match stdio {
            None => CommandLine::new(&config.cmdline)?,
            Some(_) => CommandLine::on_virtio_console(&config.cmdline)?,
        };
        let boot = BootSource { kernel, initrd, cmdline };
        boot.check(&RamLayout::new(config.memory.size.bytes()))?;
        let ports: Vec<_> = config.console.values().cloned().collect();
        let consoles = match config.console.is_empty() {
            true => None,
            false => Some(ConsoleBackEnds::open(&ports, stdio)?),
        };
        Ok(Self {
            boot,
            consoles,
            vsock: config.vsock.as_ref().map(VsockSocket::open).transpose()?,
            balloon: config.balloon.as_ref().map(open_balloon).transpose()?,
            rng: config.devices.rng,
        })
    }

    /// What tells the virtio console's ports the size of the window.
    pub fn consoles(&self) -> Option<&ConsoleBackEnds> {
        self.consoles.as_ref()
    }

    /// Fresh devices for a machine, in the order in which the guest finds them.
    pub(super) fn devices(&self) -> Result<Vec<Box<dyn VirtioDevice>>, Error> {
        let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::new();
        if let Some(consoles) = &self.consoles {
            devices.push(Box::new(consoles.device()?));
        }
        if let Some(vsock) = &self.vsock {
            devices.push(Box::new(vsock.device()));
        }
        if let Some((options, handle)) = &self.balloon {
            devices.push(Box::new(balloon::Balloon::new(*options, Arc::clone(handle))));
        }
        if self.rng {
            devices.push(Box::new(Rng::default()));
        }
        Ok(devices)
    }
}

fn open(what: &'static str, path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|source| Error::Open { what, path: path.into(), source })
}

fn open_balloon(
    config: &config::Balloon,
) -> Result<(balloon::Options, Arc<balloon::Handle>), Error> {
    let config::Balloon { target, deflate_on_oom, stats_interval, reporting } = *config;
    let interval = stats_interval.map(|seconds| Duration::from_secs(seconds.get().into()));
    let options = balloon::Options { deflate_on_oom, reporting, statistics_interval: interval };
    let handle = balloon::Handle::new(0).map_err(Error::Balloon)?;
    handle.set_target_bytes(target.bytes());
    Ok((options, handle))
}
