//! Listening unix sockets in the file system, for the back ends of consoles and of the socket device:
//! private from their first moment, made in place of ones that a VMM left behind when it was killed, and
//! removed with their last user. Who connects, and what is said, is the devices' business.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::jail;
use rustix::fs::{FlockOperation, Mode, fchmod, flock};
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Longest path of a unix socket in bytes (unix(7), `sun_path` without its terminating zero).
pub const MAX_PATH: usize = 107;

/// How long to wait for others that make sockets in the same folder. Each takes microseconds.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

/// Why a socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A path that no socket can have.
    #[error(
        "the socket path {} has {} bytes, but the kernel takes at most {MAX_PATH}; use a shorter one, or a relative one",
        .0.display(), .0.as_os_str().len()
    )]
    PathTooLong(PathBuf),
    /// Somebody listens there.
    #[error(
        "another process, perhaps another VM, listens on the socket {}; stop it, or use another path",
        .0.display()
    )]
    InUse(PathBuf),
    /// Something else is there.
    #[error("{} exists and is not a socket; remove it, or use another path", .0.display())]
    NotASocket(PathBuf),
    /// The kernel refused.
    #[error(
        "cannot listen on the socket {}: {source}; check that its folder exists and can be written to",
        .path.display()
    )]
    Listen {
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Error {
    /// The same of another path: of the one that was meant where a shorter one was used.
    pub fn about(self, path: &Path) -> Self {
        let path = path.to_owned();
        match self {
            Self::PathTooLong(_) => Self::PathTooLong(path),
            Self::InUse(_) => Self::InUse(path),
            Self::NotASocket(_) => Self::NotASocket(path),
            Self::Listen { source, .. } => Self::Listen { path, source },
        }
    }
}

/// A listening stream socket that does not block. Its file goes with this value, unless another has
/// taken its place.
#[derive(Debug)]
pub struct UnixSocket {
    listener: Arc<UnixListener>,
    path: PathBuf,
    identity: Identity,
}

/// Device and inode. No other file has the same ones as long as the socket is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity(u64, u64);

impl UnixSocket {
    /// Makes the socket at `path` for this user alone (mode 0600), in place of one that nobody listens
    /// on any more; `backlog` clients may wait to be accepted.
    ///
    /// # Errors
    ///
    /// [`Error`] naming the path, the reason and the remedy.
    pub fn listen(path: &Path, backlog: i32) -> Result<Self, Error> {
        let listener = listen(path, backlog)?;
        let identity =
            Identity::of(path).map_err(|source| Error::Listen { path: path.to_owned(), source })?;
        Ok(Self { listener: Arc::new(listener), path: path.to_owned(), identity })
    }

    /// The socket, for whoever accepts.
    pub fn listener(&self) -> &Arc<UnixListener> {
        &self.listener
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if jail::is_closed() {
            // There are no paths here. Whoever is outside removes it.
            return;
        }
        let _lock = lock_folder(&self.path);
        if Identity::of(&self.path).is_ok_and(|identity| identity == self.identity) {
            // What cannot be removed is found stale by the next VM.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Identity {
    fn of(path: &Path) -> io::Result<Self> {
        fs::symlink_metadata(path).map(|file| Self(file.dev(), file.ino()))
    }
}

/// A listening socket as [`UnixSocket::listen`] makes it, whose file stays when it is closed.
///
/// # Errors
///
/// [`Error`] naming the path, the reason and the remedy.
pub fn listen(path: &Path, backlog: i32) -> Result<UnixListener, Error> {
    if path.as_os_str().len() > MAX_PATH {
        return Err(Error::PathTooLong(path.to_owned()));
    }
    // Between bind() and listen() a socket looks as though left behind, and what was left behind may be
    // another's new one by the time it is removed: one after the other.
    let _lock = lock_folder(path);
    let listener = match bind(path, backlog) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            remove_stale(path)?;
            bind(path, backlog)
        }
        result => result,
    };
    listener.map_err(|source| match source.kind() {
        ErrorKind::AddrInUse => Error::InUse(path.to_owned()),
        _ => Error::Listen { path: path.to_owned(), source },
    })
}

/// Connects to whoever listens at `path`, now or not at all: nothing waits for a full backlog. The
/// socket does not block.
///
/// # Errors
///
/// The kernel's answer: [`ErrorKind::NotFound`], [`ErrorKind::ConnectionRefused`] if nobody listens,
/// [`ErrorKind::WouldBlock`] if the backlog is full, or another.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = socket()?;
    net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// A stream socket on which nothing waits.
fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

fn bind(path: &Path, backlog: i32) -> io::Result<UnixListener> {
    let socket = socket()?;
    // Before it has a name, so that at no time somebody else can connect: Linux gives a socket's file the
    // mode of the socket (unix_bind_bsd()).
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    net::listen(&socket, backlog)?;
    Ok(socket.into())
}

/// Removes a socket nobody listens on.
fn remove_stale(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Listen { path: path.to_owned(), source };
    let file = match fs::symlink_metadata(path) {
        Ok(file) => file,
        // Gone meanwhile.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if !file.file_type().is_socket() {
        return Err(Error::NotASocket(path.to_owned()));
    }
    match connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Err(failed(error)),
        // Also when nobody accepts (a full backlog), or it is a socket of another type.
        Ok(_) | Err(_) => return Err(Error::InUse(path.to_owned())),
    }
    // Somebody without the lock may have been as quick.
    if Identity::of(path).ok() != Some(Identity(file.dev(), file.ino())) {
        return Err(Error::InUse(path.to_owned()));
    }
    fs::remove_file(path).map_err(failed)
}

/// Removes the socket at `path` if there is one that nobody listens on.
pub fn remove_if_stale(path: &Path) {
    let _lock = lock_folder(path);
    // One in use is another's by now.
    let _ = remove_stale(path);
}

/// Keeps other VMMs from making and removing sockets in the folder of `path`, until what is returned
/// is dropped. None where folders cannot be locked, or somebody keeps it locked on purpose: then two
/// VMMs that start at the same moment with the same path are told apart less well, and that is all.
fn lock_folder(path: &Path) -> Option<File> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let flags = libc::O_DIRECTORY | libc::O_NONBLOCK;
    let folder = folder.unwrap_or(Path::new("."));
    let folder = OpenOptions::new().read(true).custom_flags(flags).open(folder).ok()?;
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(folder),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
#[path = "unix_socket_test.rs"]
mod unix_socket_test;
