//! One direction of a port's host side: an opened file, pipe, terminal or socket, read and written
//! without ever waiting for whoever is at its other end.
#![allow(unsafe_code)] // readv(2) and writev(2) on guest RAM.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};

use crate::rate_limit::RateLimitedLog;

/// Most bytes moved by one system call, so that a disk cannot keep the device for long.
const MOST: usize = 1 << 20;
/// What a pipe takes without waiting once poll(2) says so, where it has one writer (PIPE_BUF).
const MOST_PIPE: usize = 4096;
/// The same for a terminal: less than it ever says it has room for but while a reader sleeps.
const MOST_TERMINAL: usize = 256;

/// How to keep from waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// The kernel says when it would have to wait: O_NONBLOCK is set.
    NonBlocking,
    /// The file is shared with others, who would be surprised by O_NONBLOCK: asked before each
    /// call, of which none moves more than this.
    Asked(usize),
    /// A file on a disk is always ready.
    Always,
}

/// What came of an attempt to read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Not now: the next event tells.
    Nothing,
    /// The other end is gone, or the file has ended.
    End,
}

/// Room for a list of buffers, kept from write to write.
#[derive(Debug, Default)]
pub(super) struct Scratch(Vec<libc::iovec>);

// SAFETY: the pointers are only used within one call, which fills the list first.
unsafe impl Send for Scratch {}

/// An opened file and what is known about it.
#[derive(Debug)]
pub(super) struct Stream {
    fd: Arc<OwnedFd>,
    mode: Mode,
    /// Worth an attempt.
    ready: bool,
    /// Nothing more comes, or goes.
    ended: bool,
    log: RateLimitedLog,
}

impl Stream {
    pub(super) fn new(fd: Arc<OwnedFd>) -> Self {
        let kind = fstat(&*fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
        let flags = fcntl_getfl(&*fd).unwrap_or(OFlags::empty());
        let mode = match kind {
            Ok(FileType::RegularFile) => Mode::Always,
            _ if flags.contains(OFlags::NONBLOCK) => Mode::NonBlocking,
            Ok(FileType::CharacterDevice) => Mode::Asked(MOST_TERMINAL),
            _ => Mode::Asked(MOST_PIPE),
        };
        Self { fd, mode, ready: true, ended: false, log: RateLimitedLog::new() }
    }

    pub(super) fn fd(&self) -> &Arc<OwnedFd> {
        &self.fd
    }

    /// Something happened: worth an attempt again.
    pub(super) fn wake(&mut self) {
        self.ready = true;
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready && !self.ended
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether the other end is gone for good, or no terminal has the other end open.
    pub(super) fn is_hung_up(&self) -> bool {
        self.state(PollFlags::empty()).intersects(PollFlags::HUP | PollFlags::ERR)
    }

    fn state(&self, events: PollFlags) -> PollFlags {
        let mut fds = [PollFd::from_borrowed_fd(self.fd.as_fd(), events)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let _ = poll(&mut fds, Some(&now));
        fds[0].revents()
    }

    /// Reads into `buffers`, which lie in guest RAM and are not empty.
    pub(super) fn read(&mut self, buffers: &[libc::iovec]) -> Moved {
        self.attempt(PollFlags::IN, |fd, _| {
            let count = libc::c_int::try_from(buffers.len()).unwrap_or(libc::c_int::MAX);
            // SAFETY: the buffers are guest RAM, mapped as long as the chain is that names them.
            unsafe { libc::readv(fd, buffers.as_ptr(), count) }
        })
    }

    /// Writes the bytes of `buffers`, guest RAM, from `skip` on, or the first of them.
    pub(super) fn write(
        &mut self,
        buffers: &[libc::iovec],
        skip: usize,
        Scratch(scratch): &mut Scratch,
    ) -> Moved {
        self.attempt(PollFlags::OUT, |fd, most| {
            cut(buffers, skip, most, scratch);
            let count = libc::c_int::try_from(scratch.len()).unwrap_or(libc::c_int::MAX);
            // SAFETY: parts of buffers in guest RAM, mapped as long as the chain is that names them.
            unsafe { libc::writev(fd, scratch.as_ptr(), count) }
        })
    }

    /// Writes one byte if that is possible now.
    pub(super) fn write_byte(&mut self, mut byte: u8) {
        let buffer = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        self.attempt(PollFlags::OUT, |fd, _| {
            // SAFETY: one byte of the stack.
            unsafe { libc::writev(fd, &raw const buffer, 1) }
        });
    }

    fn attempt(
        &mut self,
        event: PollFlags,
        mut transfer: impl FnMut(libc::c_int, usize) -> isize,
    ) -> Moved {
        if self.ended {
            return Moved::End;
        }
        let most = match self.mode {
            Mode::Asked(_) if self.state(event).is_empty() => {
                self.ready = false;
                return Moved::Nothing;
            }
            Mode::Asked(most) => most,
            Mode::NonBlocking | Mode::Always => MOST,
        };
        let error = loop {
            let count = transfer(self.fd.as_raw_fd(), most);
            match usize::try_from(count) {
                Ok(0) => break None,
                Ok(count) => return Moved::Bytes(count),
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => break Some(error),
                },
            }
        };
        match error {
            Some(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.ready = false;
                return Moved::Nothing;
            }
            // A disk that is full now need not be so for ever.
            Some(error) if self.mode == Mode::Always && event == PollFlags::OUT => {
                if let Some(suppressed) = self.log.admit() {
                    tracing::warn!(suppressed, "output of a console is lost: {error}");
                }
            }
            _ => self.ended = true,
        }
        Moved::End
    }

    /// The other end is back.
    pub(super) fn revive(&mut self) {
        (self.ready, self.ended) = (true, false);
    }
}

/// Makes `to` the parts of `buffers` that hold at most `most` bytes from `skip` on.
fn cut(buffers: &[libc::iovec], mut skip: usize, mut most: usize, to: &mut Vec<libc::iovec>) {
    to.clear();
    for buffer in buffers {
        let skipped = skip.min(buffer.iov_len);
        skip -= skipped;
        let len = (buffer.iov_len - skipped).min(most);
        most -= len;
        if len > 0 {
            let iov_base = buffer.iov_base.cast::<u8>().wrapping_add(skipped).cast();
            to.push(libc::iovec { iov_base, iov_len: len });
        }
    }
}
