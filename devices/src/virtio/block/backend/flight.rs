//! One operation on a ring (io_uring), which may take the kernel several steps.

use io_uring::{opcode, squeue, types};
use rustix::fs::FallocateFlags;

use super::Range;
use super::file::{Iovecs, ZERO_PIECE, ZEROS, Zeroing};

/// The file's place among the ring's registered files.
const FILE: types::Fixed = types::Fixed(0);
/// What is being done in a slot.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Kind {
    Read,
    Write,
    #[default]
    Flush,
    Discard(Range),
    Zero(Range, Zeroing),
}

/// A slot: one operation, which may take the kernel several steps.
#[derive(Debug, Default)]
pub(super) struct Flight {
    pub(super) kind: Kind,
    pub(super) iovecs: Iovecs,
    /// The first buffer that is not through.
    pub(super) first: usize,
    pub(super) offset: u64,
    pub(super) left: u64,
    pub(super) retries: u8,
}

impl Flight {
    /// Its next step.
    pub(super) fn entry(&self) -> squeue::Entry {
        let fallocate = |range: Range, flags: FallocateFlags| {
            opcode::Fallocate::new(FILE, range.len)
                .offset(range.offset)
                .mode(flags.bits().cast_signed())
                .build()
        };
        let parts = self.iovecs.0.get(self.first..).unwrap_or_default();
        // A chain has at most IOV_MAX buffers.
        let count = u32::try_from(parts.len()).unwrap_or(0);
        match (self.kind, parts) {
            (Kind::Read, [part]) => {
                let len = u32::try_from(part.iov_len).unwrap_or(u32::MAX);
                opcode::Read::new(FILE, part.iov_base.cast(), len).offset(self.offset).build()
            }
            (Kind::Write, [part]) => {
                let len = u32::try_from(part.iov_len).unwrap_or(u32::MAX);
                opcode::Write::new(FILE, part.iov_base.cast(), len).offset(self.offset).build()
            }
            (Kind::Read, _) => {
                opcode::Readv::new(FILE, parts.as_ptr(), count).offset(self.offset).build()
            }
            (Kind::Write | Kind::Zero(_, Zeroing::Write), _) => {
                opcode::Writev::new(FILE, parts.as_ptr(), count).offset(self.offset).build()
            }
            (Kind::Flush, _) => opcode::Fsync::new(FILE).flags(types::FsyncFlags::DATASYNC).build(),
            (Kind::Discard(range), _) => {
                fallocate(range, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE)
            }
            (Kind::Zero(range, way), _) => {
                fallocate(range, way.flags().unwrap_or(FallocateFlags::KEEP_SIZE))
            }
        }
    }

    /// The next piece of zeros to be written.
    pub(super) fn refill_zeros(&mut self) {
        let mut left = usize::try_from(self.left).unwrap_or(usize::MAX).min(ZERO_PIECE);
        self.first = 0;
        self.iovecs.0.clear();
        while left > 0 {
            let len = left.min(ZEROS.0.len());
            // Only ever read from.
            let iov_base = ZEROS.0.as_ptr().cast_mut().cast();
            self.iovecs.0.push(libc::iovec { iov_base, iov_len: len });
            left -= len;
        }
    }
}
