use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixListener;

use devices::virtio::VirtioDevice;
use tempfile::TempDir;

use super::*;

fn config(dir: &TempDir) -> config::Vsock {
    config::Vsock { cid: 7, socket: dir.path().join("vm.vsock") }
}

#[test]
fn the_socket_lives_as_long_as_the_vm() {
    let dir = TempDir::new().unwrap();
    let config = config(&dir);
    let socket = VsockSocket::open(&config).unwrap();
    drop(socket.device());
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
fn a_socket_that_cannot_be_had_is_the_vsocks() {
    let dir = TempDir::new().unwrap();
    let config = config(&dir);
    fs::write(&config.socket, "precious").unwrap();
    let error = VsockSocket::open(&config).unwrap_err().to_string();
    assert!(error.contains("vsock") && error.contains("is not a socket"), "{error}");
}

#[test]
fn ports_are_sockets_beside_it() {
    let dir = TempDir::new().unwrap();
    let ports = Ports { path: config(&dir).socket, folder: Arc::default() };
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
