//! The host's side of the virtio console's ports: opened once, before the machine is built, and given
//! to a fresh device after every reset.
//!
//! What goes through them is the device's business ([`devices::virtio::console`]); what is wanted is
//! the configuration's ([`resources::config::ConsolePort`]).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use devices::virtio::console::{self, BackEnd, Console, Handle, Port};
use resources::config::{ConsolePort, ConsoleTarget};
use rustix::fs::{Mode, OFlags, fchmod, fcntl_setfl, open};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

/// Longest path of a unix socket in bytes (unix(7), `sun_path` without its terminating zero).
const MAX_SOCKET_PATH: usize = 107;
/// Clients that wait while another is connected.
const BACKLOG: i32 = 16;

/// Why a port's host side cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be opened.
    #[error("cannot open {} for console output: {source}; check the path and its permissions", .path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No pseudo-terminal.
    #[error("cannot make a pseudo-terminal for a console: {0}; is /dev/pts mounted?")]
    Pty(io::Error),
    /// A path that no socket can have.
    #[error(
        "the socket path {} has {} bytes, but the kernel takes at most {MAX_SOCKET_PATH}; use a shorter one, or a relative one",
        .0.display(), .0.as_os_str().len()
    )]
    SocketPathTooLong(PathBuf),
    /// Somebody else listens there.
    #[error("another process listens on the socket {}; stop it, or use another path", .0.display())]
    SocketInUse(PathBuf),
    /// Something else is there.
    #[error("{} exists and is not a socket; remove it, or use another path", .0.display())]
    NotASocket(PathBuf),
    /// The socket cannot be made.
    #[error("cannot listen on the socket {}: {source}; check its folder and permissions", .path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
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

/// One port's host side.
#[derive(Debug)]
enum Opened {
    Files { input: Option<OwnedFd>, output: Option<OwnedFd> },
    Pty { master: OwnedFd, path: PathBuf },
    Socket { listener: OwnedFd, made: MadeSocket },
}

/// A socket file, removed with its last user, unless another has taken its place.
#[derive(Debug)]
struct MadeSocket {
    path: PathBuf,
    device_and_inode: (u64, u64),
}

impl Drop for MadeSocket {
    fn drop(&mut self) {
        let identity = |path| fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()));
        if identity(&self.path).is_ok_and(|identity| identity == self.device_and_inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The host sides of all ports of a VM, over its resets.
#[derive(Debug)]
pub struct ConsoleBackEnds {
    /// Consoles first: port 0 is one if any is.
    ports: Vec<(Option<String>, Opened)>,
    handle: Arc<Handle>,
}

impl ConsoleBackEnds {
    /// Opens what `ports` name, at least one; the port that is `stdio` gets `stdio`.
    ///
    /// # Errors
    ///
    /// [`Error`] naming the value, the reason and the remedy.
    pub fn open(ports: &[ConsolePort], mut stdio: Option<Stdio>) -> Result<Self, Error> {
        let handle = Handle::new().map_err(Error::Descriptors)?;
        let (consoles, streams): (Vec<_>, Vec<_>) =
            ports.iter().partition(|port| port.name.is_none());
        let opened = consoles.into_iter().chain(streams).map(|port| {
            let name = port.name.as_ref().map(ToString::to_string);
            open_target(&port.target, &mut stdio).map(|opened| (name, opened))
        });
        Ok(Self { ports: opened.collect::<Result<_, _>>()?, handle })
    }

    /// What resizes the consoles, over all resets.
    pub fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }

    /// The pseudo-terminals that were made: the names of their ports, if they have one, and the paths
    /// to open them by.
    pub fn terminals(&self) -> impl Iterator<Item = (Option<&str>, &Path)> {
        self.ports.iter().filter_map(|(name, opened)| match opened {
            Opened::Pty { path, .. } => Some((name.as_deref(), path.as_path())),
            Opened::Files { .. } | Opened::Socket { .. } => None,
        })
    }

    /// A fresh device with these ports. At most one may be in use at a time. A client of a socket
    /// stays with the device it came to: it is disconnected when that is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Descriptors`], [`Error::Device`]
    pub fn device(&self) -> Result<Console, Error> {
        let port = |(name, opened): &(Option<String>, Opened)| {
            let back_end = opened.back_end().map_err(Error::Descriptors)?;
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
            Self::Socket { listener, .. } => BackEnd::Listener(listener.try_clone()?),
        })
    }
}

fn open_target(target: &ConsoleTarget, stdio: &mut Option<Stdio>) -> Result<Opened, Error> {
    match target {
        ConsoleTarget::Off => Ok(Opened::Files { input: None, output: None }),
        ConsoleTarget::Stdio => {
            let (input, output) = stdio.take().map(|stdio| (stdio.input, stdio.output)).unzip();
            Ok(Opened::Files { input, output })
        }
        ConsoleTarget::File(path) => {
            let output =
                open_file(path).map_err(|source| Error::File { path: path.clone(), source })?;
            Ok(Opened::Files { input: None, output: Some(output.into()) })
        }
        ConsoleTarget::Pty => open_pty().map_err(|error| Error::Pty(error.into())),
        ConsoleTarget::Socket(path) => open_socket(path),
    }
}

/// A descriptor of the file behind `fd` that never blocks, if there can be one.
///
/// O_NONBLOCK belongs to what `fd` shares with other processes, such as the shell, so pipes and
/// terminals are opened once more; what cannot be is shared as it is.
pub(crate) fn own_description(fd: BorrowedFd<'_>, access: OFlags) -> io::Result<OwnedFd> {
    let shared = fd.try_clone_to_owned()?;
    let kind = File::from(shared.try_clone()?).metadata()?.file_type();
    if !kind.is_fifo() && !kind.is_char_device() {
        return Ok(shared);
    }
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(open(path, flags, Mode::empty()).unwrap_or(shared))
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

fn open_socket(path: &Path) -> Result<Opened, Error> {
    let fail = |source: io::Error| Error::Socket { path: path.to_owned(), source };
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        return Err(Error::SocketPathTooLong(path.to_owned()));
    }
    let address = SocketAddrUnix::new(path).map_err(|error| fail(error.into()))?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = || socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    remove_stale_socket(path, || connect(socket()?, &address))?;
    let listener = socket().map_err(|error| fail(error.into()))?;
    // Linux gives the file the mode of the socket, so that nobody else ever gets in (unix_bind()).
    fchmod(&listener, Mode::RUSR | Mode::WUSR)
        .and_then(|()| bind(&listener, &address))
        .and_then(|()| listen(&listener, BACKLOG))
        .map_err(|error| fail(error.into()))?;
    let file = fs::symlink_metadata(path).map_err(fail)?;
    let made = MadeSocket { path: path.to_owned(), device_and_inode: (file.dev(), file.ino()) };
    Ok(Opened::Socket { listener, made })
}

/// Removes a socket file that nobody listens on any more, as one left by a VMM that was killed.
fn remove_stale_socket(
    path: &Path,
    connect: impl FnOnce() -> rustix::io::Result<()>,
) -> Result<(), Error> {
    let fail = |source: io::Error| Error::Socket { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail(error)),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(Error::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match connect() {
        Err(rustix::io::Errno::CONNREFUSED) => fs::remove_file(path).map_err(fail),
        // Its backlog is full.
        Ok(()) | Err(rustix::io::Errno::AGAIN) => Err(Error::SocketInUse(path.to_owned())),
        Err(error) => Err(fail(error.into())),
    }
}

#[cfg(test)]
#[path = "console_ports_test.rs"]
mod console_ports_test;
