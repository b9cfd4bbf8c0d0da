//! Where a disk's sectors are: storage, shared by all queues of a device and opened by the machine,
//! and the engines that do the queues' I/O on it, one for each.
//!
//! Nothing here knows requests, status bytes or features; ranges were checked against the capacity.

mod file;
mod flight;
mod qcow2;
mod raw;
mod uring;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmm_sys_util::eventfd::EventFd;

use crate::memory::GuestMemory;
use crate::virtio::chain::Chain;

pub use self::qcow2::{Layer, Qcow2Header};
pub use self::raw::{Raw, RawOptions};

/// What holds a disk's sectors.
pub trait Storage: Send + Sync {
    /// Its size in bytes, a multiple of 512.
    fn capacity(&self) -> u64;

    /// What it could have in bytes, if its owner on the host has made it larger.
    ///
    /// # Errors
    ///
    /// The host does not tell.
    fn host_size(&self) -> io::Result<u64> {
        Ok(self.capacity())
    }

    /// Lets it grow to `bytes`, a multiple of 512.
    ///
    /// # Errors
    ///
    /// It cannot; nothing has changed.
    fn grow(&self, bytes: u64) -> io::Result<()>;

    /// What does the I/O of one queue that keeps at most `slots` requests in flight, all with buffers
    /// in `memory`.
    ///
    /// # Errors
    ///
    /// The host lacks descriptors or memory.
    fn engine(&self, memory: &Arc<GuestMemory>, slots: u16) -> io::Result<Box<dyn Engine>>;
}

/// Does the I/O of one queue. Each operation in flight has a slot number, chosen by the caller and not
/// used again before its result was [reaped](Self::reap).
pub trait Engine: Send {
    /// Starts an operation. `Some`: it is over already.
    fn start(&mut self, slot: u16, operation: Operation<'_>) -> Option<io::Result<()>>;

    /// Called by the thread that does everything from now on, before anything else.
    fn begin(&mut self) {}

    /// Hands everything started so far to the host's kernel at once.
    fn submit(&mut self) {}

    /// [Submits](Self::submit), then waits until there is something to reap, `doorbell` is rung, `stop`
    /// is readable, or `timeout` is over. Whether it is `stop`; none: this engine cannot wait, and has
    /// done nothing. The doorbell may be left readable.
    fn wait(
        &mut self,
        _stop: &EventFd,
        _doorbell: &EventFd,
        _timeout: Option<Duration>,
    ) -> Option<bool> {
        None
    }

    /// The next operation that is over, if there is one.
    fn reap(&mut self) -> Option<(u16, io::Result<()>)> {
        None
    }

    /// Readable when there is something to reap; none where operations end as they start.
    fn completions(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Waits at most `timeout` until there is something to reap. May return earlier.
    fn wait_for_completion(&mut self, timeout: Duration) {
        if let Some(readable) = self.completions() {
            wait_readable(readable, timeout);
        }
    }

    /// Asks the host's kernel to give up what is in flight; it is then reaped as failed.
    fn cancel(&mut self) {}
}

fn wait_readable(fd: BorrowedFd<'_>, timeout: Duration) {
    let timeout = Timespec::try_from(timeout).unwrap_or_default();
    let _ = poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timeout));
}

/// One operation. Offsets and lengths are in bytes, multiples of 512.
#[derive(Debug)]
pub enum Operation<'a> {
    /// Fills the buffers from the offset on.
    Read(u64, Data<'a>),
    /// Writes the buffers from the offset on.
    Write(u64, Data<'a>),
    /// Makes everything that was written durable.
    Flush,
    /// Nobody needs what is in the range any more.
    Discard(Range),
    /// The range is to read as zeros; the flag lets space be given back to the host.
    WriteZeroes(Range, bool),
}

/// What is left of an engine that has ended: nothing can be done with it.
pub(super) struct Ended;

impl Engine for Ended {
    fn start(&mut self, _: u16, _: Operation<'_>) -> Option<io::Result<()>> {
        Some(Err(io::ErrorKind::NotConnected.into()))
    }
}

/// A piece of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
}

/// The data part of a request's chain.
#[derive(Clone, Copy, Debug)]
pub struct Data<'a> {
    chain: &'a Chain,
    /// Bytes before the data, in the part of the chain that the data is in.
    skip: usize,
    len: usize,
}

impl<'a> Data<'a> {
    /// What the driver wants written: `len` readable bytes from `skip` on.
    pub(super) fn to_write(chain: &'a Chain, skip: usize, len: usize) -> Self {
        Self { chain, skip, len }
    }

    /// Where the driver wants data: the first `len` writable bytes.
    pub(super) fn to_fill(chain: &'a Chain, len: usize) -> Self {
        Self { chain, skip: 0, len }
    }

    /// Its length in bytes.
    fn len(&self) -> usize {
        self.len
    }

    /// Replaces `iovecs` by the buffers to be read from, or with `fill` those to be filled.
    fn iovecs(&self, fill: bool, iovecs: &mut Vec<libc::iovec>) {
        iovecs.clear();
        let buffers = if fill { self.chain.writable() } else { self.chain.readable() };
        let (mut skip, mut left) = (self.skip, self.len);
        for buffer in buffers {
            let skipped = skip.min(buffer.iov_len);
            skip -= skipped;
            let len = (buffer.iov_len - skipped).min(left);
            left -= len;
            if len > 0 {
                let start = buffer.iov_base.cast::<u8>().wrapping_add(skipped);
                iovecs.push(libc::iovec { iov_base: start.cast(), iov_len: len });
            }
        }
    }

    /// Copies what the driver wants written, from byte `at` on.
    fn copy_out(&self, at: usize, to: &mut [u8]) -> io::Result<()> {
        self.chain.read(self.skip + at, to).map_err(io::Error::other)
    }

    /// Gives the driver data, from byte `at` on.
    fn copy_in(&self, at: usize, from: &[u8]) -> io::Result<()> {
        self.chain.write(self.skip + at, from).map_err(io::Error::other)
    }
}

/// Memory of the process that data passes through when it cannot go straight between guest memory
/// and storage, a piece at a time; aligned for direct I/O.
#[derive(Debug, Default)]
struct Bounce {
    bytes: Vec<u8>,
    start: usize,
}

impl Bounce {
    /// Bytes that pass through at once.
    const PIECE: usize = 128 << 10;
    const ALIGN: usize = 4096;

    /// The memory; allocated when it is first needed.
    fn buffer(&mut self, len: usize) -> &mut [u8] {
        if self.bytes.is_empty() {
            self.bytes = vec![0; Self::PIECE + Self::ALIGN];
            self.start = self.bytes.as_ptr().align_offset(Self::ALIGN).min(Self::ALIGN);
        }
        &mut self.bytes[self.start..][..len.min(Self::PIECE)]
    }

    /// Moves `data` from storage to the driver: `read` fills a buffer from a byte of the data on.
    fn fill(
        &mut self,
        data: &Data<'_>,
        mut read: impl FnMut(&mut [u8], u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut at = 0;
        while at < data.len() {
            let buffer = self.buffer(data.len() - at);
            read(buffer, at as u64)?;
            data.copy_in(at, buffer)?;
            at += buffer.len();
        }
        Ok(())
    }

    /// Moves `data` from the driver to storage.
    fn drain(
        &mut self,
        data: &Data<'_>,
        mut write: impl FnMut(&[u8], u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut at = 0;
        while at < data.len() {
            let buffer = self.buffer(data.len() - at);
            data.copy_out(at, buffer)?;
            write(buffer, at as u64)?;
            at += buffer.len();
        }
        Ok(())
    }
}
