//! Guest buffers as the host's kernel takes them: frames are read into them and sent from them without
//! a copy in between.
#![allow(unsafe_code)] // Vectored system calls on guest memory.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::header;
use crate::memory::GuestMemory;
use crate::virtio::chain::{Chain, slices};
use crate::virtio::queue::MAX_BUFFERS;

/// A list of buffers, reused from call to call. Empty between calls where nothing keeps the memory
/// behind them mapped.
#[derive(Default)]
pub(super) struct Iovecs(Vec<libc::iovec>);

// SAFETY: the pointers lead into guest RAM, which any thread may access.
unsafe impl Send for Iovecs {}

/// A chain that lies ready for frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    pub head: u16,
    pub len: usize,
    buffers: usize,
}

/// Chains gathered from a receive queue, in their order: room for the next frame.
pub struct Room {
    iovecs: Iovecs,
    chains: VecDeque<Ready>,
    len: usize,
    scratch: Iovecs,
    /// Keeps the mappings behind the buffers.
    _memory: Arc<GuestMemory>,
}

impl Room {
    /// No room.
    pub(super) fn new(memory: Arc<GuestMemory>) -> Self {
        let (iovecs, scratch) = Default::default();
        Self { iovecs, chains: VecDeque::new(), len: 0, scratch, _memory: memory }
    }

    /// Bytes that fit.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing fits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Chains that make it up.
    pub(super) fn chains(&self) -> usize {
        self.chains.len()
    }

    /// The `index`th chain.
    pub(super) fn chain(&self, index: usize) -> Option<Ready> {
        self.chains.get(index).copied()
    }

    /// Adds the writable buffers of `chain`; false if one system call could not take them all.
    pub(super) fn append(&mut self, chain: &Chain) -> bool {
        // One place is kept for what the guest has no room for, lest a frame is cut off unseen. Of a
        // chain that has as many buffers as a call takes, the last one is not used.
        let more = chain.writable();
        let (more, unused) = more.split_at(more.len().min(MAX_BUFFERS - 1));
        if self.iovecs.0.len() + more.len() > MAX_BUFFERS - 1 {
            return false;
        }
        self.iovecs.0.extend_from_slice(more);
        let unused: usize = unused.iter().map(|buffer| buffer.iov_len).sum();
        let (head, len, buffers) = (chain.head(), chain.writable_len() - unused, more.len());
        self.len += len;
        self.chains.push_back(Ready { head, len, buffers });
        true
    }

    /// Takes the first `count` chains out.
    pub(super) fn remove(&mut self, count: usize) {
        let mut buffers = 0;
        for chain in self.chains.drain(..count.min(self.chains.len())) {
            buffers += chain.buffers;
            self.len -= chain.len;
        }
        self.iovecs.0.drain(..buffers);
    }

    /// Copies bytes from `offset` on out; how many there were.
    pub(super) fn copy_out(&self, offset: usize, to: &mut [u8]) -> usize {
        let mut done = 0;
        for slice in slices(&self.iovecs.0, offset, to.len()) {
            done += slice.copy_to(&mut to[done..]);
        }
        done
    }

    /// Copies as much of `from` as there is room for to the bytes from `offset` on; how much.
    pub fn copy_in(&mut self, offset: usize, from: &[u8]) -> usize {
        let mut done = 0;
        for slice in slices(&self.iovecs.0, offset, from.len()) {
            slice.copy_from(&from[done..done + slice.len()]);
            done += slice.len();
        }
        done
    }

    /// Receives once from the socket `fd`: first into `head`, then into the bytes `place` of this room,
    /// then into `behind`; how many bytes in all.
    pub(super) fn receive_into(
        &mut self,
        fd: BorrowedFd<'_>,
        head: &mut [u8],
        place: Range<usize>,
        behind: &mut [u8],
    ) -> io::Result<usize> {
        let iovec = |bytes: &mut [u8]| libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        let iovecs = &mut self.scratch.0;
        iovecs.push(iovec(head));
        let (mut skip, mut left) = (place.start, place.len());
        for buffer in &self.iovecs.0 {
            let skipped = skip.min(buffer.iov_len);
            let len = left.min(buffer.iov_len - skipped);
            (skip, left) = (skip - skipped, left - len);
            if len > 0 {
                let start = buffer.iov_base.cast::<u8>().wrapping_add(skipped).cast();
                iovecs.push(libc::iovec { iov_base: start, iov_len: len });
            }
        }
        // The room has one buffer less than a call takes at most: of two more, `behind` may be one too
        // many, which bytes can do without.
        iovecs.push(iovec(behind));
        iovecs.truncate(MAX_BUFFERS);
        // SAFETY: a header of zeros is an empty one.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = iovecs.as_mut_ptr();
        message.msg_iovlen = iovecs.len() as _;
        let flags = libc::MSG_DONTWAIT;
        // SAFETY: `head` and `behind` are borrowed until the call returns; the other buffers are guest RAM,
        // kept mapped.
        let result = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags) };
        let error = io::Error::last_os_error();
        iovecs.clear();
        usize::try_from(result).map_err(|_| error)
    }

    /// Reads once from `fd`: first into this room, what does not fit into `spill`.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn read_from(&mut self, fd: BorrowedFd<'_>, spill: &mut [u8]) -> io::Result<usize> {
        let iovecs = &mut self.iovecs.0;
        iovecs.push(libc::iovec { iov_base: spill.as_mut_ptr().cast(), iov_len: spill.len() });
        let count = i32::try_from(iovecs.len()).unwrap_or(i32::MAX);
        // SAFETY: the buffers are guest RAM kept mapped, and `spill`, borrowed until the call returns.
        let result = unsafe { libc::readv(fd.as_raw_fd(), iovecs.as_ptr(), count) };
        iovecs.pop();
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Room").field("len", &self.len).field("chains", &self.chains.len()).finish()
    }
}

/// Writes all readable bytes of `frame` to `fd` by one call.
pub(super) fn write_frame(fd: BorrowedFd<'_>, frame: &Chain) -> io::Result<usize> {
    let buffers = frame.readable();
    let count = i32::try_from(buffers.len()).unwrap_or(i32::MAX);
    // SAFETY: the buffers are guest RAM, kept mapped by the chain.
    let result = unsafe { libc::writev(fd.as_raw_fd(), buffers.as_ptr(), count) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Sends `frames`, each behind its prefix and without its header, to the socket `fd` by one call; how many
/// bytes it took. What does not fit into a call is left out at the end.
pub(super) fn send_frames<const N: usize>(
    fd: BorrowedFd<'_>,
    prefixes: &[[u8; N]],
    frames: &[Chain],
    scratch: &mut Iovecs,
) -> io::Result<usize> {
    let iovecs = &mut scratch.0;
    for (prefix, frame) in prefixes.iter().zip(frames) {
        // The first frame is begun in any case: it may have as many buffers as a call takes.
        if !iovecs.is_empty() && iovecs.len() + 1 + frame.readable().len() > MAX_BUFFERS {
            break;
        }
        iovecs.push(libc::iovec { iov_base: prefix.as_ptr().cast_mut().cast(), iov_len: N });
        let mut skip = header::LEN;
        for buffer in frame.readable() {
            let skipped = skip.min(buffer.iov_len);
            skip -= skipped;
            if skipped < buffer.iov_len {
                iovecs.push(libc::iovec {
                    iov_base: buffer.iov_base.cast::<u8>().wrapping_add(skipped).cast(),
                    iov_len: buffer.iov_len - skipped,
                });
            }
        }
    }
    iovecs.truncate(MAX_BUFFERS);
    // SAFETY: a header of zeros is an empty one.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = iovecs.as_mut_ptr();
    message.msg_iovlen = iovecs.len() as _;
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the prefixes are borrowed and only read; the other buffers are guest RAM, kept mapped by
    // the chains.
    let result = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, flags) };
    let error = io::Error::last_os_error();
    iovecs.clear();
    usize::try_from(result).map_err(|_| error)
}

/// The descriptor of an eventfd, for poll(2).
pub(super) fn descriptor(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: it is open as long as `event` is borrowed.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}
