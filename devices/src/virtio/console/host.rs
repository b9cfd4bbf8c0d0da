//! The host's side of a port: what it is connected to, whether someone is there, and who that is at
//! a socket.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::stream::{Moved, Scratch, Stream};

/// What a port is connected to on the host, given opened.
#[derive(Debug)]
pub enum BackEnd {
    /// Files, pipes, terminals: what the guest reads, and where its output goes. O_NONBLOCK is not
    /// needed; where it may be set without surprising others who use the same open file, set it:
    /// a blocking terminal whose reader sleeps can otherwise keep the device waiting.
    Files {
        /// What the guest reads; none: it reads nothing.
        input: Option<OwnedFd>,
        /// Where its output goes; none: output is dropped.
        output: Option<OwnedFd>,
    },
    /// The master of a pseudo-terminal, O_NONBLOCK. The port is connected while someone has the slave
    /// open, and output is dropped while nobody has. Open the slave once before, and close it: only
    /// then does the kernel tell.
    Pty(OwnedFd),
    /// A listening unix stream socket, O_NONBLOCK. One client at a time is the port's peer; others
    /// wait in the socket's backlog. Output without a client is dropped.
    Listener(OwnedFd),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Files,
    Pty,
    Socket,
}

/// A port's host side in use.
#[derive(Debug)]
pub(super) struct HostSide {
    kind: Kind,
    listener: Option<OwnedFd>,
    input: Option<Stream>,
    output: Option<Stream>,
    /// Where events are waited for while the device is active.
    watched: Option<(Arc<Epoll>, u64)>,
    connected: bool,
    /// The peer has closed its end; what it sent before may still be read.
    hung_up: bool,
    /// How many peers have left.
    departures: u64,
    /// A client may wait that the host had no descriptor for.
    has_caller: bool,
}

impl HostSide {
    pub(super) fn new(back_end: BackEnd) -> Self {
        let mut side = Self {
            kind: Kind::Files,
            listener: None,
            input: None,
            output: None,
            watched: None,
            connected: false,
            hung_up: false,
            departures: 0,
            has_caller: false,
        };
        match back_end {
            BackEnd::Files { input, output } => {
                side.input = input.map(|fd| Stream::new(Arc::new(fd)));
                side.output = output.map(|fd| Stream::new(Arc::new(fd)));
                side.connected = side.input.is_some() || side.output.is_some();
            }
            BackEnd::Pty(fd) => {
                side.kind = Kind::Pty;
                side.connect(fd);
                side.connected = false;
            }
            BackEnd::Listener(fd) => {
                side.kind = Kind::Socket;
                side.listener = Some(fd);
            }
        }
        side
    }

    fn connect(&mut self, fd: OwnedFd) {
        let fd = Arc::new(fd);
        self.input = Some(Stream::new(Arc::clone(&fd)));
        self.output = Some(Stream::new(fd));
        (self.connected, self.hung_up) = (true, false);
    }

    /// Has events of this side reported to `epoll` as `token`, until [`unwatch`](Self::unwatch).
    pub(super) fn watch(&mut self, epoll: &Arc<Epoll>, token: u64) -> io::Result<()> {
        self.watched = Some((Arc::clone(epoll), token));
        if let Some(listener) = &self.listener {
            add(epoll, token, listener, EventSet::IN)?;
        }
        self.watch_streams()?;
        self.look(true);
        Ok(())
    }

    fn watch_streams(&self) -> io::Result<()> {
        let Some((epoll, token)) = &self.watched else { return Ok(()) };
        match (&self.input, &self.output) {
            (Some(input), Some(output)) if Arc::ptr_eq(input.fd(), output.fd()) => {
                add(epoll, *token, input.fd(), EventSet::IN | EventSet::OUT)
            }
            (input, output) => {
                if let Some(input) = input {
                    add(epoll, *token, input.fd(), EventSet::IN)?;
                }
                output
                    .as_ref()
                    .map_or(Ok(()), |output| add(epoll, *token, output.fd(), EventSet::OUT))
            }
        }
    }

    pub(super) fn unwatch(&mut self) {
        self.watched = None;
    }

    /// Whether someone is there, as far as one can know.
    pub(super) fn is_connected(&self) -> bool {
        self.connected
    }

    /// How many peers have left so far.
    pub(super) fn departures(&self) -> u64 {
        self.departures
    }

    /// Whether nothing tells when someone comes, so that one must ask from time to time.
    pub(super) fn must_be_asked(&self) -> bool {
        !self.connected && (self.kind == Kind::Pty || self.has_caller)
    }

    /// Whether it is worth taking a buffer from the guest to read into.
    pub(super) fn has_input(&self) -> bool {
        self.connected && self.input.as_ref().is_some_and(Stream::is_ready)
    }

    /// Something happened: looks who is there. `guest_reads`: the guest still takes what the peer
    /// sent before it left.
    pub(super) fn look(&mut self, guest_reads: bool) {
        for stream in [&mut self.input, &mut self.output].into_iter().flatten() {
            stream.wake();
        }
        match self.kind {
            Kind::Files => {}
            Kind::Pty => {
                let gone = self.input.as_ref().is_none_or(Stream::is_hung_up);
                if self.connected && gone && !(guest_reads && self.has_input()) {
                    self.leave();
                } else if !self.connected && !gone {
                    self.return_of_terminal();
                }
            }
            Kind::Socket => {
                self.hung_up |= self.input.as_ref().is_some_and(Stream::is_hung_up);
                self.settle(guest_reads);
                self.accept();
            }
        }
    }

    fn return_of_terminal(&mut self) {
        for stream in [&mut self.input, &mut self.output].into_iter().flatten() {
            stream.revive();
        }
        self.connected = true;
    }

    /// Lets a peer that hung up go once nothing of it is left to read, or nobody to read it.
    pub(super) fn settle(&mut self, guest_reads: bool) {
        let read = self.input.as_ref().is_none_or(Stream::has_ended);
        if self.connected && self.hung_up && (read || !guest_reads) {
            self.leave();
            self.accept();
        }
    }

    fn leave(&mut self) {
        self.connected = false;
        self.departures = self.departures.wrapping_add(1);
        if self.kind == Kind::Socket {
            (self.input, self.output, self.hung_up) = (None, None, false);
        }
    }

    fn accept(&mut self) {
        let Some(listener) = self.listener.as_ref().filter(|_| !self.connected) else { return };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let client = accept_with(listener, flags);
        // No event tells again of those who wait, nor when there are descriptors.
        self.has_caller = !matches!(client, Ok(_) | Err(Errno::AGAIN | Errno::CONNABORTED));
        let Ok(client) = client else { return };
        self.connect(client);
        if self.watch_streams().is_err() {
            // Nothing would tell when it says something.
            self.leave();
        }
    }

    /// Reads what the peer sent into `buffers` of guest RAM.
    pub(super) fn read(&mut self, buffers: &[libc::iovec]) -> Moved {
        let Some(input) = self.input.as_mut().filter(|_| self.connected) else {
            return Moved::Nothing;
        };
        let moved = input.read(buffers);
        if moved == Moved::End {
            self.ended();
        }
        moved
    }

    /// Writes `buffers` of guest RAM from `skip` on; [`Moved::End`]: nobody is there to take it.
    pub(super) fn write(
        &mut self,
        buffers: &[libc::iovec],
        skip: usize,
        scratch: &mut Scratch,
    ) -> Moved {
        if self.must_be_asked() {
            self.look(true);
        }
        let Some(output) = self.output.as_mut().filter(|_| self.connected) else {
            return Moved::End;
        };
        if self.kind == Kind::Pty && output.is_hung_up() {
            // The kernel would keep it for the next to open the terminal.
            return Moved::End;
        }
        let moved = output.write(buffers, skip, scratch);
        if moved == Moved::End {
            self.ended();
        }
        moved
    }

    /// Writes a byte if that is possible now.
    pub(super) fn write_byte(&mut self, byte: u8) {
        if let Some(output) = self.output.as_mut().filter(|_| self.connected) {
            output.write_byte(byte);
        }
    }

    /// One direction came to its end.
    fn ended(&mut self) {
        let over = |stream: &Option<Stream>| stream.as_ref().is_none_or(Stream::has_ended);
        match self.kind {
            // The first of both to end may well be a terminal's or a pipe's whole story, but a guest
            // with nothing to read can still have output, and the reverse.
            Kind::Files if over(&self.input) && over(&self.output) => self.leave(),
            Kind::Files => {}
            Kind::Pty => self.leave(),
            Kind::Socket => {
                self.hung_up |= self.input.as_ref().is_some_and(Stream::is_hung_up);
                self.settle(true);
            }
        }
    }
}

/// Reports edges of `fd`; one that is always ready has none.
fn add(epoll: &Epoll, token: u64, fd: &OwnedFd, events: EventSet) -> io::Result<()> {
    let event = EpollEvent::new(events | EventSet::EDGE_TRIGGERED, token);
    match epoll.ctl(ControlOperation::Add, fd.as_raw_fd(), event) {
        // A file on a disk (EPERM).
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(()),
        other => other,
    }
}
