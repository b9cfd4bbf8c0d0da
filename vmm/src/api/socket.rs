//! Unix sockets under paths of any length: where a guest's control interface listens.
//!
//! The kernel takes 107 bytes (unix(7)). A longer path is named by its folder, held open, as
//! `/proc/self/fd/N/name`; only the last part is bounded then.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::problem::{Kind, Problem};
use crate::machine::unix_socket::{self, Error, MAX_PATH};

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 128;

/// How often it is tried again when as many wait already.
const AGAIN: Duration = Duration::from_millis(5);

/// Listens at `path`, for this user alone (mode 0600), in place of a socket that nobody listens on any
/// more. The file stays until somebody removes it.
///
/// # Errors
///
/// [`Error`] naming the path, the reason and the remedy.
pub fn bind(path: &Path) -> Result<UnixListener, Error> {
    let listen = |source| Error::Listen { path: path.to_owned(), source };
    let place = Place::of(path).map_err(listen)?;
    unix_socket::listen(&place.path, BACKLOG).map_err(|error| error.about(path))
}

/// Connects to whoever listens at `path`, within `patience`. The socket blocks.
///
/// # Errors
///
/// The kernel's answer: [`ErrorKind::NotFound`], [`ErrorKind::ConnectionRefused`] if nobody listens,
/// [`ErrorKind::TimedOut`] if others wait there already and nobody is let in, or another.
pub fn connect(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let place = Place::of(path)?;
    let until = Instant::now() + patience;
    loop {
        match unix_socket::connect(&place.path) {
            Ok(stream) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if Instant::now() >= until {
                    return Err(ErrorKind::TimedOut.into());
                }
                thread::sleep(AGAIN);
            }
            Err(error) => return Err(error),
        }
    }
}

/// A path short enough for the kernel, as long as the folder is held open.
struct Place<'a> {
    path: Cow<'a, Path>,
    _folder: Option<File>,
}

impl<'a> Place<'a> {
    fn of(path: &'a Path) -> io::Result<Self> {
        if path.as_os_str().len() <= MAX_PATH {
            return Ok(Self { path: Cow::Borrowed(path), _folder: None });
        }
        let name = path.file_name().unwrap_or(OsStr::new(""));
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let folder = path.parent().unwrap_or(Path::new("."));
        let folder = OpenOptions::new().read(true).custom_flags(flags).open(folder)?;
        let mut short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
        short.push(name);
        Ok(Self { path: Cow::Owned(short), _folder: Some(folder) })
    }
}

/// Whether the other end of a socket is this process' user, or root.
///
/// # Errors
///
/// [`Kind::Forbidden`], also if the kernel does not say who it is.
pub fn check_peer(socket: &UnixStream) -> Result<(), Problem> {
    let own = rustix::process::geteuid();
    match rustix::net::sockopt::socket_peercred(socket) {
        Ok(peer) if peer.uid == own || peer.uid.is_root() => Ok(()),
        Ok(peer) => {
            let (own, peer) = (own.as_raw(), peer.uid.as_raw());
            let detail = format!("this belongs to the user with id {own}, not to {peer}");
            Err(Problem::new(Kind::Forbidden, detail))
        }
        Err(error) => {
            let error = io::Error::from(error);
            Err(Problem::new(Kind::Forbidden, format!("who asks cannot be told: {error}")))
        }
    }
}

#[cfg(test)]
mod socket_test {
    use std::fs;
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn paths_may_be_longer_than_the_kernel_takes() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("x".repeat(100)).join("y".repeat(100));
        fs::create_dir_all(&folder).unwrap();
        for path in [dir.path().join("api.sock"), folder.join("api.sock")] {
            let listener = bind(&path).unwrap();
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let mut client = connect(&path, Duration::from_secs(5)).unwrap();
            client.write_all(b"x").unwrap();
            drop(client);
            let mut heard = Vec::new();
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_nonblocking(false).unwrap();
            stream.read_to_end(&mut heard).unwrap();
            assert_eq!(heard, b"x");

            let error = bind(&path).unwrap_err();
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
            drop(listener);
            let error = connect(&path, Duration::from_secs(5)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
            drop(bind(&path).unwrap());
        }
        let error = bind(&folder.join("z".repeat(200))).unwrap_err();
        assert!(matches!(error, Error::PathTooLong(_)), "{error}");
    }

    #[test]
    fn a_full_backlog_is_waited_for_as_long_as_was_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let _listener = unix_socket::listen(&path, 0).unwrap();
        let _first = connect(&path, Duration::ZERO).unwrap();
        let error = connect(&path, Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
}
