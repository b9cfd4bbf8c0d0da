//! System calls on a raw file or block device, repeated until everything is done or fails.
#![allow(unsafe_code)] // Vectored I/O on guest memory; an ioctl.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, fallocate};

use super::Range;

/// Zeros are written in pieces of so many bytes.
pub(super) const ZERO_PIECE: usize = ZEROS.0.len() * 16;

#[repr(align(4096))]
pub(super) struct Zeros(pub(super) [u8; 64 << 10]);
pub(super) static ZEROS: Zeros = Zeros([0; 64 << 10]);

/// Buffers in guest memory, or of zeros; a list that is used again and again.
#[derive(Debug, Default)]
pub(super) struct Iovecs(pub(super) Vec<libc::iovec>);

// SAFETY: any thread may access what the pointers lead to, guest RAM or a constant; whoever does sees
// to it that it is still there.
unsafe impl Send for Iovecs {}

/// BLKDISCARD (linux/fs.h).
const BLKDISCARD: libc::Ioctl = 0x1277;

/// A file or block device.
#[derive(Debug)]
pub(super) struct BlockFile {
    pub(super) file: File,
    pub(super) is_device: bool,
    /// Alignment of buffers and lengths that direct I/O asks for.
    pub(super) direct: Option<usize>,
    /// Discarding is not possible here: not tried again.
    pub(super) no_discard: AtomicBool,
    /// A flush failed; see [`flushed`](Self::flushed).
    pub(super) lost: AtomicBool,
}

/// How a range is made to read as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zeroing {
    /// By giving its space back.
    Punch,
    /// By marking it as zero.
    Mark,
    /// By writing zeros.
    Write,
}

impl Zeroing {
    /// The best way.
    pub(super) fn first(unmap: bool) -> Self {
        if unmap { Self::Punch } else { Self::Mark }
    }

    /// The next best way, when this one is not supported.
    pub(super) fn next(self) -> Self {
        if self == Self::Punch { Self::Mark } else { Self::Write }
    }

    /// Flags of fallocate(2), which works on block devices too; none for writing.
    pub(super) fn flags(self) -> Option<FallocateFlags> {
        match self {
            Self::Punch => Some(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE),
            Self::Mark => Some(FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE),
            Self::Write => None,
        }
    }
}

/// Whether an answer of the kernel means that this kind of file cannot do that.
pub(super) fn is_unsupported(error: &io::Error) -> bool {
    // ENOSYS and EINVAL: old kernels and some network file systems.
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL))
}

impl BlockFile {
    pub(super) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Whether the kernel takes these buffers as they are.
    pub(super) fn takes(&self, iovecs: &[libc::iovec]) -> bool {
        self.direct.is_none_or(|align| {
            iovecs.iter().all(|part| (part.iov_base as usize | part.iov_len).is_multiple_of(align))
        })
    }

    /// Fills all of `iovecs`, which are guest memory, or fails; uses them up.
    pub(super) fn read(&self, iovecs: &mut [libc::iovec], offset: u64) -> io::Result<()> {
        let eof = io::ErrorKind::UnexpectedEof;
        transfer(iovecs, offset, eof, |iovecs, count, offset| {
            // SAFETY: buffers of a checked chain: mapped guest RAM that no Rust reference points to.
            unsafe { libc::preadv(self.fd(), iovecs, count, offset) }
        })
    }

    /// Writes all of `iovecs`, which are guest memory, or fails; uses them up.
    pub(super) fn write(&self, iovecs: &mut [libc::iovec], offset: u64) -> io::Result<()> {
        transfer(iovecs, offset, io::ErrorKind::WriteZero, |iovecs, count, offset| {
            // SAFETY: as above; only read.
            unsafe { libc::pwritev(self.fd(), iovecs, count, offset) }
        })
    }

    /// Why no flush can succeed any more, if that is so.
    pub(super) fn lost(&self) -> Option<io::Error> {
        let reason = "an earlier flush failed: what was written before it may be lost";
        self.lost.load(Ordering::Relaxed).then(|| io::Error::other(reason))
    }

    /// The result of a flush. The kernel tells of what it could not write once only, and drops it from
    /// its page cache, so that the next flush would succeed as though everything were durable.
    pub(super) fn flushed(&self, result: io::Result<()>) -> io::Result<()> {
        result.inspect_err(|error| {
            let told = !matches!(
                error.raw_os_error(),
                Some(libc::EINTR | libc::EAGAIN | libc::ECANCELED | libc::ENOMEM)
            );
            if told && self.direct.is_none() {
                self.lost.store(true, Ordering::Relaxed);
            }
        })
    }

    /// Makes everything that was written durable.
    pub(super) fn flush(&self) -> io::Result<()> {
        match self.lost() {
            Some(error) => Err(error),
            None => self.flushed(self.file.sync_data()),
        }
    }

    /// Discards a range if that is possible. Nobody relies on it.
    pub(super) fn discard(&self, range: Range) -> io::Result<()> {
        if self.no_discard.load(Ordering::Relaxed) {
            return Ok(());
        }
        let done = if self.is_device {
            discard_device(&self.file, range)
        } else {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(&self.file, flags, range.offset, range.len).map_err(io::Error::from)
        };
        self.discarded(done)
    }

    /// The result of a discard, with "not supported" remembered and forgiven.
    pub(super) fn discarded(&self, result: io::Result<()>) -> io::Result<()> {
        match result {
            Err(error) if is_unsupported(&error) => {
                self.no_discard.store(true, Ordering::Relaxed);
                Ok(())
            }
            other => other,
        }
    }

    /// Makes a range read as zeros in the best way there is.
    pub(super) fn write_zeroes(&self, range: Range, unmap: bool) -> io::Result<()> {
        let mut way = Zeroing::first(unmap);
        while let Some(flags) = way.flags() {
            match fallocate(&self.file, flags, range.offset, range.len).map_err(io::Error::from) {
                Err(error) if is_unsupported(&error) => way = way.next(),
                done => return done,
            }
        }
        let mut at = 0;
        while at < range.len {
            let len = usize::try_from(range.len - at).unwrap_or(usize::MAX).min(ZEROS.0.len());
            self.file.write_all_at(&ZEROS.0[..len], range.offset + at)?;
            at += len as u64;
        }
        Ok(())
    }
}

/// Drops the first `count` bytes of what `iovecs[*first..]` hold.
pub(super) fn advance(iovecs: &mut [libc::iovec], first: &mut usize, mut count: usize) {
    while let Some(part) = iovecs.get_mut(*first) {
        if count < part.iov_len {
            part.iov_base = part.iov_base.cast::<u8>().wrapping_add(count).cast();
            part.iov_len -= count;
            return;
        }
        count -= part.iov_len;
        *first += 1;
    }
}

/// Calls `call` until all of `iovecs` is through.
fn transfer(
    iovecs: &mut [libc::iovec],
    mut offset: u64,
    nothing: io::ErrorKind,
    call: impl Fn(*const libc::iovec, libc::c_int, libc::off_t) -> isize,
) -> io::Result<()> {
    let mut first = 0;
    while first < iovecs.len() {
        let at = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        // A chain has at most IOV_MAX buffers.
        let count = libc::c_int::try_from(iovecs.len() - first).map_err(io::Error::other)?;
        match usize::try_from(call(iovecs[first..].as_ptr(), count, at)) {
            Ok(0) => return Err(nothing.into()),
            Ok(done) => {
                advance(iovecs, &mut first, done);
                offset += done as u64;
            }
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

fn discard_device(file: &File, range: Range) -> io::Result<()> {
    let range = [range.offset, range.len];
    // SAFETY: the kernel reads the two numbers.
    match unsafe { libc::ioctl(file.as_raw_fd(), BLKDISCARD, range.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
#[path = "file_test.rs"]
mod file_test;
