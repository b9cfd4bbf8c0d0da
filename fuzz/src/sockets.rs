//! Unix sockets for hosts of devices: without files, and with peers that read and write when told.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};

use libfuzzer_sys::arbitrary::{self, Arbitrary};

/// Most peers at once.
const MOST: usize = 8;

/// What a peer does.
#[derive(Arbitrary, Clone, Debug)]
#[allow(missing_docs)]
pub enum Act {
    Write { peer: u8, bytes: Vec<u8> },
    WriteMuch { peer: u8, len: u16 },
    Read { peer: u8, len: u16 },
    Shutdown { peer: u8, read: bool, write: bool },
    Close { peer: u8 },
}

/// A listener in the abstract name space, and its address.
pub fn listener() -> (UnixListener, SocketAddr) {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("carve-fuzz-{}-{number}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).expect("a name");
    (UnixListener::bind_addr(&address).expect("a name of its own"), address)
}

/// The host's ends of connections.
#[derive(Debug, Default)]
pub struct Peers(Vec<UnixStream>);

impl Peers {
    /// One more, in place of the first if there are many.
    pub fn add(&mut self, peer: UnixStream) {
        peer.set_nonblocking(true).expect("a socket");
        if self.0.len() == MOST {
            self.0.remove(0);
        }
        self.0.push(peer);
    }

    /// Connects to a listener.
    pub fn connect(&mut self, address: &SocketAddr, first: &[u8]) {
        if let Ok(mut peer) = UnixStream::connect_addr(address) {
            let _ = peer.write(first);
            self.add(peer);
        }
    }

    /// Has a peer do something, if there is one.
    pub fn act(&mut self, act: &Act) {
        let (Act::Write { peer, .. }
        | Act::WriteMuch { peer, .. }
        | Act::Read { peer, .. }
        | Act::Shutdown { peer, .. }
        | Act::Close { peer }) = act;
        if self.0.is_empty() {
            return;
        }
        let at = usize::from(*peer) % self.0.len();
        let peer = &mut self.0[at];
        match act {
            Act::Write { bytes, .. } => drop(peer.write(bytes)),
            Act::WriteMuch { len, .. } => drop(peer.write(&vec![0x55; usize::from(*len) * 4])),
            Act::Read { len, .. } => drop(peer.read(&mut vec![0; usize::from(*len)])),
            Act::Shutdown { read: true, .. } => drop(peer.shutdown(Shutdown::Read)),
            Act::Shutdown { write: true, .. } => drop(peer.shutdown(Shutdown::Write)),
            Act::Shutdown { .. } => drop(peer.shutdown(Shutdown::Both)),
            Act::Close { .. } => drop(self.0.remove(at)),
        }
    }
}
