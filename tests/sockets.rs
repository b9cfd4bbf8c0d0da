//! Streams between programs of guests and sockets of the host. Runs on a KVM host (`cargo xtask host`).
#![allow(clippy::unwrap_used, unsafe_code, missing_docs)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use support::guests::{BOOT, DEFAULT, Guest, LONG, assert_clean, value};
use support::{md5sum, pattern};
use tempfile::{TempDir, tempdir};

const MIB: usize = 1 << 20;

/// Sends what it reads back to every program that connects to port 1024.
const ECHO: &str = "socat VSOCK-LISTEN:1024,fork,reuseaddr EXEC:cat,nofork";

/// A guest with a socket device, and where its sockets are.
fn with_vsock(transport: &str) -> (Guest, TempDir) {
    let folder = tempdir().unwrap();
    let arguments =
        format!("--transport {transport} --vsock cid=42,socket={}/v", folder.path().display());
    (Guest::debian(DEFAULT, "ext4").with(&arguments), folder)
}

/// Connects to `port` of the guest.
#[track_caller]
fn connect(folder: &TempDir, port: u32) -> BufReader<UnixStream> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let stream = UnixStream::connect(folder.path().join("v")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let mut stream = BufReader::new(stream);
        stream.get_mut().write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        // Nobody listens yet: the connection is closed without a word.
        let count = stream.read_line(&mut answer).unwrap_or(0);
        if count > 0 {
            assert!(answer.starts_with("OK "), "{answer}");
            return stream;
        }
        assert!(Instant::now() < deadline, "nobody listens on port {port} in the guest");
        thread::sleep(Duration::from_millis(100));
    }
}

/// Sends `mib` MiB through an echo in the guest; every byte must come back.
#[track_caller]
fn echoes(transport: &str, mib: usize) {
    let (guest, folder) = with_vsock(transport);
    let mut guest = guest.start(Some(&format!("{ECHO} & echo listening; read line; kill %1")));
    guest.wait_for("listening", BOOT);
    let mut stream = connect(&folder, 1024);
    let mut writer = stream.get_ref().try_clone().unwrap();
    let piece = pattern(MIB);
    let mut outgoing = piece.clone();
    let sender = thread::spawn(move || {
        for number in 0..mib {
            outgoing[..8].copy_from_slice(&number.to_le_bytes());
            writer.write_all(&outgoing).unwrap();
        }
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut received = vec![0; MIB];
    for number in 0..mib {
        stream.read_exact(&mut received).unwrap();
        let whole = received[..8] == number.to_le_bytes() && received[8..] == piece[8..];
        assert!(whole, "MiB {number} of {mib} came back changed");
    }
    assert_eq!(stream.read(&mut received).unwrap(), 0, "more came back than was sent");
    sender.join().unwrap();
    guest.send(b"\n");
    assert_clean(&guest.finish(LONG).expect(0).text());
}

#[track_caller]
fn guest_connects(transport: &str) {
    let (guest, folder) = with_vsock(transport);
    let listener = UnixListener::bind(folder.path().join("v_7000")).unwrap();
    let host = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut received = Vec::new();
        // The guest closes its half first, and still hears the answer.
        stream.read_to_end(&mut received).unwrap();
        stream.write_all(format!("{} bytes\n", received.len()).as_bytes()).unwrap();
        received
    });
    let script = "head -c 4M /dev/urandom > /tmp/r; md5sum < /tmp/r | sed 's/^/sum=/'; \
        echo answer=$(socat -t 60 - VSOCK-CONNECT:2:7000 < /tmp/r); \
        socat -u OPEN:/tmp/r VSOCK-CONNECT:2:7001 2>/dev/null; echo refused=$?";
    let log = guest.run(script).expect(0).text();
    let received = host.join().unwrap();
    assert_eq!(value(&log, "answer"), format!("{} bytes", 4 * MIB));
    assert!(value(&log, "sum").starts_with(&md5sum(&received)), "other bytes arrived");
    assert_eq!(value(&log, "refused"), "1");
}

#[track_caller]
fn thousand_connections(transport: &str) {
    let (guest, folder) = with_vsock(transport);
    let script = "socat VSOCK-LISTEN:1024,fork,reuseaddr,backlog=1024 PIPE & echo listening; read line; kill %1";
    let mut guest = guest.with("--memory 1GiB").start(Some(script));
    guest.wait_for("listening", BOOT);
    let mut streams: Vec<_> = (0..1000).map(|_| connect(&folder, 1024)).collect();
    for (index, stream) in streams.iter_mut().enumerate() {
        stream.get_mut().write_all(format!("connection {index}\n").as_bytes()).unwrap();
    }
    for (index, stream) in streams.iter_mut().enumerate() {
        let mut answer = String::new();
        stream.read_line(&mut answer).unwrap();
        assert_eq!(answer, format!("connection {index}\n"));
    }
    drop(streams);
    guest.send(b"\n");
    assert_clean(&guest.finish(LONG).expect(0).text());
}

support::on_pci_and_mmio! {
    // A gigabyte, and some.
    a_program_of_the_guest_echoes_over_a_socket: echoes(1024);
    the_guest_connects_to_programs_of_the_host: guest_connects();
    a_thousand_connections_at_once_each_have_their_own_bytes: thousand_connections();
}
