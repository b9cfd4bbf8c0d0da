//! Every stream of a device between pause and resume, driver and driver: connections, what is owed
//! to the guest, and the host's side of it all. Queues are lent to it a chain at a time.
//!
//! What a guest can make this hold is bounded: connections by [`Limits::connections`], bytes for
//! slow hosts by [`Table::grant`], here and in the kernel, resets by [`Streams::is_clogged`] (and
//! connections that end of themselves); any other packet is made when there is a buffer for it.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::sockopt::set_socket_send_buffer_size;

use super::connection::{Connection, Context, Fate, State};
use super::credit::Credit;
use super::packet::{HOST_CID, Header, Packet, TYPE_STREAM, op};
use super::table::{self, Table, Token};
use super::{Connector, Limits};
use crate::rate_limit::RateLimitedLog;
use crate::virtio::chain::Chain;

/// Resets owed to the guest, past which its packets are left where they are.
const MOST_RESETS: usize = 1024;
/// Packets one connection sends before it is the next one's turn.
const PACKETS_PER_TURN: u32 = 32;
/// Connections accepted before the queues are looked at again.
const ACCEPTS_PER_TURN: usize = 64;
/// How exactly deadlines are kept.
const SWEEP: Duration = Duration::from_secs(1);

/// Indices past those of all connections, for what else is watched.
const SPECIAL: u32 = 0xffff_ff00;
const LISTENER: u32 = SPECIAL;
/// The worker is to stop.
pub(super) const STOP: u32 = SPECIAL + 1;
/// A queue's doorbell rang: look at all of them.
pub(super) const DOORBELL: u32 = SPECIAL + 2;

/// What woke the worker.
pub(super) enum Wake {
    Stop,
    Doorbell,
    Listener,
    Connection(Token),
}

impl Wake {
    pub(super) fn of(data: u64) -> Self {
        let [index, stamp] = [data, data >> 32].map(|half| (half & 0xffff_ffff) as u32);
        match index {
            STOP => Self::Stop,
            DOORBELL => Self::Doorbell,
            LISTENER => Self::Listener,
            _ => Self::Connection(Token { index, stamp }),
        }
    }
}

fn data(token: Token) -> EventData {
    EventData::new_u64(u64::from(token.stamp) << 32 | u64::from(token.index))
}

/// Connections are told once of what they may read; they remember.
fn interest(room: bool) -> EventFlags {
    let flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
    if room { flags | EventFlags::OUT } else { flags }
}

pub(super) struct Streams {
    guest_cid: u64,
    epoll: OwnedFd,
    listener: Arc<UnixListener>,
    connector: Arc<dyn Connector>,
    table: Table,
    context: Context,
    /// Running time until the last pause, and when it was resumed.
    clock: (Duration, Instant),
    resets: VecDeque<Header>,
    /// Connections that have something for the guest, taking turns; and some that are gone.
    listed: VecDeque<Token>,
    /// Packets of the first in this turn.
    sent: u32,
    /// Somebody may be waiting to be accepted.
    callers: bool,
    /// Not before then, since the host lacked something.
    accept_at: Duration,
    /// When to look for deadlines that have passed, if there are any.
    sweep_at: Option<Duration>,
    log: RateLimitedLog,
}

impl Streams {
    pub(super) fn new(
        guest_cid: u64,
        listener: Arc<UnixListener>,
        connector: Arc<dyn Connector>,
        limits: Limits,
    ) -> io::Result<Self> {
        let streams = Self {
            guest_cid,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            listener,
            connector,
            table: Table::new(),
            context: Context::new(limits),
            clock: (Duration::ZERO, Instant::now()),
            resets: VecDeque::new(),
            listed: VecDeque::new(),
            sent: 0,
            callers: true,
            accept_at: Duration::ZERO,
            sweep_at: None,
            log: RateLimitedLog::new(),
        };
        streams.listener.set_nonblocking(true)?;
        streams.watch(streams.listener.as_fd(), LISTENER)?;
        Ok(streams)
    }

    pub(super) fn epoll(&self) -> &OwnedFd {
        &self.epoll
    }

    /// Wakes the worker as `special` whenever something happens to `fd`.
    pub(super) fn watch(&self, fd: BorrowedFd<'_>, special: u32) -> io::Result<()> {
        let data = data(Token { index: special, stamp: 0 });
        Ok(epoll::add(&self.epoll, fd, data, EventFlags::IN | EventFlags::ET)?)
    }

    pub(super) fn unwatch(&self, fd: BorrowedFd<'_>) {
        // It is, or was never, there; either will do.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Time passes from now on.
    pub(super) fn resume(&mut self) {
        self.clock.1 = Instant::now();
    }

    /// Looks at the clock, and at deadlines.
    pub(super) fn tick(&mut self) {
        self.context.now = self.clock.0 + self.clock.1.elapsed();
        if self.sweep_at.is_none_or(|at| at > self.context.now) {
            return;
        }
        let now = self.context.now;
        for token in self.table.tokens(|one| one.deadline.is_some_and(|at| at <= now)) {
            if let Some(connection) = self.table.get(token) {
                let fate = connection.on_deadline();
                self.settle(token, fate);
            }
        }
        self.sweep_at = None;
        if self.table.any(|connection| connection.deadline.is_some()) {
            self.expect_deadline();
        }
    }

    /// Time passes no more.
    pub(super) fn pause(&mut self) {
        self.tick();
        self.clock.0 = self.context.now;
    }

    /// How long nothing needs to be done unasked.
    pub(super) fn patience(&self) -> Option<Duration> {
        let accept = (self.callers && !self.is_full()).then_some(self.accept_at);
        let next = self.sweep_at.into_iter().chain(accept).min()?;
        Some(next.saturating_sub(self.context.now))
    }

    fn expect_deadline(&mut self) {
        let Limits { handshake, close, linger, .. } = self.context.limits;
        let step = SWEEP.min(handshake).min(close).min(linger).max(Duration::from_millis(1));
        self.sweep_at.get_or_insert(self.context.now + step);
    }

    fn is_full(&self) -> bool {
        self.table.len() >= self.context.limits.connections
    }

    /// The guest takes no resets: its packets have to wait.
    pub(super) fn is_clogged(&self) -> bool {
        self.resets.len() >= MOST_RESETS
    }

    pub(super) fn on_caller(&mut self) {
        self.callers = true;
    }

    /// Accepts some of the connections that programs of the host have opened.
    pub(super) fn accept(&mut self) {
        for _ in 0..ACCEPTS_PER_TURN {
            if !self.callers || self.is_full() || self.accept_at > self.context.now {
                return;
            }
            match self.listener.accept() {
                Ok((socket, _)) => {
                    let credit = Credit::new(self.table.grant());
                    let connection = Connection::accepted(socket, credit, &self.context);
                    if let Err(error) = self.add(connection) {
                        self.complain(&format!("a connection of the host's is lost: {error}"));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.callers = false,
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    self.complain(&format!("connections of the host's have to wait: {error}"));
                    self.accept_at = self.context.now + SWEEP;
                }
            }
        }
    }

    fn add(&mut self, connection: Connection) -> io::Result<Token> {
        let granted = connection.credit.buf_alloc();
        if granted < table::MOST {
            // The kernel's own buffer of what a host has not read is bounded likewise.
            let _ = set_socket_send_buffer_size(&connection.socket, granted as usize);
        }
        let data = data(self.table.next_token());
        epoll::add(&self.epoll, &connection.socket, data, interest(false))?;
        let token = self.table.insert(connection);
        self.settle(token, Fate::Lives);
        Ok(token)
    }

    /// Something happened to the socket of `token`.
    pub(super) fn on_event(&mut self, token: Token, flags: EventFlags) {
        let Some(connection) = self.table.get(token) else { return };
        let mut fate = connection.on_event(flags, &mut self.context);
        if connection.state() == State::Greeting {
            match connection.greet() {
                Ok(None) => {}
                Ok(Some(port)) => self.request(token, port),
                Err(over) => fate = over,
            }
        }
        self.settle(token, fate);
    }

    /// The host wants port `port` of the guest's.
    fn request(&mut self, token: Token, port: u32) {
        let ports = self.table.free_ports(port);
        if let Some(connection) = self.table.get(token) {
            connection.request(ports, &self.context);
            self.table.publish(token, ports);
        }
    }

    /// Packets of the guest's, in their order.
    pub(super) fn deliver(&mut self, packets: &[Packet]) {
        // Data of one stream goes on at once.
        for run in packets.chunk_by(|a, b| a.header.is_continued_by(&b.header)) {
            self.deliver_run(run);
        }
    }

    /// One packet, or several with data of the same stream.
    fn deliver_run(&mut self, packets: &[Packet]) {
        let Some(Packet { header, .. }) = packets.first() else { return };
        if header.src_cid != self.guest_cid {
            return self.complain("a packet from somebody else's CID");
        }
        let stream = header.kind == TYPE_STREAM && header.dst_cid == HOST_CID;
        let token = stream.then(|| self.table.find(header.ports())).flatten();
        if let Some(token) = token
            && let Some(connection) = self.table.get(token)
        {
            let fate = connection.on_packets(packets, &mut self.context);
            return self.settle(token, fate);
        }
        match header.op {
            // Never answered, or two sides could go on for ever.
            op::RST => {}
            op::REQUEST if stream && self.connect(header) => {}
            _ => self.resets.extend(packets.iter().map(|packet| packet.header.refusal())),
        }
    }

    /// The guest wants a port of the host's; whether it gets it.
    fn connect(&mut self, request: &Header) -> bool {
        if self.is_full() {
            self.complain("too many connections");
            return false;
        }
        let Ok(socket) = self.connector.connect(request.dst_port) else { return false };
        let credit = Credit::new(self.table.grant());
        let connection = Connection::requested(socket, credit, request, &self.context);
        match self.add(connection) {
            Ok(token) => self.table.publish(token, request.ports()),
            Err(error) => self.complain(&format!("a connection of the guest's is lost: {error}")),
        }
        self.table.find(request.ports()).is_some()
    }

    /// Whether there may be something for the guest.
    pub(super) fn has_packet(&self) -> bool {
        !self.resets.is_empty() || !self.listed.is_empty()
    }

    /// The next packet for the guest; its payload is in `chain` already, behind room for the
    /// header.
    pub(super) fn next_packet(&mut self, chain: &Chain) -> Option<Header> {
        // First, for they may be about ports that are in use again.
        if let Some(reset) = self.resets.pop_front() {
            return Some(reset);
        }
        while let Some(&token) = self.listed.front() {
            let Some(connection) = self.table.get(token) else {
                self.next_turn();
                continue;
            };
            let header = connection.next_packet(self.guest_cid, chain, &self.context);
            let more = header.is_some() && connection.has_packet();
            self.count(token, 1, more);
            if header.is_some() {
                return header;
            }
        }
        None
    }

    /// More data of the connection whose turn it is, in `chains` behind room for headers, if there is
    /// any and nothing else comes first: the header of its packets but for their lengths, and how
    /// many bytes it is.
    pub(super) fn more_data(&mut self, chains: &[Chain]) -> Option<(Header, u32)> {
        if !self.resets.is_empty() {
            return None;
        }
        let &token = self.listed.front()?;
        let connection = self.table.get(token)?;
        let data = connection.more_data(self.guest_cid, chains);
        let more = connection.has_packet();
        self.count(token, u32::try_from(chains.len()).unwrap_or(u32::MAX), more);
        data
    }

    /// The connection whose turn it is has had `packets` more, and has `more` for the guest.
    fn count(&mut self, token: Token, packets: u32, more: bool) {
        self.sent = self.sent.saturating_add(packets);
        if more && self.sent < PACKETS_PER_TURN {
            return;
        }
        if let Some(connection) = self.table.get(token) {
            connection.listed = false;
        }
        self.next_turn();
        self.settle(token, Fate::Lives);
    }

    fn next_turn(&mut self) {
        self.listed.pop_front();
        self.sent = 0;
    }

    /// Draws the consequences of what happened to a connection.
    fn settle(&mut self, token: Token, fate: Fate) {
        match fate {
            Fate::Lives => {}
            Fate::Orphaned => self.table.unpublish(token),
            Fate::Violation(what) => {
                self.complain(what);
                return self.reset(token);
            }
            Fate::Reset => return self.reset(token),
            Fate::Gone => {
                self.table.remove(token);
                return;
            }
        }
        let Some(connection) = self.table.get(token) else { return };
        let (room, has_deadline) = (connection.wants_room(), connection.deadline.is_some());
        if room != connection.watches_room {
            connection.watches_room = room;
            let changed =
                epoll::modify(&self.epoll, &connection.socket, data(token), interest(room));
            if changed.is_err() {
                return self.reset(token);
            }
        }
        if !connection.listed && connection.has_packet() {
            connection.listed = true;
            self.list(token);
        }
        if has_deadline {
            self.expect_deadline();
        }
    }

    fn list(&mut self, token: Token) {
        // Connections that are gone stay listed until their turn, which a guest that takes no
        // packets could put off for ever.
        if self.listed.len() > 2 * self.table.len() + 64 {
            let table = &mut self.table;
            self.listed.retain(|&token| table.get(token).is_some());
        }
        self.listed.push_back(token);
    }

    fn reset(&mut self, token: Token) {
        if let Some(connection) = self.table.remove(token)
            && !matches!(connection.state(), State::Greeting | State::Orphaned)
        {
            self.resets.push_back(Header::from_host(self.guest_cid, connection.ports, op::RST));
        }
    }

    fn complain(&self, what: &str) {
        if let Some(suppressed) = self.log.admit() {
            tracing::warn!(cid = self.guest_cid, suppressed, "vsock: {what}");
        }
    }
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams")
            .field("guest_cid", &self.guest_cid)
            .field("listener", &self.listener.as_raw_fd())
            .field("connections", &self.table.len())
            .finish_non_exhaustive()
    }
}
