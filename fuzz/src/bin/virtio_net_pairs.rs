//! The network device with several pairs of queues, on sockets that keep frames apart as taps do: headers
//! and all.

#![no_main]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use carve_fuzz::device::Host;
use carve_fuzz::net::{MAC, Request, limits, options};
use devices::token_bucket::{Limits, LimitsHandle};
use devices::virtio::Chain;
use devices::virtio::net::{Backend, Link, Net, Port, Room};
use devices::virtio::test_driver::Part;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};

const PAIRS: u8 = 3;

/// Both ends of each pair's cable.
#[derive(Debug)]
struct Ends(Vec<(Arc<OwnedFd>, OwnedFd)>);

struct End(Arc<OwnedFd>);

impl Port for End {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn receive(&mut self, room: &mut Room, spill: &mut [u8]) -> io::Result<usize> {
        room.read_from(self.0.as_fd(), spill)
    }

    fn send(&mut self, frames: &[Chain]) -> io::Result<usize> {
        for (sent, frame) in frames.iter().enumerate() {
            let mut bytes = vec![0; frame.readable_len()];
            frame.read(0, &mut bytes).expect("as long as it says");
            match send(&self.0, &bytes, SendFlags::NOSIGNAL) {
                Err(_) if sent > 0 => return Ok(sent),
                result => result?,
            };
        }
        Ok(frames.len())
    }
}

impl Backend for Ends {
    fn pairs(&self) -> u16 {
        PAIRS.into()
    }

    fn has_offloads(&self) -> bool {
        true
    }

    fn port(&self, pair: u16) -> io::Result<Box<dyn Port>> {
        Ok(Box::new(End(Arc::clone(&self.0[usize::from(pair)].0))))
    }

    fn set_offloads(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn use_pairs(&self, count: u16) -> io::Result<()> {
        assert!((1..=u16::from(PAIRS)).contains(&count));
        Ok(())
    }
}

struct Cables {
    ends: Arc<Ends>,
    link: Arc<Link>,
    limits: Arc<LimitsHandle>,
}

#[derive(Arbitrary, Clone, Debug)]
enum Action {
    /// A frame to the device or to all, its header included.
    Frame {
        pair: u8,
        broadcast: bool,
        vlan: Option<u16>,
        len: u16,
    },
    Receive {
        pair: u8,
    },
    Plug(bool),
    Limit {
        bytes: u16,
        frames: u16,
    },
}

impl Host for Cables {
    type Device = Net;
    type Request = Request;
    type Action = Action;

    fn new() -> Self {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let pair = |_| {
            let (ours, theirs) =
                socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                    .expect("descriptors");
            (Arc::new(ours), theirs)
        };
        Self {
            ends: Arc::new(Ends((0..PAIRS).map(pair).collect())),
            link: Link::new(true),
            limits: LimitsHandle::new(Limits::default()),
        }
    }

    fn device(&self) -> Net {
        let ends: Arc<dyn Backend> = Arc::clone(&self.ends) as _;
        Net::new(ends, options(&self.link, &self.limits))
    }

    fn request(&mut self, request: &Request) -> (usize, Vec<Part>) {
        request.parts(PAIRS.into())
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Frame { pair, broadcast, vlan, len } => {
                let mut bytes = vec![0; 12];
                bytes.extend(if *broadcast { [0xff; 6] } else { MAC });
                bytes.extend([2, 0, 0, 0, 0, 2]);
                if let Some(vlan) = vlan {
                    bytes.extend([0x81, 0]);
                    bytes.extend(vlan.to_be_bytes());
                }
                // None is empty: that would be the end.
                bytes.resize(1 + usize::from(*len), 0xaa);
                let _ =
                    send(&self.ends.0[usize::from(pair % PAIRS)].1, &bytes, SendFlags::NOSIGNAL);
            }
            Action::Receive { pair } => {
                let _ = recv(
                    &self.ends.0[usize::from(pair % PAIRS)].1,
                    &mut [0; 100],
                    RecvFlags::DONTWAIT,
                );
            }
            Action::Plug(plugged) => self.link.set(*plugged),
            Action::Limit { bytes, frames } => self.limits.set(limits(*bytes, *frames)),
        }
    }
}

carve_fuzz::virtio_queues!(Cables);
