//! Sockets in the file system: whose they are, and when they go.

use std::os::unix::fs::PermissionsExt;
use std::sync::Barrier;

use tempfile::{TempDir, tempdir};

use super::*;

fn at(dir: &TempDir) -> PathBuf {
    dir.path().join("socket")
}

#[test]
fn a_socket_is_the_users_alone_and_goes_with_its_value() {
    let dir = tempdir().unwrap();
    let socket = UnixSocket::listen(&at(&dir), 1).unwrap();
    let mode = fs::symlink_metadata(at(&dir)).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    UnixStream::connect(socket.path()).unwrap();
    socket.listener().accept().unwrap();
    assert_eq!(socket.listener().accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(socket);
    assert!(!at(&dir).exists());
}

#[test]
fn a_socket_nobody_listens_on_is_replaced() {
    let dir = tempdir().unwrap();
    drop(UnixListener::bind(at(&dir)).unwrap());
    let _socket = UnixSocket::listen(&at(&dir), 1).unwrap();
    UnixStream::connect(at(&dir)).unwrap();
}

#[test]
fn a_socket_in_use_and_a_file_are_left_alone() {
    let dir = tempdir().unwrap();
    let first = UnixSocket::listen(&at(&dir), 0).unwrap();
    // One look fills the backlog, as nobody accepts.
    for _ in 0..3 {
        let error = UnixSocket::listen(&at(&dir), 1).unwrap_err();
        assert!(matches!(error, Error::InUse(_)), "{error}");
    }
    drop(first);
    fs::write(at(&dir), "precious").unwrap();
    assert!(matches!(UnixSocket::listen(&at(&dir), 1), Err(Error::NotASocket(_))));
    assert_eq!(fs::read(at(&dir)).unwrap(), b"precious");
}

#[test]
fn what_has_taken_the_sockets_place_is_not_removed() {
    let dir = tempdir().unwrap();
    let socket = UnixSocket::listen(&at(&dir), 1).unwrap();
    fs::remove_file(at(&dir)).unwrap();
    let other = UnixSocket::listen(&at(&dir), 1).unwrap();
    drop(socket);
    assert!(at(&dir).exists());
    drop(other);
    assert!(!at(&dir).exists());
}

#[test]
fn of_many_at_once_one_gets_a_socket_left_behind() {
    let dir = tempdir().unwrap();
    for _ in 0..50 {
        drop(UnixListener::bind(at(&dir)).unwrap());
        let together = Barrier::new(4);
        let attempt = || {
            together.wait();
            UnixSocket::listen(&at(&dir), 16)
        };
        let results: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(attempt)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let winners = results.iter().filter(|result| result.is_ok()).count();
        assert_eq!(winners, 1, "{results:?}");
        UnixStream::connect(at(&dir)).unwrap();
    }
}

#[test]
fn a_folder_that_stays_locked_is_not_waited_for_long() {
    let dir = tempdir().unwrap();
    let _lock = lock_folder(&at(&dir)).unwrap();
    let start = Instant::now();
    UnixSocket::listen(&at(&dir), 1).unwrap();
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn paths_have_a_limit_and_folders_must_be_there() {
    let dir = tempdir().unwrap();
    let path = |len| dir.path().join("x".repeat(len - dir.path().as_os_str().len() - 1));
    UnixSocket::listen(&path(MAX_PATH), 1).unwrap();
    let error = UnixSocket::listen(&path(MAX_PATH + 1), 1).unwrap_err().to_string();
    assert!(error.contains("has 108 bytes") && error.contains("at most 107"), "{error}");
    let error = UnixSocket::listen(Path::new("/nonexistent/x"), 1).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/x") && error.contains("check that"), "{error}");
}

#[test]
fn a_full_backlog_is_not_waited_for() {
    let dir = tempdir().unwrap();
    assert_eq!(connect(&at(&dir)).unwrap_err().kind(), ErrorKind::NotFound);
    let _socket = UnixSocket::listen(&at(&dir), 1).unwrap();
    let waiting: Vec<_> = (0..8).map_while(|_| connect(&at(&dir)).ok()).collect();
    assert!((1..8).contains(&waiting.len()));
    assert_eq!(connect(&at(&dir)).unwrap_err().kind(), ErrorKind::WouldBlock);
}
