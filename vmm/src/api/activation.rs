//! A listening socket from whoever started this process, as systemd passes it (sd_listen_fds(3)): `LISTEN_PID` names
//! the process that is meant, `LISTEN_FDS` how many descriptors there are, the first of them 3.
#![allow(unsafe_code)] // Takes over a descriptor by its number.

use std::env;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};

/// The first descriptor that is passed.
const FIRST: i32 = 3;

/// What was passed is not what can be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not one.
    #[error(
        "LISTEN_FDS is {0:?}, but one socket can be served; give the socket unit one ListenStream="
    )]
    Count(String),
    /// Not a socket that listens.
    #[error(
        "descriptor {FIRST}, which LISTEN_FDS speaks of, is no listening unix stream socket; give the socket unit a \
         ListenStream= with a path, and no Accept=yes"
    )]
    Kind,
}

/// The socket that was passed to this process; nothing if none was. It is taken once. Call it before anything that
/// opens a listening socket.
///
/// # Errors
///
/// [`Error`].
pub fn listener() -> Result<Option<UnixListener>, Error> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let variable = |name| env::var(name).ok();
    let passed = is_passed(variable("LISTEN_PID"), variable("LISTEN_FDS"), std::process::id())?;
    if !passed || TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(None);
    }
    // SAFETY: only asked for what it is; a number that is no descriptor is an error then.
    let found = unsafe { BorrowedFd::borrow_raw(FIRST) };
    let Ok(flags) = fcntl_getfd(found) else { return Err(Error::Kind) };
    if !listens(found) || fcntl_setfd(found, flags | FdFlags::CLOEXEC).is_err() {
        return Err(Error::Kind);
    }
    // SAFETY: a listening socket, of which this process has opened none by then; it was passed to own, and is taken once.
    let socket = unsafe { OwnedFd::from_raw_fd(FIRST) };
    Ok(Some(UnixListener::from(socket)))
}

/// Whether the variables speak of a socket for the process `own`.
fn is_passed(pid: Option<String>, count: Option<String>, own: u32) -> Result<bool, Error> {
    // Those of a parent process are not meant for this one.
    if pid.and_then(|pid| pid.parse().ok()) != Some(own) {
        return Ok(false);
    }
    match count.as_deref() {
        None | Some("0") => Ok(false),
        Some("1") => Ok(true),
        Some(other) => Err(Error::Count(other.to_owned())),
    }
}

fn listens(socket: BorrowedFd<'_>) -> bool {
    socket_domain(socket) == Ok(AddressFamily::UNIX)
        && socket_type(socket) == Ok(SocketType::STREAM)
        && socket_acceptconn(socket) == Ok(true)
}

#[cfg(test)]
mod activation_test {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_socket_is_taken_if_it_is_meant_for_this_process() {
        let passed = |pid: &str, count: &str| is_passed(Some(pid.into()), Some(count.into()), 7);
        assert_eq!(passed("7", "1"), Ok(true));
        assert_eq!(passed("7", "0"), Ok(false));
        assert_eq!(passed("8", "1"), Ok(false));
        assert_eq!(passed("x", "1"), Ok(false));
        assert_eq!(is_passed(None, Some("1".into()), 7), Ok(false));
        assert_eq!(passed("7", "2"), Err(Error::Count("2".into())));
        assert_eq!(passed("7", "all"), Err(Error::Count("all".into())));
    }

    #[test]
    fn what_does_not_listen_is_told_from_what_does() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("s")).unwrap();
        assert!(listens(listener.as_fd()));
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(!listens(one.as_fd()));
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!listens(tcp.as_fd()));
    }
}
