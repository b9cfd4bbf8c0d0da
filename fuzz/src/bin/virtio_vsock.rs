//! The socket device behind its queues: packets of a few connections, their credit and their ends, with
//! programs of the host that come, read, write and go.

#![no_main]

use std::io;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use carve_fuzz::device::Host;
use carve_fuzz::sockets::{self, Act, Peers};
use devices::virtio::test_driver::Part;
use devices::virtio::vsock::{Connector, Limits, Vsock};
use libfuzzer_sys::arbitrary::{self, Arbitrary};

const CID: u64 = 42;

struct Programs {
    listener: Arc<UnixListener>,
    address: SocketAddr,
    peers: Arc<Mutex<Peers>>,
}

struct Ports(Arc<Mutex<Peers>>);

impl Connector for Ports {
    fn connect(&self, port: u32) -> io::Result<UnixStream> {
        if port == 3 {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (device, host) = UnixStream::pair()?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).add(host);
        Ok(device)
    }
}

#[derive(Arbitrary, Clone, Debug)]
enum Request {
    /// A packet of a stream, sound but for its place in it.
    Packet {
        header: Header,
        len: u16,
    },
    /// One with anything in it.
    Lie {
        header: Header,
        len: u32,
        kind: u16,
        cids: Option<(u64, u64)>,
        payload: Vec<u8>,
    },
    /// Room for packets of the device's.
    Room {
        count: u8,
        len: u16,
    },
    Event {
        len: u8,
    },
}

#[derive(Arbitrary, Clone, Debug)]
struct Header {
    guest_port: u8,
    host_port: u8,
    /// A port of the device's choice: connections that the host opened.
    of_host: bool,
    op: u8,
    flags: u8,
    buf_alloc: Count,
    fwd_cnt: Count,
    split: bool,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Count {
    Much,
    Little(u16),
    Any(u32),
}

impl Count {
    fn value(self) -> u32 {
        match self {
            Self::Much => 1 << 18,
            Self::Little(count) => count.into(),
            Self::Any(count) => count,
        }
    }
}

#[derive(Arbitrary, Clone, Debug)]
enum Action {
    Connect { port: u8 },
    Greet(Vec<u8>),
    Peer(Act),
}

fn bytes(header: &Header, len: u32, kind: u16, cids: Option<(u64, u64)>) -> Vec<u8> {
    let (from, to) = cids.unwrap_or((CID, 2));
    let host_port = u32::from(header.host_port % 4);
    let host_port = if header.of_host { (1 << 30) + host_port } else { host_port };
    let mut bytes = Vec::with_capacity(44);
    bytes.extend(from.to_le_bytes());
    bytes.extend(to.to_le_bytes());
    bytes.extend(u32::from(header.guest_port % 4).to_le_bytes());
    bytes.extend(host_port.to_le_bytes());
    bytes.extend(len.to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    bytes.extend(u16::from(header.op % 9).to_le_bytes());
    bytes.extend(u32::from(header.flags).to_le_bytes());
    bytes.extend(header.buf_alloc.value().to_le_bytes());
    bytes.extend(header.fwd_cnt.value().to_le_bytes());
    bytes
}

fn packet(mut head: Vec<u8>, payload: Vec<u8>, split: bool) -> Vec<Part> {
    if split && !payload.is_empty() {
        return vec![Part::Out(head), Part::Out(payload)];
    }
    head.extend(payload);
    vec![Part::Out(head)]
}

impl Host for Programs {
    type Device = Vsock;
    type Request = Request;
    type Action = Action;

    fn new() -> Self {
        let (listener, address) = sockets::listener();
        Self { listener: Arc::new(listener), address, peers: Arc::default() }
    }

    fn device(&self) -> Vsock {
        let short = Duration::from_millis(2);
        let limits = Limits { connections: 6, handshake: short, close: short, linger: short };
        let ports = Arc::new(Ports(Arc::clone(&self.peers)));
        Vsock::new(CID as u32, Arc::clone(&self.listener), ports, limits)
    }

    fn request(&mut self, request: &Request) -> (usize, Vec<Part>) {
        match request {
            Request::Packet { header, len } => {
                let len = if header.op % 9 == 5 { u32::from(*len) } else { 0 };
                let payload = vec![0xaa; len as usize];
                (1, packet(bytes(header, len, 1, None), payload, header.split))
            }
            Request::Lie { header, len, kind, cids, payload } => {
                (1, packet(bytes(header, *len, *kind, *cids), payload.clone(), header.split))
            }
            Request::Room { count, len } => {
                let rooms = (0..count % 4).map(|_| Part::In(usize::from(*len)));
                (0, std::iter::once(Part::In(44)).chain(rooms).collect())
            }
            Request::Event { len } => (2, vec![Part::In((*len).into())]),
        }
    }

    fn act(&mut self, action: &Action) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        match action {
            Action::Connect { port } => {
                peers.connect(&self.address, format!("CONNECT {}\n", port % 4).as_bytes());
            }
            Action::Greet(bytes) => peers.connect(&self.address, bytes),
            Action::Peer(act) => peers.act(act),
        }
    }
}

carve_fuzz::virtio_queues!(Programs);
