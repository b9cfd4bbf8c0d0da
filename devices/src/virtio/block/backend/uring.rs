//! I/O on a raw disk through a ring of the queue's own (io_uring): one system call hands the kernel what a
//! batch of requests needs, and waits for what is over and for the doorbell, which is polled by the ring.
//!
//! Buffers are not registered with the ring: that would pin all of guest memory.
#![allow(unsafe_code)] // Hands the kernel pointers to guest memory.

use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use io_uring::register::Restriction;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use vmm_sys_util::eventfd::EventFd;

use super::file::{Zeroing, advance, is_unsupported};
use super::flight::{Flight, Kind};
use super::raw::PlainEngine;
use super::{Data, Engine, Operation, wait_readable};
use crate::memory::GuestMemory;

/// Not a slot: the answer to a cancellation.
const CANCELLATION: u64 = u64::MAX;
/// Nor these: somebody wants the worker's attention.
const STOP: u64 = u64::MAX - 1;
const DOORBELL: u64 = u64::MAX - 2;
/// What the doorbell is polled for (poll(2)).
const READABLE: u32 = 1;
/// IORING_UNREGISTER_FILES of linux/io_uring.h.
const UNREGISTER_FILES: u8 = 3;
/// How often an operation is tried again that the kernel was too busy for.
const RETRIES: u8 = 100;
/// How long a cancelled operation may take to end when the engine goes away.
const LAST_WAIT: Duration = Duration::from_secs(5);

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
    /// The ring can wait for events, and with a timeout.
    waits: bool,
    /// The ring polls `stop` and the doorbell.
    polls: [bool; 2],
    stopped: bool,
    /// The ring could not be started: everything is done with plain system calls.
    unusable: bool,
    /// Keeps the buffers of what is in flight mapped.
    memory: ManuallyDrop<Arc<GuestMemory>>,
}

/// A ring that one thread uses, whichever calls [`Engine::begin`], and whose completions wait for that
/// thread to ask for them instead of interrupting it; less than that in kernels before 6.1 and 5.19.
fn build(entries: u32) -> io::Result<IoUring> {
    let is_unknown = |error: &io::Error| error.raw_os_error() == Some(libc::EINVAL);
    let mut builder = IoUring::builder();
    builder.dontfork().setup_r_disabled();
    let mut deferred = builder.clone();
    deferred.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
    match deferred.build(entries) {
        Err(error) if is_unknown(&error) => {}
        done => return done,
    }
    let mut cooperative = builder.clone();
    cooperative.setup_coop_taskrun().setup_taskrun_flag();
    match cooperative.build(entries) {
        Err(error) if is_unknown(&error) => builder.build(entries),
        done => done,
    }
}

/// Keeps the ring, which no filter of system calls looks into, to the operations it is made for. They name
/// descriptors that the process has; nothing opens, connects or sends.
fn restrict(ring: &IoUring) -> io::Result<()> {
    let operations = [
        opcode::Read::CODE,
        opcode::Write::CODE,
        opcode::Readv::CODE,
        opcode::Writev::CODE,
        opcode::Fsync::CODE,
        opcode::Fallocate::CODE,
        opcode::PollAdd::CODE,
        opcode::AsyncCancel::CODE,
    ];
    let flags = squeue::Flags::FIXED_FILE.bits();
    let mut restrictions: Vec<_> = operations.map(Restriction::sqe_op).into();
    restrictions.push(Restriction::sqe_flags_allowed(flags));
    restrictions.push(Restriction::register_op(UNREGISTER_FILES));
    ring.submitter().register_restrictions(&mut restrictions)
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
        // One step of each slot, a cancellation and two polls.
        let entries = (u32::from(slots) + 3).next_power_of_two();
        let ring = build(entries).and_then(|ring| {
            ring.submitter().register_files(&[plain.file.fd()])?;
            restrict(&ring)?;
            Ok(ring)
        });
        let ring = match ring {
            Ok(ring) => ring,
            Err(error) => return Err((plain, error)),
        };
        Ok(Self {
            waits: ring.params().is_feature_ext_arg(),
            polls: [false; 2],
            stopped: false,
            unusable: false,
            ring: ManuallyDrop::new(ring),
            plain,
            flights: ManuallyDrop::new((0..slots).map(|_| Flight::default()).collect()),
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

    /// Has the ring tell when `event` becomes readable, also later on.
    fn poll(&mut self, index: usize, name: u64, event: &EventFd) {
        if !self.polls[index] {
            let poll = opcode::PollAdd::new(types::Fd(event.as_raw_fd()), READABLE).multi(true);
            // Tried again by the next wait if there was no room.
            self.polls[index] = self.push(&poll.build().user_data(name)).is_ok();
        }
    }

    /// Deals with a completion that is no operation's.
    fn notice(&mut self, entry: &cqueue::Entry) {
        let index = match entry.user_data() {
            STOP => 0,
            DOORBELL => 1,
            _ => return,
        };
        self.polls[index] = cqueue::more(entry.flags());
        if entry.result() < 0 {
            // Kernels before 5.13 poll once only. The caller polls.
            (self.waits, self.polls[index]) = (false, true);
        } else if index == 0 {
            self.stopped = true;
        }
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
                Kind::Flush => Some(file.flushed(Err(error))),
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

    /// Looks at the outcome of a submission. Interrupted, or with a kernel short of memory, what is left is
    /// submitted next time, which the caller's loop gets to because the ring is not empty.
    fn submitted(&mut self, result: io::Result<usize>) {
        self.unsubmitted = !self.ring.submission().is_empty();
        match result {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR)) => {
                tracing::debug!("io_uring_enter: {error}");
            }
            _ => {}
        }
    }
}

impl Engine for UringEngine {
    fn begin(&mut self) {
        if let Err(error) = self.ring.submitter().register_enable_rings() {
            tracing::warn!("io_uring cannot be used ({error}): a disk uses plain system calls");
            self.unusable = true;
        }
    }

    fn start(&mut self, slot: u16, operation: Operation<'_>) -> Option<io::Result<()>> {
        if self.unusable {
            return Some(self.plain.run(operation));
        }
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
            Operation::Flush => match file.lost() {
                Some(error) => return Some(Err(error)),
                None => self.ranged(slot, Kind::Flush),
            },
            Operation::WriteZeroes(range, unmap) => {
                self.ranged(slot, Kind::Zero(range, Zeroing::first(unmap)));
            }
        }
        None
    }

    fn wait(
        &mut self,
        stop: &EventFd,
        doorbell: &EventFd,
        timeout: Option<Duration>,
    ) -> Option<bool> {
        if !self.waits || self.unusable {
            return None;
        }
        if self.stopped {
            return Some(true);
        }
        self.poll(0, STOP, stop);
        self.poll(1, DOORBELL, doorbell);
        let something = !self.failed.is_empty() || !self.ring.completion().is_empty();
        if something || timeout.is_some_and(|timeout| timeout.is_zero()) {
            self.submit();
            return Some(false);
        }
        let submitted = match timeout {
            None => self.ring.submit_and_wait(1),
            Some(timeout) => {
                let timeout = types::Timespec::from(timeout);
                let arguments = types::SubmitArgs::new().timespec(&timeout);
                self.ring.submitter().submit_with_args(1, &arguments)
            }
        };
        self.submitted(submitted);
        Some(false)
    }

    fn submit(&mut self) {
        // Completions may wait to be asked for.
        if self.unsubmitted || self.ring.submission().taskrun() {
            let submitted = self.ring.submit();
            self.submitted(submitted);
        }
    }

    fn reap(&mut self) -> Option<(u16, io::Result<()>)> {
        if let Some((slot, error)) = self.failed.pop_front() {
            return Some((slot, Err(error)));
        }
        loop {
            // Operations may go on to another step, which the next submission is for.
            let entry = self.ring.completion().next()?;
            let Ok(slot) = u16::try_from(entry.user_data()) else {
                self.notice(&entry);
                continue;
            };
            self.in_flight = self.in_flight.saturating_sub(1);
            if let Some(result) = self.step(slot, entry.result()) {
                return Some((slot, result));
            }
        }
    }

    fn completions(&self) -> Option<BorrowedFd<'_>> {
        if self.unusable {
            return None;
        }
        // SAFETY: open as long as the ring.
        Some(unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) })
    }

    fn wait_for_completion(&mut self, timeout: Duration) {
        if !self.waits {
            return self.completions().map_or((), |ring| wait_readable(ring, timeout));
        }
        // Not by polling the ring: completions that wait to be asked for do not make it readable.
        let timeout = types::Timespec::from(timeout);
        let arguments = types::SubmitArgs::new().timespec(&timeout);
        let submitted = self.ring.submitter().submit_with_args(1, &arguments);
        self.submitted(submitted);
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
                self.submit();
                self.wait_for_completion(deadline.saturating_duration_since(Instant::now()));
            }
        }
        if self.in_flight > 0 {
            // The kernel will write to these buffers some day: they stay for ever.
            tracing::error!("the host does not end {} disk operations", self.in_flight);
            return;
        }
        // The kernel ends a ring some time later, but the file and its locks are to be free now.
        let _ = self.ring.submitter().unregister_files();
        // SAFETY: dropped here and not used again; nothing is in flight.
        unsafe { ManuallyDrop::drop(&mut self.ring) };
        // SAFETY: as above.
        unsafe { ManuallyDrop::drop(&mut self.flights) };
        // SAFETY: as above.
        unsafe { ManuallyDrop::drop(&mut self.memory) };
    }
}
