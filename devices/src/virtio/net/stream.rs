//! A stream socket as a back end, in the protocol of passt and of QEMU's stream sockets: each frame
//! behind its length in four bytes, big-endian, and no virtio-net header.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::backend::{Backend, Port};
use super::buffers::{self, Iovecs, Room};
use super::header;
use crate::virtio::chain::Chain;

/// Bytes of the length before a frame.
const PREFIX: usize = 4;
/// Bytes taken from the socket at once; holds the longest frame.
const INBOX: usize = 128 << 10;

/// The socket, with what has been received and sent in part: that belongs to the connection, which
/// goes on when the device is reset.
pub struct StreamSocket {
    socket: Arc<UnixStream>,
    // Taken by one worker at a time, never by a vCPU thread.
    connection: Arc<Mutex<Connection>>,
}

struct Connection {
    inbox: Box<[u8]>,
    start: usize,
    end: usize,
    unsent: Vec<u8>,
    iovecs: Iovecs,
}

impl StreamSocket {
    /// Takes over a connected socket.
    ///
    /// # Errors
    ///
    /// It cannot be made non-blocking.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let connection = Connection {
            inbox: vec![0; INBOX].into(),
            start: 0,
            end: 0,
            unsent: Vec::with_capacity(PREFIX + header::MAX_FRAME),
            iovecs: Iovecs::default(),
        };
        Ok(Self { socket: Arc::new(socket), connection: Arc::new(Mutex::new(connection)) })
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
        let (socket, connection) = (Arc::clone(&self.socket), Arc::clone(&self.connection));
        Ok(Box::new(StreamPort { socket, connection }))
    }

    fn set_offloads(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn use_pairs(&self, _: u16) -> io::Result<()> {
        Ok(())
    }
}

struct StreamPort {
    socket: Arc<UnixStream>,
    connection: Arc<Mutex<Connection>>,
}

impl StreamPort {
    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Port for StreamPort {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn receive(&mut self, room: &mut Room, spill: &mut [u8]) -> io::Result<usize> {
        let mut connection = self.connection();
        loop {
            if let Some(frame) = connection.next_frame()? {
                return copy(frame, room, spill);
            }
            connection.fill(&self.socket)?;
        }
    }

    fn send(&mut self, frame: &Chain) -> io::Result<()> {
        let mut connection = self.connection();
        if !connection.flush(&self.socket)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        connection.send(&self.socket, frame)
    }

    fn flush(&mut self) -> io::Result<bool> {
        self.connection().flush(&self.socket)
    }
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

    /// Receives once; there is room for it, as no whole frame is left.
    fn fill(&mut self, socket: &UnixStream) -> io::Result<()> {
        self.inbox.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let (count, _) = recv(socket, &mut self.inbox[self.end..], RecvFlags::DONTWAIT)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.end += count;
        Ok(())
    }

    fn send(&mut self, socket: &UnixStream, frame: &Chain) -> io::Result<()> {
        let len = frame.readable_len().saturating_sub(header::LEN).min(header::MAX_FRAME);
        let prefix = u32::try_from(len).map_err(|_| io::ErrorKind::InvalidData)?.to_be_bytes();
        let fd = socket.as_fd();
        let sent = buffers::send_frame(fd, &prefix, frame, header::LEN, &mut self.iovecs)?;
        // A frame that has begun must be ended: what the socket did not take is kept.
        let (prefix, done) = (&prefix[sent.min(PREFIX)..], sent.saturating_sub(PREFIX));
        if done < len {
            self.unsent.extend_from_slice(prefix);
            let from = self.unsent.len();
            self.unsent.resize(from + len - done, 0);
            frame
                .read(header::LEN + done, &mut self.unsent[from..])
                .map_err(|_| io::ErrorKind::InvalidData)?;
        }
        Ok(())
    }

    fn flush(&mut self, socket: &UnixStream) -> io::Result<bool> {
        while !self.unsent.is_empty() {
            match send(socket, &self.unsent, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
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
        f.debug_struct("StreamSocket").field("socket", &self.socket).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "stream_test.rs"]
mod stream_test;
