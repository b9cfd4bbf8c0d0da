//! The network device on a stream socket: a driver, and a peer that sends whatever it likes, goes, and is
//! replaced.

#![no_main]

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use carve_fuzz::device::Host;
use carve_fuzz::net::{MAC, Request, limits, options};
use carve_fuzz::sockets::{Act, Peers};
use devices::token_bucket::{Limits, LimitsHandle};
use devices::virtio::net::{Link, Net, StreamSocket};
use devices::virtio::test_driver::Part;
use libfuzzer_sys::arbitrary::{self, Arbitrary};

struct Cable {
    backend: StreamSocket,
    link: Arc<Link>,
    limits: Arc<LimitsHandle>,
    peers: Peers,
}

#[derive(Arbitrary, Clone, Debug)]
enum Action {
    /// A frame to the device or to all, in one piece.
    Frame {
        peer: u8,
        broadcast: bool,
        len: u16,
    },
    Peer(Act),
    Replace,
    Plug(bool),
    Limit {
        bytes: u16,
        frames: u16,
    },
}

impl Host for Cable {
    type Device = Net;
    type Request = Request;
    type Action = Action;

    fn new() -> Self {
        let (ours, theirs) = UnixStream::pair().expect("descriptors");
        let mut peers = Peers::default();
        peers.add(theirs);
        Self {
            backend: StreamSocket::new(ours).expect("descriptors"),
            link: Link::new(true),
            limits: LimitsHandle::new(Limits::default()),
            peers,
        }
    }

    fn device(&self) -> Net {
        Net::new(Arc::new(self.backend.clone()), options(&self.link, &self.limits))
    }

    fn request(&mut self, request: &Request) -> (usize, Vec<Part>) {
        request.parts(1)
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Frame { peer, broadcast, len } => {
                let mut bytes = u32::from(*len).to_be_bytes().to_vec();
                bytes.extend(if *broadcast { [0xff; 6] } else { MAC });
                bytes.resize(4 + usize::from(*len), 0xaa);
                self.peers.act(&Act::Write { peer: *peer, bytes });
            }
            Action::Peer(act) => self.peers.act(act),
            Action::Replace => {
                let (ours, theirs) = UnixStream::pair().expect("descriptors");
                self.peers.add(theirs);
                self.backend.replace(ours).expect("a socket");
            }
            Action::Plug(plugged) => self.link.set(*plugged),
            Action::Limit { bytes, frames } => self.limits.set(limits(*bytes, *frames)),
        }
    }
}

carve_fuzz::virtio_queues!(Cable);
