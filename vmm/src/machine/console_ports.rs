//! The host's side of the virtio console's ports: opened once, before the machine is built, and given
//! to a fresh device after every reset.
//!
//! What goes through them is the device's business ([`devices::virtio::console`]); what is wanted is
//! the configuration's ([`resources::config::ConsolePort`]).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use devices::virtio::console::{self, BackEnd, Console, Handle, Port};
use resources::config::{ConsolePort, ConsoleTarget};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use super::unix_socket::{self, UnixSocket};

/// Clients that wait while another is connected.
const BACKLOG: i32 = 16;

/// Why the host sides of ports cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One of them cannot be opened.
    #[error("console.{console}: {source}")]
    Target {
        /// The name of the console in the configuration.
        console: String,
        /// What is wrong.
        source: TargetError,
    },
    /// Descriptors for one more device cannot be had.
    #[error("cannot give the consoles to a device: {0}")]
    Descriptors(io::Error),
    /// The ports do not make a device.
    #[error(transparent)]
    Device(#[from] console::Error),
}

/// What a port that is `stdio` is connected to.
#[derive(Debug)]
pub struct Stdio {
    /// What the guest reads.
    pub input: OwnedFd,
    /// Where its output goes.
    pub output: OwnedFd,
}

/// Why what a console is connected to cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// A file cannot be opened.
    #[error("cannot open {}: {source}; check the path and its permissions", .path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No pseudo-terminal.
    #[error("cannot make a pseudo-terminal: {0}; is /dev/pts mounted?")]
    Pty(io::Error),
    /// No socket.
    #[error(transparent)]
    Socket(#[from] unix_socket::Error),
}

/// One port's host side.
#[derive(Debug)]
enum Opened {
    Files { input: Option<OwnedFd>, output: Option<OwnedFd> },
    Pty { master: OwnedFd, path: PathBuf },
    Socket(UnixSocket),
}

/// A port over all resets.
#[derive(Debug)]
struct OpenPort {
    /// Its name in the configuration.
    console: String,
    /// Its name in the guest: none makes it a console.
    name: Option<String>,
    host: Opened,
}

/// The host sides of all ports of a VM, over its resets.
#[derive(Debug)]
pub struct ConsoleBackEnds {
    /// Consoles first: port 0 is one if any is.
    ports: Vec<OpenPort>,
    handle: Arc<Handle>,
}

impl ConsoleBackEnds {
    /// Opens what `ports` are connected to, at least one port, each with its name in the configuration.
    /// Those without a name of their own are the guest's `hvc0`, `hvc1` and so on in this order; the port that is
    /// `stdio` gets `stdio`.
    ///
    /// # Errors
    ///
    /// [`Error`] naming the console, the value, the reason and the remedy.
    pub fn open(ports: &[(String, ConsolePort)], mut stdio: Option<Stdio>) -> Result<Self, Error> {
        let handle = Handle::new().map_err(Error::Descriptors)?;
        let (consoles, streams): (Vec<_>, Vec<_>) =
            ports.iter().partition(|(_, port)| port.name.is_none());
        let mut open = |(console, port): &(String, ConsolePort)| {
            let host = open_target(&port.target, &mut stdio)
                .map_err(|source| Error::Target { console: console.clone(), source })?;
            let name = port.name.as_ref().map(ToString::to_string);
            Ok(OpenPort { console: console.clone(), name, host })
        };
        let opened = consoles.into_iter().chain(streams).map(&mut open);
        Ok(Self { ports: opened.collect::<Result<_, Error>>()?, handle })
    }

    /// What resizes the consoles, over all resets.
    pub fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }

    /// The pseudo-terminals that were made: the names of their consoles in the configuration, and the
    /// paths to open them by.
    pub fn terminals(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.ports.iter().filter_map(|port| match &port.host {
            Opened::Pty { path, .. } => Some((port.console.as_str(), path.as_path())),
            Opened::Files { .. } | Opened::Socket(_) => None,
        })
    }

    /// A fresh device with these ports. At most one may be in use at a time. A client of a socket
    /// stays with the device it came to: it is disconnected when that is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Descriptors`], [`Error::Device`]
    pub fn device(&self) -> Result<Console, Error> {
        let port = |OpenPort { name, host, .. }: &OpenPort| {
            let back_end = host.back_end().map_err(Error::Descriptors)?;
            Ok(Port { name: name.clone(), console: name.is_none(), back_end })
        };
        let ports = self.ports.iter().map(port).collect::<Result<_, Error>>()?;
        Ok(Console::new(ports, Arc::clone(&self.handle))?)
    }
}

impl Opened {
    fn back_end(&self) -> io::Result<BackEnd> {
        let copy = |fd: &Option<OwnedFd>| fd.as_ref().map(OwnedFd::try_clone).transpose();
        Ok(match self {
            Self::Files { input, output } => {
                BackEnd::Files { input: copy(input)?, output: copy(output)? }
            }
            Self::Pty { master, .. } => BackEnd::Pty(master.try_clone()?),
            Self::Socket(socket) => BackEnd::Listener(socket.listener().try_clone()?.into()),
        })
    }
}

fn open_target(target: &ConsoleTarget, stdio: &mut Option<Stdio>) -> Result<Opened, TargetError> {
    match target {
        ConsoleTarget::Off => Ok(Opened::Files { input: None, output: None }),
        ConsoleTarget::Stdio => {
            let (input, output) = stdio.take().map(|stdio| (stdio.input, stdio.output)).unzip();
            Ok(Opened::Files { input, output })
        }
        ConsoleTarget::File(path) => {
            let output = open_file(path)
                .map_err(|source| TargetError::File { path: path.clone(), source })?;
            Ok(Opened::Files { input: None, output: Some(output.into()) })
        }
        ConsoleTarget::Pty => open_pty().map_err(|error| TargetError::Pty(error.into())),
        ConsoleTarget::Socket(path) => Ok(Opened::Socket(UnixSocket::listen(path, BACKLOG)?)),
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    // Harmless for a file on a disk; a named pipe then does not block, here or later.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(path)
}

fn open_pty() -> rustix::io::Result<Opened> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    fcntl_setfl(&master, OFlags::NONBLOCK)?;
    let path = ptsname(&master, Vec::new())?;
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(path.as_bytes()));
    // Raw, as the guest has a terminal of its own that echoes. Opened and closed, so that the kernel
    // tells whether anybody else has it open.
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    let mut termios = tcgetattr(&slave)?;
    termios.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &termios)?;
    Ok(Opened::Pty { master, path })
}

#[cfg(test)]
#[path = "console_ports_test.rs"]
mod console_ports_test;
