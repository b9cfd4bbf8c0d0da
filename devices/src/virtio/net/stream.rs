//! A stream socket as a back end, in the protocol of passt and of QEMU's stream sockets: each frame
//! behind its length in four bytes, big-endian, and no virtio-net header.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::net::{RecvFlags, SendFlags, recv, send};
use vmm_sys_util::eventfd::EventFd;

use super::backend::{Backend, Port};
use super::buffers::{self, Iovecs, Room};
use super::header;
use crate::virtio::chain::Chain;

/// Bytes of the length before a frame.
const PREFIX: usize = 4;
/// Bytes taken from the socket at once; holds the longest frame.
const INBOX: usize = 128 << 10;
/// Bytes of a frame that are worth a place of their own in a system call. Shorter ones are copied out of
/// the inbox, to which many come by one call.
const DIRECT: usize = 4096;

/// The socket, with what has been received and sent in part: that belongs to the connection, which
/// goes on when the device is reset. The process at its other side may be
/// [replaced](Self::replace).
#[derive(Clone)]
pub struct StreamSocket {
    line: Arc<Line>,
}

/// What the back end and its ports share.
struct Line {
    // Taken by one worker at a time, never by a vCPU thread.
    connection: Mutex<Connection>,
    /// Readable when the socket has been replaced, until a port has seen it.
    replaced: EventFd,
}

struct Connection {
    socket: Arc<UnixStream>,
    /// How often it has been replaced.
    generation: u32,
    /// The other side is gone.
    lost: bool,
    inbox: Box<[u8]>,
    start: usize,
    end: usize,
    /// Bytes of the last frame: the next is often as long.
    last: usize,
    /// The socket gave less than there was room for: it has to be waited for before it is asked again.
    drained: bool,
    unsent: Vec<u8>,
    prefixes: Vec<[u8; PREFIX]>,
    iovecs: Iovecs,
}

impl StreamSocket {
    /// Takes over a connected socket.
    ///
    /// # Errors
    ///
    /// It cannot be made non-blocking, or there is no descriptor left.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let connection = Connection {
            socket: Arc::new(socket),
            generation: 0,
            lost: false,
            inbox: vec![0; INBOX].into(),
            start: 0,
            end: 0,
            last: 0,
            drained: false,
            unsent: Vec::with_capacity(PREFIX + header::MAX_FRAME),
            prefixes: Vec::new(),
            iovecs: Iovecs::default(),
        };
        let replaced = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(Self { line: Arc::new(Line { connection: Mutex::new(connection), replaced }) })
    }

    /// The socket at present.
    pub fn socket(&self) -> Arc<UnixStream> {
        Arc::clone(&self.line.lock().socket)
    }

    /// Goes on with another socket, whose other side knows nothing of the frames so far; what the
    /// previous connection has begun is lost. A device that lost its link gets it back.
    ///
    /// # Errors
    ///
    /// It cannot be made non-blocking.
    pub fn replace(&self, socket: UnixStream) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        let mut connection = self.line.lock();
        connection.socket = Arc::new(socket);
        connection.generation = connection.generation.wrapping_add(1);
        (connection.lost, connection.drained) = (false, false);
        (connection.start, connection.end, connection.last) = (0, 0, 0);
        connection.unsent.clear();
        drop(connection);
        self.line.replaced.write(1)
    }
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for StreamSocket {
    fn pairs(&self) -> u16 {
        1
    }

    fn has_offloads(&self) -> bool {
        false
    }

    fn port(&self, _: u16) -> io::Result<Box<dyn Port>> {
        let connection = self.line.lock();
        let (socket, generation) = (Arc::clone(&connection.socket), connection.generation);
        Ok(Box::new(StreamPort { line: Arc::clone(&self.line), socket, generation }))
    }

    fn set_offloads(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn use_pairs(&self, _: u16) -> io::Result<()> {
        Ok(())
    }
}

struct StreamPort {
    line: Arc<Line>,
    /// The socket last seen, to wait for.
    socket: Arc<UnixStream>,
    generation: u32,
}

impl StreamPort {
    /// The connection, to which this port changes over if it is another one.
    fn connection(&mut self) -> MutexGuard<'_, Connection> {
        let connection = self.line.lock();
        if connection.generation != self.generation {
            self.socket = Arc::clone(&connection.socket);
            self.generation = connection.generation;
        }
        connection
    }
}

impl Port for StreamPort {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn receive(&mut self, room: &mut Room, spill: &mut [u8]) -> io::Result<usize> {
        let mut connection = self.connection();
        let received = connection.receive(room, spill);
        connection.note(received)
    }

    fn send(&mut self, frames: &[Chain]) -> io::Result<usize> {
        let mut connection = self.connection();
        let sent = match connection.flush() {
            Ok(true) => connection.send(frames),
            Ok(false) => Err(io::ErrorKind::WouldBlock.into()),
            Err(error) => Err(error),
        };
        connection.note(sent)
    }

    fn flush(&mut self) -> io::Result<bool> {
        let mut connection = self.connection();
        let flushed = connection.flush();
        connection.note(flushed)
    }

    fn is_connected(&self) -> bool {
        !self.line.lock().lost
    }

    fn revival(&self) -> Option<BorrowedFd<'_>> {
        Some(buffers::descriptor(&self.line.replaced))
    }

    fn revive(&mut self) -> bool {
        let _ = self.line.replaced.read();
        !self.connection().lost
    }
}

/// What stands before the frame of a chain, in which no frame is longer than the longest.
fn prefix(frame: &Chain) -> [u8; PREFIX] {
    let len = frame.readable_len().saturating_sub(header::LEN).min(header::MAX_FRAME);
    u32::try_from(len).unwrap_or(0).to_be_bytes()
}

/// What was received, if it is not the end.
fn some(count: usize) -> io::Result<usize> {
    if count == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(count) }
}

/// A frame behind a header that says nothing.
fn copy(frame: &[u8], room: &mut Room, spill: &mut [u8]) -> io::Result<usize> {
    room.copy_in(0, &[0; header::LEN]);
    let fitted = room.copy_in(header::LEN, frame);
    let rest = &frame[fitted..];
    let spill = spill.get_mut(..rest.len()).ok_or(io::ErrorKind::InvalidData)?;
    spill.copy_from_slice(rest);
    Ok(header::LEN + frame.len())
}

impl Connection {
    /// Keeps in mind if `result` says that the other side is gone.
    fn note<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        use io::ErrorKind::{
            BrokenPipe, ConnectionReset, InvalidData, NotConnected, UnexpectedEof,
        };
        self.lost |= result.as_ref().is_err_and(|error| {
            let kinds = [BrokenPipe, ConnectionReset, InvalidData, NotConnected, UnexpectedEof];
            kinds.contains(&error.kind())
        });
        result
    }

    fn receive(&mut self, room: &mut Room, spill: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(frame) = self.next_frame()? {
                let len = frame.len();
                let received = copy(frame, room, spill);
                self.last = len;
                return received;
            }
            if std::mem::take(&mut self.drained) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            if self.fill(room)? {
                room.copy_in(0, &[0; header::LEN]);
                return Ok(header::LEN + self.last);
            }
        }
    }

    /// The next frame, if it is there whole.
    fn next_frame(&mut self) -> io::Result<Option<&[u8]>> {
        let there = &self.inbox[self.start..self.end];
        let Some((prefix, rest)) = there.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let len = u32::from_be_bytes(*prefix) as usize;
        if len > header::MAX_FRAME {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if rest.len() < len {
            return Ok(None);
        }
        let from = self.start + PREFIX;
        self.start = from + len;
        Ok(Some(&self.inbox[from..from + len]))
    }

    /// Receives once, when no whole frame is there; true if that was the rest of a frame and is in its
    /// place in `room`.
    ///
    /// A long frame goes straight there: one that has begun, or one like the last. What comes behind it,
    /// and frames that turn out to be others, go to the inbox.
    fn fill(&mut self, room: &mut Room) -> io::Result<bool> {
        self.inbox.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let begun = self.inbox[..self.end].first_chunk::<PREFIX>();
        let expected = begun.map_or(self.last, |prefix| u32::from_be_bytes(*prefix) as usize);
        let there = self.end.saturating_sub(PREFIX);
        if (self.end > 0 && begun.is_none())
            || expected.saturating_sub(there) < DIRECT
            || header::LEN + expected > room.len()
        {
            let place = &mut self.inbox[self.end..];
            let most = place.len();
            let count = some(recv(&self.socket, place, RecvFlags::DONTWAIT)?.0)?;
            self.drained = count < most;
            self.end += count;
            return Ok(false);
        }
        self.fill_room(room, expected, there)
    }

    /// Receives a frame of presumably `len` bytes, of which the inbox has `there`, behind its length if it
    /// has that.
    fn fill_room(&mut self, room: &mut Room, len: usize, there: usize) -> io::Result<bool> {
        let (begun, rest) = (self.end > 0, len - there);
        let mut prefix = [0; PREFIX];
        // Bytes of the room that come too early for their frame, or of another, can go to the inbox before
        // those it gets now.
        let (before, behind) = self.inbox.split_at_mut(PREFIX + len);
        let head = if begun { &mut [][..] } else { &mut prefix[..] };
        let (place, most) = (header::LEN + there, head.len() + rest + behind.len());
        let fd = self.socket.as_fd();
        let count = some(room.receive_into(fd, head, place..place + rest, behind)?)?;
        self.drained = count < most;
        if !begun {
            before[..PREFIX].copy_from_slice(&prefix);
        }
        let head = if begun { 0 } else { PREFIX };
        let whole = u32::from_be_bytes(*before.first_chunk().unwrap_or(&prefix)) as usize == len;
        if whole && count >= head + rest {
            room.copy_in(header::LEN, &before[PREFIX..PREFIX + there]);
            (self.start, self.end) = (PREFIX + len, PREFIX + len + count - head - rest);
            self.last = len;
            return Ok(true);
        }
        let got = count.saturating_sub(head).min(rest);
        room.copy_out(place, &mut before[PREFIX + there..PREFIX + there + got]);
        self.end = if begun { self.end + count } else { count };
        self.last = 0;
        Ok(false)
    }

    fn send(&mut self, frames: &[Chain]) -> io::Result<usize> {
        self.prefixes.clear();
        self.prefixes.extend(frames.iter().map(prefix));
        let fd = self.socket.as_fd();
        let mut left = buffers::send_frames(fd, &self.prefixes, frames, &mut self.iovecs)?;
        for (done, (prefix, frame)) in self.prefixes.iter().zip(frames).enumerate() {
            let len = u32::from_be_bytes(*prefix) as usize;
            if left == 0 {
                return Ok(done);
            }
            if left >= PREFIX + len {
                left -= PREFIX + len;
                continue;
            }
            // A frame that has begun must be ended: what the socket did not take is kept.
            let sent = left.saturating_sub(PREFIX);
            self.unsent.extend_from_slice(&prefix[left.min(PREFIX)..]);
            let from = self.unsent.len();
            self.unsent.resize(from + len - sent, 0);
            let rest = &mut self.unsent[from..];
            frame.read(header::LEN + sent, rest).map_err(|_| io::ErrorKind::InvalidData)?;
            return Ok(done + 1);
        }
        Ok(frames.len())
    }

    fn flush(&mut self) -> io::Result<bool> {
        while !self.unsent.is_empty() {
            match send(&self.socket, &self.unsent, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(rustix::io::Errno::AGAIN) => return Ok(false),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}

impl std::fmt::Debug for StreamSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamSocket")
            .field("socket", &self.line.lock().socket)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "stream_test.rs"]
mod stream_test;
