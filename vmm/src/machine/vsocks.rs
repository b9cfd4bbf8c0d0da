//! The host's side of a socket device: the unix sockets programs of the host use, by their paths.
//!
//! Programs connect to the socket at PATH, and listen at `PATH_P` for connections of the guest's
//! to port P. The socket is made once and outlives resets of the machine, so that programs that
//! connect meanwhile wait in its backlog; each machine gets a fresh device with it.

use std::ffi::OsString;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use devices::virtio::vsock::{Connector, Limits, Vsock};
use resources::config;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::unix_socket::{self, UnixSocket};

/// Descriptors left for everything but connections where the host's limit on them is low.
const OTHER_DESCRIPTORS: u64 = 256;

/// Programs that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Why the host's side of a socket device cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("the vsock device cannot have its socket: {0}")]
pub struct Error(#[from] unix_socket::Error);

/// The host's side of a socket device, over the resets of its machine.
#[derive(Debug)]
pub struct VsockSocket {
    guest_cid: u32,
    socket: UnixSocket,
    limits: Limits,
    /// Where the socket's folder is, if not where it was.
    folder: Arc<OnceLock<PathBuf>>,
}

impl VsockSocket {
    /// Makes the socket that `config` names, for this user alone (mode 0600), in place of one
    /// that an earlier VM left behind; and raises this process's limit on descriptors to what it may
    /// have, as every connection is one.
    ///
    /// # Errors
    ///
    /// [`Error`] naming the path, the reason and the remedy.
    pub fn open(config: &config::Vsock) -> Result<Self, Error> {
        let socket = UnixSocket::listen(&config.socket, BACKLOG)?;
        Ok(Self { guest_cid: config.cid, socket, limits: limits(), folder: Arc::default() })
    }

    /// From now on the socket's folder is `folder`.
    pub fn moved(&self, folder: PathBuf) {
        let _ = self.folder.set(folder);
    }

    /// A device for the next machine. Only one of them at a time is of use.
    pub fn device(&self) -> Vsock {
        let connector = Arc::new(Ports {
            path: self.socket.path().to_owned(),
            folder: Arc::clone(&self.folder),
        });
        let listener = Arc::clone(self.socket.listener());
        Vsock::new(self.guest_cid, listener, connector, self.limits)
    }
}

/// As many connections as a device is for, or as this process can have descriptors.
fn limits() -> Limits {
    let own = getrlimit(Resource::Nofile);
    // A limit that cannot be raised stays as it is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: own.maximum, ..own });
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let spare = descriptors.saturating_sub(OTHER_DESCRIPTORS).max(descriptors / 2);
    let most = Limits::default();
    let connections = usize::try_from(spare).unwrap_or(usize::MAX).min(most.connections);
    Limits { connections, ..most }
}

/// Where the ports of the host's are.
#[derive(Debug)]
struct Ports {
    path: PathBuf,
    folder: Arc<OnceLock<PathBuf>>,
}

impl Connector for Ports {
    fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let mut path = match (self.folder.get(), self.path.file_name()) {
            (Some(folder), Some(name)) => folder.join(name).into_os_string(),
            _ => OsString::from(&self.path),
        };
        path.push(format!("_{port}"));
        unix_socket::connect(Path::new(&path))
    }
}

#[cfg(test)]
#[path = "vsocks_test.rs"]
mod vsocks_test;
