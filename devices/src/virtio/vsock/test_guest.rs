//! A guest with a socket driver, and a host with programs, for the tests beside.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::packet::{HOST_CID, Header, LEN, TYPE_STREAM, op};
use super::*;
use crate::virtio::test_driver::{Driver, Part, wait};

pub(super) const CID: u64 = 42;
/// Room for payload in each buffer for packets, as in Linux guests.
pub(super) const ROOM: usize = 4096;
const RX_BUFFERS: usize = 100;
const TX_BUFFERS: usize = 100;

pub(super) struct Guest {
    pub driver: Driver<Vsock>,
    dir: TempDir,
    listener: Arc<UnixListener>,
    limits: Limits,
    /// Packets received and not looked at.
    inbox: VecDeque<(Header, Vec<u8>)>,
    rx_posted: usize,
    tx_posted: usize,
    /// It gives no buffers for packets.
    pub starves: bool,
    /// The parts of the nth of its buffers for packets.
    pub shape: fn(usize) -> Vec<usize>,
    given: usize,
}

struct Sockets(PathBuf);

impl Connector for Sockets {
    fn connect(&self, port: u32) -> io::Result<UnixStream> {
        UnixStream::connect(port_path(&self.0, port))
    }
}

fn port_path(dir: &Path, port: u32) -> PathBuf {
    dir.join(format!("v_{port}"))
}

/// Patience of tests that wait for it to end.
pub(super) fn impatient() -> Limits {
    let short = Duration::from_millis(50);
    Limits { handshake: short, close: short, linger: short, ..Limits::default() }
}

impl Guest {
    pub(super) fn new() -> Self {
        Self::with(Limits::default())
    }

    pub(super) fn with(limits: Limits) -> Self {
        let dir = TempDir::new().unwrap();
        let listener = Arc::new(UnixListener::bind(dir.path().join("v")).unwrap());
        let device = device(&dir, &listener, limits);
        let driver = Driver::new(device, u64::MAX);
        let mut guest = Self {
            driver,
            dir,
            listener,
            limits,
            inbox: VecDeque::new(),
            rx_posted: 0,
            tx_posted: 0,
            starves: false,
            shape: |_| vec![LEN + ROOM],
            given: 0,
        };
        guest.refill();
        guest
    }

    /// A fresh device of the same host.
    pub(super) fn device(&self) -> Vsock {
        device(&self.dir, &self.listener, self.limits)
    }

    /// A program of the host that has not yet said what it wants.
    pub(super) fn host_connects(&self) -> UnixStream {
        let socket = UnixStream::connect(self.dir.path().join("v")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    }

    /// A program of the host that listens on `port`.
    pub(super) fn host_listens(&self, port: u32) -> UnixListener {
        UnixListener::bind(port_path(self.dir.path(), port)).unwrap()
    }

    fn refill(&mut self) {
        let queue = &mut self.driver.queues[usize::from(RX)];
        let before = self.rx_posted;
        while !self.starves && self.rx_posted < RX_BUFFERS {
            let parts: Vec<_> = (self.shape)(self.given).into_iter().map(Part::In).collect();
            queue.post_indirect(0, &parts);
            self.given += 1;
            self.rx_posted += 1;
        }
        if self.rx_posted > before {
            queue.kick();
        }
    }

    /// Takes what has arrived.
    pub(super) fn poll(&mut self) {
        while let Some((_, bytes)) = self.driver.queues[usize::from(RX)].poll_used() {
            self.rx_posted -= 1;
            let header = Header::decode(bytes[..LEN].try_into().unwrap());
            assert_eq!(header.len as usize, bytes.len() - LEN);
            assert_eq!((header.dst_cid, header.len > 0), (CID, header.op == op::RW));
            self.inbox.push_back((header, bytes[LEN..].to_vec()));
        }
        self.refill();
    }

    pub(super) fn try_receive(&mut self) -> Option<(Header, Vec<u8>)> {
        if self.inbox.is_empty() {
            self.poll();
        }
        self.inbox.pop_front()
    }

    /// The next packet, waited for.
    #[track_caller]
    pub(super) fn receive(&mut self) -> (Header, Vec<u8>) {
        let mut packet = None;
        wait("a packet", || {
            packet = self.try_receive();
            packet.is_some()
        });
        packet.unwrap()
    }

    /// The next packet, which is one of these.
    #[track_caller]
    pub(super) fn expect(&mut self, op: u16) -> Header {
        let (header, _) = self.receive();
        assert_eq!(header.op, op, "{header:?}");
        header
    }

    /// Nothing more arrives for a while.
    #[track_caller]
    pub(super) fn expect_silence(&mut self) {
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(self.try_receive(), None);
    }

    /// Buffers given that hold no packet yet.
    pub(super) fn buffers(&self) -> usize {
        self.rx_posted
    }

    /// Frees slots of the queue of packets sent.
    pub(super) fn reap(&mut self) {
        while self.driver.queues[usize::from(TX)].poll_used().is_some() {
            self.tx_posted -= 1;
        }
    }

    pub(super) fn can_send(&mut self) -> bool {
        self.reap();
        self.tx_posted < TX_BUFFERS
    }

    /// Sends any packet.
    #[track_caller]
    pub(super) fn send(&mut self, header: &Header, payload: &[u8]) {
        wait("room for a packet", || self.can_send());
        let mut bytes = header.encode().to_vec();
        bytes.extend(payload);
        self.send_raw(bytes);
    }

    pub(super) fn send_raw(&mut self, bytes: Vec<u8>) {
        let queue = &mut self.driver.queues[usize::from(TX)];
        queue.post(&[Part::Out(bytes)]);
        queue.kick();
        self.tx_posted += 1;
    }

    /// Until the device has taken every packet.
    #[track_caller]
    pub(super) fn flush(&mut self) {
        wait("all packets are taken", || {
            self.reap();
            self.tx_posted == 0
        });
    }

    /// A connection that the host opened to `port`.
    #[track_caller]
    pub(super) fn accept(&mut self, port: u32) -> (Stream, UnixStream) {
        let mut host = self.host_connects();
        host.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
        let request = self.expect(op::REQUEST);
        assert_eq!((request.src_cid, request.dst_port), (HOST_CID, port));
        let mut stream = Stream::new(request.dst_port, request.src_port);
        stream.hear(&request);
        self.send(&stream.header(op::RESPONSE), &[]);
        let line = format!("OK {}\n", request.src_port);
        assert_eq!(read(&mut host, line.len()), line.as_bytes());
        (stream, host)
    }

    /// A connection that the guest opened from `guest_port` to a program that listens.
    #[track_caller]
    pub(super) fn connect(
        &mut self,
        guest_port: u32,
        port: u32,
        program: &UnixListener,
    ) -> (Stream, UnixStream) {
        let mut stream = Stream::new(guest_port, port);
        self.send(&stream.header(op::REQUEST), &[]);
        let response = self.expect(op::RESPONSE);
        assert_eq!((response.src_port, response.dst_port), (port, guest_port));
        stream.hear(&response);
        let (host, _) = program.accept().unwrap();
        host.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        (stream, host)
    }
}

fn device(dir: &TempDir, listener: &Arc<UnixListener>, limits: Limits) -> Vsock {
    let connector = Arc::new(Sockets(dir.path().to_owned()));
    Vsock::new(u32::try_from(CID).unwrap(), Arc::clone(listener), connector, limits)
}

/// The guest's end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    pub guest_port: u32,
    pub host_port: u32,
    /// Its room, and how much it has read.
    pub buf_alloc: u32,
    pub fwd_cnt: u32,
    pub tx_cnt: u32,
    pub peer: (u32, u32),
}

impl Stream {
    pub(super) fn new(guest_port: u32, host_port: u32) -> Self {
        let (buf_alloc, fwd_cnt, tx_cnt) = (256 << 10, 0, 0);
        Self { guest_port, host_port, buf_alloc, fwd_cnt, tx_cnt, peer: (0, 0) }
    }

    pub(super) fn header(&self, op: u16) -> Header {
        Header {
            src_cid: CID,
            dst_cid: HOST_CID,
            src_port: self.guest_port,
            dst_port: self.host_port,
            kind: TYPE_STREAM,
            op,
            buf_alloc: self.buf_alloc,
            fwd_cnt: self.fwd_cnt,
            ..Header::default()
        }
    }

    pub(super) fn hear(&mut self, header: &Header) {
        self.peer = (header.buf_alloc, header.fwd_cnt);
    }

    /// What it may send, in bytes.
    pub(super) fn credit(&self) -> u32 {
        self.peer.0 - self.tx_cnt.wrapping_sub(self.peer.1)
    }

    /// Sends data, which it has credit for.
    #[track_caller]
    pub(super) fn write(&mut self, guest: &mut Guest, bytes: &[u8]) {
        let len = u32::try_from(bytes.len()).unwrap();
        assert!(len <= self.credit());
        guest.send(&Header { len, ..self.header(op::RW) }, bytes);
        self.tx_cnt += len;
    }

    pub(super) fn shut(&self, guest: &mut Guest, flags: u32) {
        guest.send(&Header { flags, ..self.header(op::SHUTDOWN) }, &[]);
    }

    /// The next `len` bytes.
    #[track_caller]
    pub(super) fn read(&mut self, guest: &mut Guest, len: usize) -> Vec<u8> {
        let mut bytes = vec![];
        while bytes.len() < len {
            let (header, data) = guest.receive();
            self.hear(&header);
            if header.op != op::CREDIT_UPDATE {
                assert_eq!((header.op, header.src_port), (op::RW, self.host_port), "{header:?}");
            }
            bytes.extend(data);
        }
        assert_eq!(bytes.len(), len);
        self.fwd_cnt += header_len(len);
        bytes
    }
}

pub(super) fn header_len(len: usize) -> u32 {
    u32::try_from(len).unwrap()
}

/// The next `len` bytes.
#[track_caller]
pub(super) fn read(socket: &mut UnixStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    socket.read_exact(&mut bytes).unwrap();
    bytes
}

/// The host finds the connection closed.
#[track_caller]
pub(super) fn expect_end(socket: &mut UnixStream) {
    match socket.read(&mut [0; 64]) {
        Ok(count) => assert_eq!(count, 0),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
}
