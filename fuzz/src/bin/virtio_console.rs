//! The console behind its queues: three ports with control queues, peers that come, read, write and go.

#![no_main]

use std::os::fd::OwnedFd;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;

use carve_fuzz::device::Host;
use carve_fuzz::sockets::{self, Act, Peers};
use devices::virtio::console::{BackEnd, Console, Handle, Port};
use devices::virtio::test_driver::Part;
use libfuzzer_sys::arbitrary::{self, Arbitrary};

const PORTS: u8 = 3;

struct Terminals {
    listener: UnixListener,
    address: SocketAddr,
    /// The device's end of a stream that is there from the start.
    stream: UnixStream,
    handle: Arc<Handle>,
    peers: Peers,
}

#[derive(Arbitrary, Clone, Debug)]
enum Request {
    Control { port: u8, event: u8, value: u16, more: Option<Vec<u8>> },
    ControlRoom { len: u8 },
    Output { port: u8, bytes: Vec<u8> },
    OutputMuch { port: u8, len: u16 },
    Room { port: u8, len: u16, count: u8 },
}

#[derive(Arbitrary, Clone, Debug)]
enum Action {
    Connect(Vec<u8>),
    Peer(Act),
    Resize(u16, u16),
}

fn queue(port: u8) -> usize {
    if port == 0 { 0 } else { usize::from(2 * port + 2) }
}

impl Terminals {
    fn console(&self) -> Console {
        let copy = |fd: &UnixStream| OwnedFd::from(fd.try_clone().expect("descriptors"));
        let files =
            BackEnd::Files { input: Some(copy(&self.stream)), output: Some(copy(&self.stream)) };
        let listener = self.listener.try_clone().expect("descriptors").into();
        let ports = vec![
            Port { name: None, console: true, back_end: files },
            Port {
                name: Some("agent".into()),
                console: false,
                back_end: BackEnd::Listener(listener),
            },
            Port {
                name: None,
                console: true,
                back_end: BackEnd::Files { input: None, output: None },
            },
        ];
        Console::new(ports, Arc::clone(&self.handle)).expect("three ports")
    }
}

impl Host for Terminals {
    type Device = Console;
    type Request = Request;
    type Action = Action;

    fn new() -> Self {
        let (listener, address) = sockets::listener();
        listener.set_nonblocking(true).expect("a socket");
        let (stream, peer) = UnixStream::pair().expect("descriptors");
        stream.set_nonblocking(true).expect("a socket");
        let mut peers = Peers::default();
        peers.add(peer);
        let handle = Handle::new().expect("descriptors");
        Self { listener, address, stream, handle, peers }
    }

    fn device(&self) -> Console {
        self.console()
    }

    fn request(&mut self, request: &Request) -> (usize, Vec<Part>) {
        match request {
            Request::Control { port, event, value, more } => {
                let mut bytes = u32::from(port % 5).to_le_bytes().to_vec();
                bytes.extend(u16::from(event % 9).to_le_bytes());
                bytes.extend(value.to_le_bytes());
                bytes.extend(more.iter().flatten());
                (3, vec![Part::Out(bytes)])
            }
            Request::ControlRoom { len } => (2, vec![Part::In((*len).into())]),
            Request::Output { port, bytes } => {
                (queue(port % PORTS) + 1, vec![Part::Out(bytes.clone())])
            }
            Request::OutputMuch { port, len } => {
                (queue(port % PORTS) + 1, vec![Part::Out(vec![b'x'; (*len).into()])])
            }
            Request::Room { port, len, count } => {
                let parts = (0..=count % 4).map(|_| Part::In((*len).into()));
                (queue(port % PORTS), parts.collect())
            }
        }
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Connect(first) => self.peers.connect(&self.address, first),
            Action::Peer(act) => self.peers.act(act),
            Action::Resize(columns, rows) => self.handle.resize(*columns, *rows),
        }
    }
}

carve_fuzz::virtio_queues!(Terminals);
