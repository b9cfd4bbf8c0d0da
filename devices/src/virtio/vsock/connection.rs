//! One stream between a socket of the host and the guest: its states and how it ends. What it passes on is in
//! [`to_host`] and [`to_guest`]. Nothing here knows queues, or other connections.
//!
//! ```text
//! accepted ─> Greeting ──CONNECT──> Requested ──RESPONSE──> Open ──RST after SHUTDOWN──> Orphaned
//!                          guest's REQUEST ───────────────> Open
//! ```
//!
//! An orphan is no business of the guest's any more; what it sent before still has to reach the host.

mod to_guest;
mod to_host;

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::epoll::EventFlags;

use super::Limits;
use super::credit::Credit;
use super::handshake::{self, Greeting};
use super::packet::{Header, Packet, Ports, op, shutdown};
use super::socket;

/// Buffers kept for the next connection whose host is slow.
const SPARE: usize = 4;

/// What connections are told of the world.
#[derive(Debug)]
pub(super) struct Context {
    /// Time for which the device has been running.
    pub now: Duration,
    pub limits: Limits,
    spare: Vec<VecDeque<u8>>,
}

impl Context {
    pub(super) fn new(limits: Limits) -> Self {
        Self { now: Duration::ZERO, limits, spare: Vec::with_capacity(SPARE) }
    }

    fn spare(&mut self) -> VecDeque<u8> {
        self.spare.pop().unwrap_or_default()
    }

    fn give_back(&mut self, buffer: VecDeque<u8>) {
        if buffer.capacity() > 0 && self.spare.len() < SPARE {
            self.spare.push(buffer);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The host has not yet said which port it wants.
    Greeting,
    /// The guest has not yet answered.
    Requested,
    Open,
    Orphaned,
}

/// What becomes of a connection after something happened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Fate {
    Lives,
    /// It may keep its socket, but the guest can use its ports for another one.
    Orphaned,
    /// It is over, and the guest has to be told.
    Reset,
    /// It is over because the guest broke the protocol like this.
    Violation(&'static str),
    /// It is over, as the guest knows, or never knew of it.
    Gone,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: UnixStream,
    /// Meaningless in the state `Greeting`.
    pub(super) ports: Ports,
    pub(super) credit: Credit,
    state: State,
    /// The guest's bytes that the host's socket did not take, at most `credit.buf_alloc()`.
    buffer: VecDeque<u8>,
    /// A REQUEST or a RESPONSE is still to be sent.
    opening: bool,
    /// The guest wants to know our credit.
    update_asked: bool,
    /// We have asked for the guest's credit since there was none left.
    credit_asked: bool,
    /// What the guest does no more: bits of [`shutdown`].
    guest_shut: u32,
    /// What the host does no more.
    host_shut: u32,
    /// How much of `host_shut` the guest knows.
    told_shut: u32,
    /// The socket may have something to read.
    readable: bool,
    /// The host has been told that the guest sends no more.
    write_closed: bool,
    /// When its patience ends, in the device's running time.
    pub(super) deadline: Option<Duration>,
    /// It is in the list of connections that have something for the guest.
    pub(super) listed: bool,
    /// It is told when the socket has room again.
    pub(super) watches_room: bool,
}

impl Connection {
    /// A program of the host has connected.
    pub(super) fn accepted(socket: UnixStream, credit: Credit, context: &Context) -> Self {
        Self {
            socket,
            ports: Ports { host: 0, guest: 0 },
            credit,
            state: State::Greeting,
            buffer: VecDeque::new(),
            opening: false,
            update_asked: false,
            credit_asked: false,
            guest_shut: 0,
            host_shut: 0,
            told_shut: 0,
            readable: false,
            write_closed: false,
            deadline: Some(context.now + context.limits.handshake),
            listed: false,
            watches_room: false,
        }
    }

    /// The guest has connected by `request`, and `socket` leads to where it wanted.
    pub(super) fn requested(
        socket: UnixStream,
        credit: Credit,
        request: &Header,
        context: &Context,
    ) -> Self {
        let mut connection = Self::accepted(socket, credit, context);
        connection.credit.hear(request);
        (connection.ports, connection.state) = (request.ports(), State::Open);
        (connection.opening, connection.deadline) = (true, None);
        connection
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    /// Whether bytes wait for room in the host's socket.
    pub(super) fn wants_room(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Reads the host's first words; the port it wants, once it has said.
    pub(super) fn greet(&mut self) -> Result<Option<u32>, Fate> {
        let mut bytes = [0; handshake::LONGEST];
        self.readable = false;
        let count = match socket::receive_bytes(&self.socket, &mut bytes, true) {
            Ok(count @ 1..) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Ok(0) | Err(_) => return Err(Fate::Gone),
        };
        match handshake::parse(&bytes[..count]) {
            Greeting::Incomplete => Ok(None),
            Greeting::Malformed => Err(Fate::Gone),
            Greeting::Connect { port, len } => {
                self.readable = true;
                match socket::receive_bytes(&self.socket, &mut bytes[..len], false) {
                    Ok(count) if count == len => Ok(Some(port)),
                    _ => Err(Fate::Gone),
                }
            }
        }
    }

    /// The guest is to be asked for a connection.
    pub(super) fn request(&mut self, ports: Ports, context: &Context) {
        (self.ports, self.state, self.opening) = (ports, State::Requested, true);
        self.deadline = Some(context.now + context.limits.handshake);
    }

    /// Something happened to the socket.
    pub(super) fn on_event(&mut self, flags: EventFlags, context: &mut Context) -> Fate {
        let hung_up = flags.intersects(EventFlags::HUP | EventFlags::ERR);
        if hung_up || flags.intersects(EventFlags::IN | EventFlags::RDHUP) {
            self.readable = true;
        }
        match self.state {
            State::Greeting => Fate::Lives,
            State::Requested if hung_up => self.refused(),
            State::Requested => Fate::Lives,
            State::Open | State::Orphaned => {
                if hung_up {
                    self.host_receives_no_more();
                }
                self.flush(context)
            }
        }
    }

    /// Its deadline has passed.
    pub(super) fn on_deadline(&self) -> Fate {
        match self.state {
            State::Greeting | State::Orphaned => Fate::Gone,
            State::Requested => self.refused(),
            State::Open => Fate::Reset,
        }
    }

    /// It ends before it was open.
    fn refused(&self) -> Fate {
        if self.opening { Fate::Gone } else { Fate::Reset }
    }

    /// Packets of the guest's on this stream: one, or several with data, at least one.
    pub(super) fn on_packets(&mut self, packets: &[Packet], context: &mut Context) -> Fate {
        let Some(Packet { header, .. }) = packets.last() else { return Fate::Lives };
        self.credit.hear(header);
        if self.credit.peer_free() > 0 {
            self.credit_asked = false;
        }
        match (self.state, header.op) {
            (State::Open, op::RST) => self.on_reset(context),
            (_, op::RST) => Fate::Gone,
            (State::Requested, op::RESPONSE) if !self.opening => self.on_response(),
            (State::Open, op::RW) => self.on_data(packets, context),
            (State::Open, op::SHUTDOWN) => self.on_shutdown(header.flags, context),
            (State::Open, op::CREDIT_UPDATE) => Fate::Lives,
            (State::Open, op::CREDIT_REQUEST) => {
                self.update_asked = true;
                Fate::Lives
            }
            _ => Fate::Violation("a packet that makes no sense in the state of its connection"),
        }
    }

    fn on_response(&mut self) -> Fate {
        (self.state, self.deadline) = (State::Open, None);
        let line = format!("OK {}\n", self.ports.host);
        match socket::send_bytes(&self.socket, line.as_bytes()) {
            Ok(count) if count == line.len() => Fate::Lives,
            // A fresh socket has room for it, unless nobody is there any more.
            _ => Fate::Reset,
        }
    }

    fn on_reset(&mut self, context: &Context) -> Fate {
        if self.buffer.is_empty() || self.guest_shut & shutdown::SEND == 0 {
            return Fate::Gone;
        }
        // The guest has closed it properly and lost its patience with a slow host.
        self.state = State::Orphaned;
        self.deadline = Some(context.now + context.limits.linger);
        Fate::Orphaned
    }

    fn on_shutdown(&mut self, flags: u32, context: &mut Context) -> Fate {
        let new = flags & shutdown::BOTH & !self.guest_shut;
        self.guest_shut |= new;
        if new & shutdown::RECEIVE != 0 {
            // The host's writes fail from now on; they would not arrive.
            let _ = self.socket.shutdown(Shutdown::Read);
        }
        if new != 0 && self.guest_shut == shutdown::BOTH {
            self.deadline = Some(context.now + context.limits.linger);
        }
        self.after_flush(context)
    }
}

/// Lengths of what credit was given for: far below 4 GiB.
fn to_u32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
