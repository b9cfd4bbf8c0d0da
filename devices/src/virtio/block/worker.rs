//! Serves one queue: takes requests off it in batches, keeps as many in flight as the queue has
//! entries, and answers them as they end.
#![allow(unsafe_code)] // Borrows descriptors of a library's type.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmm_sys_util::eventfd::EventFd;

use super::Shared;
use super::backend::{Ended, Engine};
use super::config::feature;
use super::counters::QueueCounters;
use super::polling::{LOOK, Polling};
use super::request::{Bounds, Request, Status};
use super::slot::Slot;
use crate::mutex::lock;
use crate::token_bucket::RECHECK;
use crate::virtio::preemption::Preemption;
use crate::virtio::queue::{Broken, Queue};
use crate::virtio::worker::Handler;

/// How long operations in flight may take to end when the device is stopped.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How long they may take to be given up afterwards.
const CANCELLING: Duration = Duration::from_secs(5);
/// How often requests that a look has found are served before `stop` has its turn.
const ROUNDS: usize = 64;
/// How often the ring is looked at between two looks at the clock.
const SPINS: usize = 32;

/// What becomes of the request popped last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Popped {
    /// There was none, or there is no room for it.
    Nothing,
    Served,
    /// It has to wait so long for what the rate limit lets in.
    Waits(Duration),
}

/// The handler of one queue.
pub(super) struct QueueWorker {
    queue: Queue,
    engine: Box<dyn Engine>,
    shared: Arc<Shared>,
    features: u64,
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// The request popped last, if it waits for the rate limit.
    waiting: Option<u16>,
    /// Used entries the driver cannot see yet.
    staged: u16,
    /// Operations that the engine has not been told to submit.
    unsubmitted: usize,
    /// The time, unless it has passed since it was asked for.
    now: Option<Instant>,
    polling: Polling,
    preemption: Preemption,
}

impl QueueWorker {
    pub(super) fn new(
        queue: Queue,
        engine: Box<dyn Engine>,
        shared: Arc<Shared>,
        features: u64,
    ) -> Self {
        let slots = (0..queue.size()).map(|_| Slot::new(queue.chain())).collect();
        let free = (0..queue.size()).rev().collect();
        Self {
            queue,
            engine,
            shared,
            features,
            slots,
            free,
            waiting: None,
            staged: 0,
            unsubmitted: 0,
            now: None,
            polling: Polling::never(),
            preemption: Preemption::new(),
        }
    }

    pub(super) fn into_queue(self) -> Queue {
        self.queue
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len() - usize::from(self.waiting.is_some())
    }

    fn count_in_flight(&self) {
        self.counters().set_in_flight(self.in_flight());
    }

    fn counters(&self) -> &QueueCounters {
        self.shared.counters.of(self.queue.index())
    }

    /// The time: asked for once for all that happens at once.
    fn now(&mut self) -> Instant {
        *self.now.get_or_insert_with(Instant::now)
    }

    /// Takes what is available, up to a queue full, so that `stop` is looked at now and then.
    fn take(&mut self) -> Result<Popped, Broken> {
        for _ in 0..self.slots.len() {
            match self.take_one()? {
                Popped::Served => {}
                other => return Ok(other),
            }
        }
        Ok(Popped::Served)
    }

    fn take_one(&mut self) -> Result<Popped, Broken> {
        if self.shared.held.load(Ordering::Acquire) {
            return Ok(Popped::Waits(RECHECK));
        }
        let (slot, request) = match self.waiting {
            Some(slot) => (slot, self.slots[usize::from(slot)].request),
            None => {
                let Some(slot) = self.pop()? else { return Ok(Popped::Nothing) };
                match self.parse(slot) {
                    Ok(request) => (slot, request),
                    Err(status) => {
                        self.counters().refused();
                        self.answer(slot, status);
                        return Ok(Popped::Served);
                    }
                }
            }
        };
        let limiter = &self.shared.limiter;
        if let Err(wait) = limiter_take(limiter, self.queue.index(), request.bytes()) {
            self.slots[usize::from(slot)].request = request;
            self.waiting = Some(slot);
            return Ok(Popped::Waits(wait));
        }
        self.waiting = None;
        self.slots[usize::from(slot)].request = request;
        self.slots[usize::from(slot)].started = 0;
        self.count_in_flight();
        self.go_on(slot);
        Ok(Popped::Served)
    }

    fn pop(&mut self) -> Result<Option<u16>, Broken> {
        let Some(&slot) = self.free.last() else { return Ok(None) };
        let chain = &mut self.slots[usize::from(slot)].chain;
        if !self.queue.pop(chain)? {
            return Ok(None);
        }
        // Without a place for the status there is no way to answer.
        if chain.writable_len() == 0 {
            return Err(Broken::Request);
        }
        self.free.pop();
        let now = self.now();
        self.slots[usize::from(slot)].since = now;
        Ok(Some(slot))
    }

    fn parse(&mut self, slot: u16) -> Result<Request, Status> {
        let bounds = Bounds {
            capacity: self.shared.capacity.load(Ordering::Acquire),
            read_only: self.shared.read_only,
            features: self.features,
        };
        let Slot { chain, ranges, .. } = &mut self.slots[usize::from(slot)];
        bounds.parse(chain, ranges)
    }

    /// Whether what changes the disk must be durable when it is answered (5.2.5.2). Whoever switches to
    /// this has everything made durable with the next write.
    fn writes_through(&self) -> bool {
        self.features & feature::FLUSH == 0
            || self.features & feature::CONFIG_WCE != 0
                && !self.shared.writeback.load(Ordering::Relaxed)
    }

    /// Starts operations of a request until one is in flight, or it is over and answered.
    fn go_on(&mut self, slot: u16) {
        loop {
            let write_through = self.writes_through();
            let current = &mut self.slots[usize::from(slot)];
            let Some(operation) = current.next_operation(write_through) else {
                return self.complete(slot);
            };
            match self.engine.start(slot, operation) {
                None => {
                    self.unsubmitted += 1;
                    return;
                }
                Some(Ok(())) => {}
                Some(Err(error)) => return self.fail(slot, &error),
            }
        }
    }

    /// Answers a request all of whose operations succeeded.
    fn complete(&mut self, slot: u16) {
        let current = &self.slots[usize::from(slot)];
        if current.request == Request::GetId {
            // There is room: it was checked.
            let _ = current.chain.write(0, &self.shared.serial);
        }
        self.count(slot, true);
        self.answer(slot, Status::Ok);
    }

    fn fail(&mut self, slot: u16, error: &io::Error) {
        let request = &self.slots[usize::from(slot)].request;
        if let Some(suppressed) = self.shared.log.admit() {
            tracing::warn!(suppressed, ?request, "a disk operation failed: {error}");
        }
        if is_lack_of_room(error) {
            self.counters().found_no_room();
        }
        self.count(slot, false);
        self.answer(slot, Status::IoErr);
    }

    fn count(&mut self, slot: u16, ok: bool) {
        if self.engine.completions().is_none() {
            // Where each operation takes its time right here.
            self.now = None;
        }
        let now = self.now();
        let Slot { request, since, .. } = &self.slots[usize::from(slot)];
        self.counters().answered(request, ok, now.saturating_duration_since(*since));
    }

    /// Stages the answer to a request and frees its slot.
    fn answer(&mut self, slot: u16, status: Status) {
        let chain = &self.slots[usize::from(slot)].chain;
        let data = chain.writable_len().saturating_sub(1);
        let _ = chain.write(data, &[status as u8]);
        // Bytes written from the beginning on without a gap (2.7.8.2).
        let written = if data == 0 || status == Status::Ok { data + 1 } else { 0 };
        let head = chain.head();
        self.queue.stage(self.staged, head, u32::try_from(written).unwrap_or(0));
        self.staged += 1;
        self.free.push(slot);
        self.count_in_flight();
        if self.engine.completions().is_none() || self.staged == self.queue.size() {
            // Where each operation takes its time right here, the driver is not kept waiting for the rest.
            self.publish();
        }
    }

    fn publish(&mut self) {
        if self.staged > 0 {
            self.queue.publish(std::mem::take(&mut self.staged));
            self.queue.signal();
        }
    }

    /// Deals with operations that are over.
    fn reap(&mut self) {
        while let Some((slot, result)) = self.engine.reap() {
            match result {
                Ok(()) => self.go_on(slot),
                Err(error) => self.fail(slot, &error),
            }
        }
    }

    fn submit(&mut self) {
        self.unsubmitted = 0;
        self.engine.submit();
        self.now = None;
    }

    /// Serves what there is; how long to wait for the next event (`None`: until there is one).
    fn serve(&mut self) -> Result<Option<Duration>, Broken> {
        self.queue.disable_doorbell();
        for _ in 0..ROUNDS {
            let popped = self.serve_once()?;
            let idle = popped == Popped::Nothing && self.in_flight() == 0;
            if !idle || !self.look()? {
                return self.rest(popped);
            }
        }
        Ok(Some(Duration::ZERO))
    }

    /// Deals with what is over and with what is available; what became of the latter.
    fn serve_once(&mut self) -> Result<Popped, Broken> {
        self.reap();
        let popped = self.take();
        // Some may be over at once, and while it lasts the driver need not ring. A single one can
        // as well be submitted by the call that waits for it, unless the driver is likely to go on by then.
        if self.unsubmitted > 1 || self.unsubmitted == 1 && self.polling.pays() {
            self.submit();
            self.reap();
        }
        self.publish();
        popped
    }

    /// Looks out for the next request for a while, if that pays; whether there is one.
    fn look(&mut self) -> Result<bool, Broken> {
        if !self.polling.pays() {
            return Ok(false);
        }
        self.now = None;
        let start = Instant::now();
        while start.elapsed() < LOOK {
            for _ in 0..SPINS {
                if self.queue.available()? > 0 {
                    self.polling.hit();
                    return Ok(true);
                }
                std::hint::spin_loop();
            }
        }
        self.polling.missed();
        Ok(false)
    }

    /// Has the driver ring for the next request where nothing else tells of it; how long to wait.
    fn rest(&mut self, popped: Popped) -> Result<Option<Duration>, Broken> {
        let recheck = (self.in_flight() > 0).then_some(RECHECK);
        match popped {
            Popped::Served => Ok(Some(Duration::ZERO)),
            Popped::Waits(wait) => Ok(Some(wait.min(RECHECK))),
            // The end of an operation makes room.
            Popped::Nothing if self.free.is_empty() => Ok(recheck),
            Popped::Nothing if self.queue.enable_doorbell()? => Ok(Some(Duration::ZERO)),
            Popped::Nothing => Ok(recheck),
        }
    }

    /// Submits, then waits for the doorbell, completions, `stop` or the end of `timeout`; whether it is
    /// `stop`.
    fn wait(&mut self, stop: &EventFd, timeout: Option<Duration>) -> bool {
        (self.unsubmitted, self.now) = (0, None);
        if let Some(stopped) = self.engine.wait(stop, self.queue.doorbell(), timeout) {
            return stopped;
        }
        self.engine.submit();
        let doorbell = self.queue.doorbell();
        // SAFETY: open as long as `stop` is borrowed.
        let stop = unsafe { BorrowedFd::borrow_raw(stop.as_raw_fd()) };
        // SAFETY: open as long as the queue.
        let rung = unsafe { BorrowedFd::borrow_raw(doorbell.as_raw_fd()) };
        let ring = self.engine.completions().unwrap_or(rung);
        let mut fds = [stop, rung, ring].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let timeout = timeout.map(|time| Timespec::try_from(time).unwrap_or_default());
        // Interrupted by a signal, or out of kernel memory: looked at again by the caller's loop.
        let _ = poll(&mut fds, timeout.as_ref());
        let [stopped, rung, _] = fds.map(|fd| !fd.revents().is_empty());
        if rung {
            let _ = doorbell.read();
        }
        stopped
    }

    /// Brings what is in flight to its end, in bounded time.
    fn finish(&mut self) {
        self.shared.limiter.leave(self.queue.index());
        if let Some(slot) = self.waiting.take() {
            // Nothing was done about it: it is the first one to be popped again.
            self.queue.undo_pop();
            self.free.push(slot);
        }
        let deadline = lock(&self.shared.deadline).unwrap_or_else(Instant::now);
        self.drain(deadline);
        if self.in_flight() > 0 {
            tracing::warn!("the host does not end {} disk operations", self.in_flight());
            self.engine.cancel();
            self.drain(deadline.max(Instant::now()) + CANCELLING);
        }
        self.counters().set_in_flight(0);
        if self.in_flight() > 0 {
            // Their buffers may be written to at any time: the driver must not go on using them.
            self.queue.fail(Broken::Request);
        }
    }

    fn drain(&mut self, deadline: Instant) {
        loop {
            self.reap();
            self.submit();
            self.publish();
            let left = deadline.saturating_duration_since(Instant::now());
            if self.in_flight() == 0 || left.is_zero() {
                return;
            }
            self.engine.wait_for_completion(left.min(RECHECK));
            self.now = None;
        }
    }
}

/// Whether what holds the disk is full, or its owner's share of it used up.
fn is_lack_of_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Takes what a request needs from the limiter; no clock is read where nothing is limited.
fn limiter_take(
    limiter: &crate::token_bucket::SharedLimiter,
    queue: u16,
    bytes: u64,
) -> Result<(), Duration> {
    if limiter.handle().is_unlimited() {
        return Ok(());
    }
    limiter.take(queue, Instant::now(), bytes)
}

impl Handler for QueueWorker {
    fn run(&mut self, stop: &EventFd) {
        self.engine.begin();
        self.polling = Polling::new();
        let mut broken = false;
        loop {
            let timeout = if broken {
                self.reap();
                self.publish();
                (self.in_flight() > 0).then_some(RECHECK)
            } else {
                self.serve().unwrap_or_else(|why| {
                    self.queue.fail(why);
                    broken = true;
                    Some(Duration::ZERO)
                })
            };
            if timeout != Some(Duration::ZERO) {
                let bytes = self.counters().bytes();
                self.preemption.served(bytes);
            }
            let asleep = (timeout.is_none() && self.polling.is_possible()).then(Instant::now);
            let stopped = self.wait(stop, timeout);
            if let Some(asleep) = asleep {
                self.polling.slept(asleep.elapsed());
            }
            if stopped {
                self.finish();
                // On the thread that used it, as rings want it.
                self.engine = Box::new(Ended);
                return;
            }
        }
    }
}
