//! The socket device (virtio 1.3, 5.10): streams between AF_VSOCK sockets of the guest and unix
//! sockets of the host, under conventions that programs know already.
//!
//! A program of the host connects to the device's listening socket, writes `CONNECT <port>` and a
//! newline, and reads `OK <port>` and a newline, the port being the host's side of the stream; or
//! the connection is closed, if the guest refuses. Where the guest connects to port P of CID 2, a
//! [`Connector`] knows what socket that is.
//!
//! | file | holds |
//! |---|---|
//! | `worker` | the thread, between queues and streams |
//! | `streams` | all streams: which is whose, whose turn it is, limits |
//! | `connection` | one stream, its states |
//! | `credit`, `packet`, `handshake`, `socket`, `table` | what their names say |

mod connection;
mod credit;
mod handshake;
mod packet;
mod socket;
mod streams;
mod table;
mod worker;

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::streams::Streams;
use self::worker::Exchange;
use super::device::{Activation, DeviceId, RestoreError, VirtioDevice, read_config};
use super::queue::Queue;
use super::worker::Worker;
use crate::thread::Role;

/// Stream sockets.
const F_STREAM: u64 = 1 << 0;
/// That streams are supported is said by their own bit.
const F_NO_IMPLIED_STREAM: u64 = 1 << 2;

const RX: u16 = 0;
const TX: u16 = 1;
const EVENT: u16 = 2;
const QUEUE_SIZES: [u16; 3] = [128, 128, 8];

/// The least CID a guest can have.
pub const FIRST_CID: u32 = 3;
/// The largest.
pub const LAST_CID: u32 = 0xffff_fffe;

/// Where connections of the guest's lead.
pub trait Connector: Send + Sync {
    /// Connects to whatever listens on `port` of the host's. Called from the device's thread, so
    /// it must not wait; sockets it returns may be blocking ones.
    ///
    /// # Errors
    ///
    /// Nobody listens there, or not now; the guest is refused.
    fn connect(&self, port: u32) -> io::Result<UnixStream>;
}

/// Bounds on what peers can make a device keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most connections at once, of both directions. Each is a descriptor of the process.
    pub connections: usize,
    /// How long a host may take to say which port it wants, and then a guest to answer.
    pub handshake: Duration,
    /// How long a guest may take to agree that a connection is over.
    pub close: Duration,
    /// How long a host may read nothing of what a connection holds that the guest has closed.
    pub linger: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            handshake: Duration::from_secs(10),
            close: Duration::from_secs(10),
            linger: Duration::from_secs(60),
        }
    }
}

/// A socket device.
#[derive(Debug)]
pub struct Vsock {
    host: Host,
    worker: Option<Worker<Exchange>>,
    /// Its streams, while it is stopped.
    streams: Option<Streams>,
    /// A driver uses it.
    driven: bool,
    transport_reset: bool,
}

/// What a device is made of.
#[derive(Clone)]
struct Host {
    guest_cid: u32,
    listener: Arc<UnixListener>,
    connector: Arc<dyn Connector>,
    limits: Limits,
}

/// What is saved of a device: connections end with it.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    guest_cid: u32,
    /// A driver used it, and has to be told.
    driven: bool,
}

impl Vsock {
    /// The device of the guest with CID `guest_cid`, from [`FIRST_CID`] to [`LAST_CID`]. Programs
    /// of the host connect to `listener`, which is made non-blocking; connections that arrive
    /// before the guest has a driver wait in its backlog.
    pub fn new(
        guest_cid: u32,
        listener: Arc<UnixListener>,
        connector: Arc<dyn Connector>,
        limits: Limits,
    ) -> Self {
        let host = Host { guest_cid, listener, connector, limits };
        Self { host, worker: None, streams: None, driven: false, transport_reset: false }
    }
}

impl VirtioDevice for Vsock {
    fn id(&self) -> DeviceId {
        DeviceId::Vsock
    }

    fn features(&self) -> u64 {
        F_STREAM | F_NO_IMPLIED_STREAM
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config(&u64::from(self.host.guest_cid).to_le_bytes(), offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> io::Result<()> {
        let streams = match self.streams.take() {
            Some(streams) => streams,
            None => {
                let Host { guest_cid, listener, connector, limits } = self.host.clone();
                Streams::new(guest_cid.into(), listener, connector, limits)?
            }
        };
        let queues = [RX, TX, EVENT].map(|index| activation.take_queue(index));
        let exchange = Exchange::new(streams, queues, self.transport_reset)?;
        self.worker = Some(Worker::start(Role::Vsock, "vsock".to_owned(), exchange)?);
        self.driven = true;
        Ok(())
    }

    fn quiesce(&mut self) -> Vec<Queue> {
        let Some(exchange) = self.worker.take().and_then(Worker::stop) else { return Vec::new() };
        let (queues, streams, transport_reset) = exchange.into_parts();
        (self.streams, self.transport_reset) = (Some(streams), transport_reset);
        queues
    }

    fn reset(&mut self) {
        // Ends every connection.
        self.streams = None;
        (self.driven, self.transport_reset) = (false, false);
    }

    fn save(&self) -> Vec<u8> {
        let state = State { guest_cid: self.host.guest_cid, driven: self.driven };
        postcard::to_allocvec(&state).unwrap_or_default()
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), RestoreError> {
        let refuse = |reason: String| RestoreError { device: "vsock", reason };
        let state: State =
            postcard::from_bytes(state).map_err(|error| refuse(error.to_string()))?;
        if !(FIRST_CID..=LAST_CID).contains(&state.guest_cid) {
            return Err(refuse(format!("{} is no CID of a guest", state.guest_cid)));
        }
        // The CID may be another one now: the event makes the driver read it again.
        (self.driven, self.transport_reset) = (state.driven, state.driven);
        self.streams = None;
        Ok(())
    }
}

impl Drop for Vsock {
    fn drop(&mut self) {
        self.quiesce();
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host")
            .field("guest_cid", &self.guest_cid)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod test_guest;

#[cfg(test)]
#[path = "vsock_test.rs"]
mod vsock_test;

#[cfg(test)]
#[path = "transfer_test.rs"]
mod transfer_test;

#[cfg(test)]
#[path = "hostile_test.rs"]
mod hostile_test;
