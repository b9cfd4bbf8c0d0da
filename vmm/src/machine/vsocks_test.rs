use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;

use devices::virtio::VirtioDevice;
use tempfile::TempDir;

use super::*;

fn config(dir: &TempDir) -> config::Vsock {
    config::Vsock { cid: 7, socket: dir.path().join("vm.vsock") }
}

#[test]
fn the_socket_is_the_users_alone_and_goes_with_the_vm() {
    let dir = TempDir::new().unwrap();
    let config = config(&dir);
    let socket = VsockSocket::open(&config).unwrap();
    let metadata = fs::symlink_metadata(&config.socket).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    UnixStream::connect(&config.socket).unwrap();
    drop(socket);
    assert!(!config.socket.exists());
}

#[test]
fn every_machine_gets_a_device_of_the_same_guest() {
    let dir = TempDir::new().unwrap();
    let socket = VsockSocket::open(&config(&dir)).unwrap();
    for _ in 0..2 {
        let mut cid = [0; 8];
        socket.device().read_config(0, &mut cid);
        assert_eq!(u64::from_le_bytes(cid), 7);
    }
}

#[test]
fn a_socket_nobody_listens_on_is_replaced() {
    let dir = TempDir::new().unwrap();
    let config = config(&dir);
    drop(UnixListener::bind(&config.socket).unwrap());
    let _socket = VsockSocket::open(&config).unwrap();
    UnixStream::connect(&config.socket).unwrap();
}

#[test]
fn a_socket_in_use_and_a_file_are_left_alone() {
    let dir = TempDir::new().unwrap();
    let config = config(&dir);
    let first = VsockSocket::open(&config).unwrap();
    let error = VsockSocket::open(&config).unwrap_err();
    assert!(matches!(error, Error::InUse(_)));
    assert!(error.to_string().contains("vm.vsock is in use"));
    assert!(config.socket.exists());
    drop(first);
    fs::write(&config.socket, "precious").unwrap();
    assert!(matches!(VsockSocket::open(&config), Err(Error::NotASocket(_))));
    assert_eq!(fs::read(&config.socket).unwrap(), b"precious");
}

#[test]
fn what_has_taken_the_sockets_place_is_not_removed() {
    let dir = TempDir::new().unwrap();
    let config = config(&dir);
    let socket = VsockSocket::open(&config).unwrap();
    fs::rename(&config.socket, dir.path().join("away")).unwrap();
    fs::write(&config.socket, "new").unwrap();
    drop(socket);
    assert!(config.socket.exists());
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let config = config::Vsock { cid: 7, socket: "/nowhere/vm.vsock".into() };
    let error = VsockSocket::open(&config).unwrap_err().to_string();
    assert!(error.contains("/nowhere/vm.vsock") && error.contains("check that"), "{error}");
}

#[test]
fn ports_are_sockets_beside_it() {
    let dir = TempDir::new().unwrap();
    let ports = Ports { path: config(&dir).socket };
    assert_eq!(ports.connect(1024).unwrap_err().kind(), ErrorKind::NotFound);
    let program = UnixListener::bind(dir.path().join("vm.vsock_1024")).unwrap();
    let mut guest = ports.connect(1024).unwrap();
    guest.write_all(b"hello").unwrap();
    let mut bytes = [0; 5];
    program.accept().unwrap().0.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    drop(program);
    assert_eq!(ports.connect(1024).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_program_that_does_not_accept_is_not_waited_for() {
    let dir = TempDir::new().unwrap();
    let ports = Ports { path: config(&dir).socket };
    let socket = socket().unwrap();
    net::bind(&socket, &SocketAddrUnix::new(dir.path().join("vm.vsock_1")).unwrap()).unwrap();
    net::listen(&socket, 1).unwrap();
    let waiting: Vec<_> = (0..8).map_while(|_| ports.connect(1).ok()).collect();
    assert!((1..8).contains(&waiting.len()));
    assert_eq!(ports.connect(1).unwrap_err().kind(), ErrorKind::WouldBlock);
}
