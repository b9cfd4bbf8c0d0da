//! I/O on a raw disk through a ring of the queue's own (io_uring): what a batch of requests needs is
//! handed to the kernel in one system call, and the worker waits for the ring beside its doorbell.
#![allow(unsafe_code)] // Hands the kernel pointers to guest memory.

use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, squeue, types};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FallocateFlags;

use super::file::{Iovecs, ZERO_PIECE, ZEROS, Zeroing, advance, is_unsupported};
use super::raw::PlainEngine;
use super::{Data, Engine, Operation, Range};
use crate::memory::GuestMemory;

/// The file's place among the ring's registered files.
const FILE: types::Fixed = types::Fixed(0);
/// Not a slot: the answer to a cancellation.
const CANCELLATION: u64 = u64::MAX;
/// How often an operation is tried again that the kernel was too busy for.
const RETRIES: u8 = 100;
/// How long a cancelled operation may take to end when the engine goes away.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// What is being done in a slot.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Read,
    Write,
    Flush,
    Discard(Range),
    Zero(Range, Zeroing),
}

/// A slot: one operation, which may take the kernel several steps.
#[derive(Debug)]
struct Flight {
    kind: Kind,
    iovecs: Iovecs,
    /// The first buffer that is not through.
    first: usize,
    offset: u64,
    left: u64,
    retries: u8,
}

/// The I/O of one queue on a ring.
pub(super) struct UringEngine {
    /// Dropped only when nothing is in flight: the kernel may write to buffers until then.
    ring: ManuallyDrop<IoUring>,
    plain: PlainEngine,
    flights: ManuallyDrop<Vec<Flight>>,
    /// Operations that could not be put on the ring, and why.
    failed: VecDeque<(u16, io::Error)>,
    in_flight: u32,
    unsubmitted: bool,
    /// Keeps the buffers of what is in flight mapped.
    memory: ManuallyDrop<Arc<GuestMemory>>,
}

impl UringEngine {
    /// The one place where rings are made: at activation.
    ///
    /// # Errors
    ///
    /// The host's kernel refuses; `plain`, which also does what rings cannot, is given back.
    pub(super) fn new(
        plain: PlainEngine,
        memory: &Arc<GuestMemory>,
        slots: u16,
    ) -> Result<Self, (PlainEngine, io::Error)> {
        // One step of each slot, and a cancellation.
        let entries = (u32::from(slots) + 1).next_power_of_two();
        let ring = IoUring::builder().dontfork().build(entries).and_then(|ring| {
            ring.submitter().register_files(&[plain.file.fd()])?;
            Ok(ring)
        });
        let ring = match ring {
            Ok(ring) => ring,
            Err(error) => return Err((plain, error)),
        };
        let flight = || Flight {
            kind: Kind::Flush,
            iovecs: Iovecs::default(),
            first: 0,
            offset: 0,
            left: 0,
            retries: 0,
        };
        Ok(Self {
            ring: ManuallyDrop::new(ring),
            plain,
            flights: ManuallyDrop::new((0..slots).map(|_| flight()).collect()),
            failed: VecDeque::new(),
            in_flight: 0,
            unsubmitted: false,
            memory: ManuallyDrop::new(Arc::clone(memory)),
        })
    }

    fn transfer(
        &mut self,
        slot: u16,
        kind: Kind,
        offset: u64,
        data: &Data<'_>,
    ) -> Option<io::Result<()>> {
        let flight = &mut self.flights[usize::from(slot)];
        let read = matches!(kind, Kind::Read);
        data.iovecs(read, &mut flight.iovecs.0);
        if !self.plain.file.takes(&flight.iovecs.0) {
            // Rare: only drivers of firmware use buffers that direct I/O cannot. Not worth a ring.
            let operation =
                if read { Operation::Read(offset, *data) } else { Operation::Write(offset, *data) };
            return Some(self.plain.run(operation));
        }
        (flight.kind, flight.first, flight.retries) = (kind, 0, 0);
        (flight.offset, flight.left) = (offset, data.len() as u64);
        self.enqueue(slot);
        None
    }

    fn ranged(&mut self, slot: u16, kind: Kind) {
        let flight = &mut self.flights[usize::from(slot)];
        (flight.kind, flight.retries) = (kind, 0);
        if let Kind::Zero(range, Zeroing::Write) = kind {
            (flight.offset, flight.left) = (range.offset, range.len);
            flight.refill_zeros();
        }
        self.enqueue(slot);
    }

    /// Puts the next step of a slot on the ring.
    fn enqueue(&mut self, slot: u16) {
        let entry = self.flights[usize::from(slot)].entry().user_data(u64::from(slot));
        self.in_flight += 1;
        if let Err(error) = self.push(&entry) {
            self.in_flight -= 1;
            self.failed.push_back((slot, error));
        }
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        if self.ring.submission().is_full() {
            // Cannot be: there is an entry for each slot. Room is made all the same.
            self.ring.submit()?;
        }
        self.unsubmitted = true;
        // SAFETY: the buffers are guest memory, mapped as long as `memory`, or constants; they and the
        // list of them, `iovecs` in the slot's flight, stay until the operation was reaped (see `drop`).
        unsafe { self.ring.submission().push(entry) }.map_err(io::Error::other)
    }

    /// What the answer `result` of the kernel means for the operation in `slot`; nothing if it goes on.
    fn step(&mut self, slot: u16, result: i32) -> Option<io::Result<()>> {
        let file = Arc::clone(&self.plain.file);
        let flight = self.flights.get_mut(usize::from(slot))?;
        let Ok(done) = u32::try_from(result) else {
            let error = io::Error::from_raw_os_error(result.saturating_neg());
            let again = matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR));
            return match flight.kind {
                _ if again && flight.retries < RETRIES => {
                    flight.retries += 1;
                    self.enqueue(slot);
                    None
                }
                Kind::Discard(_) => Some(file.discarded(Err(error))),
                Kind::Zero(range, way) if way != Zeroing::Write && is_unsupported(&error) => {
                    self.ranged(slot, Kind::Zero(range, way.next()));
                    None
                }
                _ => Some(Err(error)),
            };
        };
        let nothing = match flight.kind {
            Kind::Read => io::ErrorKind::UnexpectedEof,
            Kind::Write | Kind::Zero(_, Zeroing::Write) => io::ErrorKind::WriteZero,
            Kind::Flush | Kind::Discard(_) | Kind::Zero(..) => return Some(Ok(())),
        };
        if done == 0 {
            return Some(Err(nothing.into()));
        }
        flight.left = flight.left.saturating_sub(u64::from(done));
        if flight.left == 0 {
            return Some(Ok(()));
        }
        flight.offset += u64::from(done);
        if let Kind::Zero(..) = flight.kind {
            flight.refill_zeros();
        } else {
            advance(&mut flight.iovecs.0, &mut flight.first, done as usize);
        }
        self.enqueue(slot);
        None
    }

    /// Waits for completions until `deadline`.
    fn wait(&self, deadline: Instant) {
        let Some(ring) = self.completions() else { return };
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or_default();
        let _ = poll(&mut [PollFd::from_borrowed_fd(ring, PollFlags::IN)], Some(&left));
    }
}

impl Flight {
    /// Its next step.
    fn entry(&self) -> squeue::Entry {
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
    fn refill_zeros(&mut self) {
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

impl Engine for UringEngine {
    fn start(&mut self, slot: u16, operation: Operation<'_>) -> Option<io::Result<()>> {
        let file = &self.plain.file;
        match operation {
            Operation::Read(offset, data) => return self.transfer(slot, Kind::Read, offset, &data),
            Operation::Write(offset, data) => {
                return self.transfer(slot, Kind::Write, offset, &data);
            }
            // No ring does BLKDISCARD before Linux 6.12.
            Operation::Discard(range) if file.is_device => return Some(file.discard(range)),
            Operation::Discard(_) if file.no_discard.load(Ordering::Relaxed) => {
                return Some(Ok(()));
            }
            Operation::Discard(range) => self.ranged(slot, Kind::Discard(range)),
            Operation::Flush => self.ranged(slot, Kind::Flush),
            Operation::WriteZeroes(range, unmap) => {
                self.ranged(slot, Kind::Zero(range, Zeroing::first(unmap)));
            }
        }
        None
    }

    fn submit(&mut self) {
        if self.unsubmitted {
            // Interrupted, or the kernel is short of memory: what is left is submitted next time,
            // which the caller's loop gets to because the ring is not empty.
            match self.ring.submit() {
                Ok(_) => self.unsubmitted = !self.ring.submission().is_empty(),
                Err(error) => tracing::debug!("io_uring_enter: {error}"),
            }
        }
    }

    fn reap(&mut self) -> Option<(u16, io::Result<()>)> {
        if let Some((slot, error)) = self.failed.pop_front() {
            return Some((slot, Err(error)));
        }
        loop {
            let Some(entry) = self.ring.completion().next() else {
                // Operations may have gone on to another step.
                self.submit();
                return None;
            };
            if entry.user_data() == CANCELLATION {
                continue;
            }
            self.in_flight = self.in_flight.saturating_sub(1);
            let Ok(slot) = u16::try_from(entry.user_data()) else { continue };
            if let Some(result) = self.step(slot, entry.result()) {
                return Some((slot, result));
            }
        }
    }

    fn completions(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: open as long as the ring.
        Some(unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) })
    }

    fn cancel(&mut self) {
        // One by one: a cancellation of everything is not known before Linux 5.19.
        for slot in 0..self.flights.len() as u64 {
            let entry = opcode::AsyncCancel::new(slot).build().user_data(CANCELLATION);
            if self.push(&entry).is_err() {
                return;
            }
        }
        self.submit();
    }
}

impl Drop for UringEngine {
    fn drop(&mut self) {
        let deadline = Instant::now() + LAST_WAIT;
        if self.in_flight > 0 {
            self.cancel();
        }
        while self.in_flight > 0 && Instant::now() < deadline {
            if self.reap().is_none() {
                self.wait(deadline);
            }
        }
        if self.in_flight > 0 {
            // The kernel will write to these buffers some day: they stay for ever.
            tracing::error!("the host does not end {} disk operations", self.in_flight);
            return;
        }
        // SAFETY: dropped here and not used again; nothing is in flight.
        unsafe { ManuallyDrop::drop(&mut self.ring) };
        // SAFETY: as above.
        unsafe { ManuallyDrop::drop(&mut self.flights) };
        // SAFETY: as above.
        unsafe { ManuallyDrop::drop(&mut self.memory) };
    }
}
