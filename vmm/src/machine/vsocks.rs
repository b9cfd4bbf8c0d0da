//! The host's side of a socket device: the unix sockets programs of the host use, by their paths.
//!
//! Programs connect to the socket at PATH, and listen at `PATH_P` for connections of the guest's
//! to port P. The socket is made once and outlives resets of the machine, so that programs that
//! connect meanwhile wait in its backlog; each machine gets a fresh device with it.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use devices::virtio::vsock::{Connector, Limits, Vsock};
use resources::config;
use rustix::fs::Mode;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Programs that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Why the host's side of a socket device cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody listens there.
    #[error(
        "the vsock socket {} is in use, perhaps by another VM; end that, or choose another path",
        .0.display()
    )]
    InUse(PathBuf),
    /// Something else is there.
    #[error(
        "the vsock socket {} cannot be made: there is a file of that name that is no socket; \
         remove it, or choose another path",
        .0.display()
    )]
    NotASocket(PathBuf),
    /// The kernel refused.
    #[error(
        "the vsock socket {} cannot be made: {source}; check that its folder exists and can be \
         written to",
        .path.display()
    )]
    Bind {
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A listening socket in the file system, removed with this value.
#[derive(Debug)]
pub struct VsockSocket {
    guest_cid: u32,
    listener: Arc<UnixListener>,
    path: PathBuf,
    /// Device and inode of the socket that was made, to remove no other.
    identity: Option<(u64, u64)>,
}

impl VsockSocket {
    /// Makes the socket that `config` names, for this user alone (mode 0600), in place of one
    /// that an earlier VM left behind.
    ///
    /// # Errors
    ///
    /// [`Error`] naming the path, the reason and the remedy.
    pub fn open(config: &config::Vsock) -> Result<Self, Error> {
        let path = config.socket.clone();
        let listener = match listen(&path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                remove_stale(&path)?;
                listen(&path)
            }
            result => result,
        };
        let listener = listener.map_err(|source| match source.kind() {
            ErrorKind::AddrInUse => Error::InUse(path.clone()),
            _ => Error::Bind { path: path.clone(), source },
        })?;
        let identity = identity(&path);
        Ok(Self { guest_cid: config.cid, listener: Arc::new(listener), path, identity })
    }

    /// A device for the next machine. Only one of them at a time is of use.
    pub fn device(&self) -> Vsock {
        let connector = Arc::new(Ports { path: self.path.clone() });
        Vsock::new(self.guest_cid, Arc::clone(&self.listener), connector, Limits::default())
    }
}

impl Drop for VsockSocket {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // What cannot be removed is found stale by the next VM.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Where the ports of the host's are.
#[derive(Debug)]
struct Ports {
    path: PathBuf,
}

impl Connector for Ports {
    fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let mut path = OsString::from(&self.path);
        path.push(format!("_{port}"));
        connect(Path::new(&path))
    }
}

/// A stream socket on which nothing waits.
fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

/// Connects now or not at all: whoever listens there may have a full backlog.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = socket()?;
    net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = socket()?;
    // Before it has a name, so that at no time somebody else can connect (Linux gives a socket's
    // file the mode of the socket).
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Removes a socket nobody listens on.
fn remove_stale(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Bind { path: path.to_owned(), source };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        // Gone meanwhile.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(Error::NotASocket(path.to_owned()));
    }
    match connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Err(failed(error)),
        // Also when nobody accepts (a full backlog), or it is a socket of another type.
        Ok(_) | Err(_) => return Err(Error::InUse(path.to_owned())),
    }
    // Another VM may have been as quick.
    if identity(path) != Some((metadata.dev(), metadata.ino())) {
        return Err(Error::InUse(path.to_owned()));
    }
    fs::remove_file(path).map_err(failed)
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
#[path = "vsocks_test.rs"]
mod vsocks_test;
