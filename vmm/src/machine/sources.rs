//! What a guest is started from: opened once, used again at every reset.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use boot::cmdline::CommandLine;
use boot::initrd::Initrd;
use boot::kernel::{self, Kernel};
use boot::layout::RamLayout;
use boot::{BootSource, Protocol};
use resources::config::{BootProtocol, VmConfig};

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
}

/// Kernel, initrd and command line.
#[derive(Debug)]
pub struct Sources {
    pub(super) boot: BootSource,
}

impl Sources {
    /// Opens and recognizes what `config` names; `cache` is the folder for extracted kernels.
    ///
    /// # Errors
    ///
    /// [`Error`] naming the file, the reason and the remedy.
    pub fn open(config: &VmConfig, cache: Option<&Path>) -> Result<Self, Error> {
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
        let cmdline = CommandLine::new(&config.cmdline)?;
        let boot = BootSource { kernel, initrd, cmdline };
        boot.check(&RamLayout::new(config.memory.size.bytes()))?;
        Ok(Self { boot })
    }
}

fn open(what: &'static str, path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|source| Error::Open { what, path: path.into(), source })
}
