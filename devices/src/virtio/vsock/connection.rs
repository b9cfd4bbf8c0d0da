//! One stream between a socket of the host and the guest: its states, what it passes on in each
//! direction, and how it ends. Nothing here knows queues, or other connections.
//!
//! ```text
//! accepted ─> Greeting ──CONNECT──> Requested ──RESPONSE──> Open ──RST after SHUTDOWN──> Orphaned
//!                          guest's REQUEST ───────────────> Open
//! ```
//!
//! An orphan is no business of the guest's any more; what it sent before still has to reach the host.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::slice;
use std::time::Duration;

use rustix::event::epoll::EventFlags;

use super::Limits;
use super::credit::Credit;
use super::handshake::{self, Greeting};
use super::packet::{self, Header, Ports, op, shutdown};
use super::socket;
use crate::virtio::chain::Chain;

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

    /// A packet of the guest's on this stream, its payload in `chain`.
    pub(super) fn on_packet(
        &mut self,
        header: &Header,
        chain: &Chain,
        context: &mut Context,
    ) -> Fate {
        self.credit.hear(header);
        if self.credit.peer_free() > 0 {
            self.credit_asked = false;
        }
        match (self.state, header.op) {
            (State::Open, op::RST) => self.on_reset(context),
            (_, op::RST) => Fate::Gone,
            (State::Requested, op::RESPONSE) if !self.opening => self.on_response(),
            (State::Open, op::RW) => self.on_data(header, chain, context),
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

    fn on_data(&mut self, header: &Header, chain: &Chain, context: &mut Context) -> Fate {
        let (len, count) = (header.len, header.len as usize);
        if self.guest_shut & shutdown::SEND != 0 {
            return Fate::Violation("data after the end of data");
        }
        if chain.readable_len().saturating_sub(packet::LEN) < count {
            return Fate::Violation("a packet that is shorter than it says");
        }
        if !self.credit.allows(self.buffer.len(), len) {
            return Fate::Violation("more data than there was credit for");
        }
        if self.host_shut & shutdown::RECEIVE != 0 {
            self.credit.forwarded(len);
            return Fate::Lives;
        }
        match self.send(chain, count) {
            Ok(done) if done < count => self.hold(chain, done, count, context),
            Ok(_) => {}
            Err(_) => {
                self.credit.forwarded(len);
                self.host_receives_no_more();
            }
        }
        Fate::Lives
    }

    /// Sends what the host's socket takes of a payload of `count` bytes; how much that is.
    fn send(&mut self, chain: &Chain, count: usize) -> io::Result<usize> {
        let mut done = 0;
        while self.buffer.is_empty() && done < count {
            match socket::send(&self.socket, chain, packet::LEN + done, count - done) {
                Ok(0) => break,
                Ok(sent) => done += sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.credit.forwarded(to_u32(done));
        Ok(done)
    }

    /// Keeps the bytes `from..to` of a payload until the host's socket has room.
    fn hold(&mut self, chain: &Chain, from: usize, to: usize, context: &mut Context) {
        if self.buffer.capacity() == 0 {
            self.buffer = context.spare();
        }
        let mut scratch = [0; 4096];
        for start in (from..to).step_by(scratch.len()) {
            let piece = &mut scratch[..(to - start).min(4096)];
            // The chain has been found to be long enough.
            if chain.read(packet::LEN + start, piece).is_ok() {
                self.buffer.extend(&*piece);
            }
        }
    }

    /// Sends what the host's socket takes now of what was held.
    fn flush(&mut self, context: &mut Context) -> Fate {
        let mut moved = 0;
        while !self.buffer.is_empty() {
            match socket::send_bytes(&self.socket, self.buffer.as_slices().0) {
                Ok(0) => break,
                Ok(sent) => {
                    self.buffer.drain(..sent);
                    moved += sent;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.host_receives_no_more(),
            }
        }
        self.credit.forwarded(to_u32(moved));
        if moved > 0 && self.deadline.is_some() {
            self.deadline = Some(context.now + context.limits.linger);
        }
        self.after_flush(context)
    }

    /// What was waiting until all of the guest's bytes had reached the host.
    fn after_flush(&mut self, context: &mut Context) -> Fate {
        if !self.buffer.is_empty() {
            return Fate::Lives;
        }
        context.give_back(std::mem::take(&mut self.buffer));
        if self.state == State::Orphaned {
            return Fate::Gone;
        }
        if self.guest_shut == shutdown::BOTH {
            return Fate::Reset;
        }
        if self.guest_shut & shutdown::SEND != 0 && !self.write_closed {
            self.write_closed = true;
            let _ = self.socket.shutdown(Shutdown::Write);
        }
        Fate::Lives
    }

    fn host_receives_no_more(&mut self) {
        self.host_shut |= shutdown::RECEIVE;
        self.credit.forwarded(to_u32(self.buffer.len()));
        self.buffer.clear();
    }

    /// Whether it has something for the guest, as far as is known.
    pub(super) fn has_packet(&self) -> bool {
        match self.state {
            State::Greeting | State::Orphaned => false,
            State::Requested => self.opening,
            State::Open => {
                let reads =
                    self.reads_host() && (self.credit.peer_free() > 0 || !self.credit_asked);
                let tells = self.host_shut & !self.told_shut != 0;
                self.opening || reads || tells || self.owes_update()
            }
        }
    }

    fn reads_host(&self) -> bool {
        let shut = self.guest_shut & shutdown::RECEIVE | self.host_shut & shutdown::SEND;
        self.readable && shut == 0
    }

    fn owes_update(&self) -> bool {
        self.update_asked || self.credit.owes_update()
    }

    /// The next packet for the guest, if there is one; its payload is in `chain` already, behind
    /// room for the header.
    pub(super) fn next_packet(
        &mut self,
        guest_cid: u64,
        chain: &Chain,
        context: &Context,
    ) -> Option<Header> {
        let (op, len) = match self.state {
            State::Greeting | State::Orphaned => return None,
            State::Requested if !self.opening => return None,
            State::Requested => (op::REQUEST, 0),
            State::Open if self.opening => (op::RESPONSE, 0),
            State::Open if self.owes_update() => (op::CREDIT_UPDATE, 0),
            State::Open => self.data(chain).or_else(|| self.shutdown(context))?,
        };
        match op {
            op::REQUEST | op::RESPONSE => self.opening = false,
            op::CREDIT_UPDATE => self.update_asked = false,
            _ => {}
        }
        let mut header = Header { len, ..Header::from_host(guest_cid, self.ports, op) };
        if op == op::SHUTDOWN {
            header.flags = self.told_shut;
        }
        self.credit.tell(&mut header);
        Some(header)
    }

    /// Data of the host's, as much as the guest has room for; or a question for more room.
    fn data(&mut self, chain: &Chain) -> Option<(u16, u32)> {
        if !self.reads_host() {
            return None;
        }
        let free = self.credit.peer_free();
        if free == 0 {
            let asked = std::mem::replace(&mut self.credit_asked, true);
            return (!asked).then_some((op::CREDIT_REQUEST, 0));
        }
        let room = chain.writable_len().saturating_sub(packet::LEN).min(free as usize);
        let count = self.receive(slice::from_ref(chain), room)?;
        Some((op::RW, count))
    }

    /// More data of the host's in `chains`, behind room for headers, if nothing else is to be said
    /// first: the header of its packets but for their lengths, and how many bytes it is.
    pub(super) fn more_data(&mut self, guest_cid: u64, chains: &[Chain]) -> Option<(Header, u32)> {
        let first = self.state != State::Open || self.opening || self.owes_update();
        let free = self.credit.peer_free();
        if first || free == 0 || chains.is_empty() || !self.reads_host() {
            return None;
        }
        let count = self.receive(chains, free as usize)?;
        let mut header = Header::from_host(guest_cid, self.ports, op::RW);
        self.credit.tell(&mut header);
        Some((header, count))
    }

    /// Reads what the host has sent, at most `room` bytes; none: it has sent nothing more yet, or no
    /// more will come.
    fn receive(&mut self, chains: &[Chain], room: usize) -> Option<u32> {
        match socket::receive(&self.socket, chains, packet::LEN, room) {
            Ok(count @ 1..) => {
                let count = to_u32(count);
                self.credit.sent(count);
                return Some(count);
            }
            Ok(0) => self.host_shut |= shutdown::SEND,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => {
                self.host_receives_no_more();
                self.host_shut |= shutdown::SEND;
            }
        }
        self.readable = false;
        None
    }

    fn shutdown(&mut self, context: &Context) -> Option<(u16, u32)> {
        if self.host_shut & !self.told_shut == 0 {
            return None;
        }
        self.told_shut = self.host_shut;
        if self.told_shut == shutdown::BOTH {
            // The guest answers with a reset, or is sent one.
            self.deadline.get_or_insert(context.now + context.limits.close);
        }
        Some((op::SHUTDOWN, 0))
    }
}

/// Lengths of what credit was given for: far below 4 GiB.
fn to_u32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
