//! The traditional memory balloon (virtio 1.3, 5.5): the host asks for memory back, the driver names
//! pages it does without, and those go back to the host's kernel at once; free pages that the driver
//! reports go back likewise.
//!
//! How much to ask for, and when, is decided by whoever holds the [`Handle`]. Not offered: free page
//! hints, which serve migration only, and VIRTIO_BALLOON_F_MUST_TELL_HOST, which this device does
//! not need: a page that was given back is there again, zeroed, when the guest touches it.

mod release;
mod statistics;
mod worker;

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use super::device::{Activation, DeviceId, RestoreError, VirtioDevice, read_config};
use super::queue::Queue;
use super::worker::Worker;
use crate::thread::Role;

pub use self::statistics::{Statistic, Statistics};
use self::worker::Serving;

/// Device feature bits (virtio 1.3, 5.5.3).
pub mod feature {
    /// The driver sends statistics when asked.
    pub const STATS_VQ: u64 = 1 << 1;
    /// The guest may take pages back when it runs out of memory.
    pub const DEFLATE_ON_OOM: u64 = 1 << 2;
    /// The driver says what it fills free pages with.
    pub const PAGE_POISON: u64 = 1 << 4;
    /// The driver reports free pages.
    pub const REPORTING: u64 = 1 << 5;
}

/// Bytes of a page of the balloon, whatever the guest's page size.
pub const PAGE: u64 = 4096;

/// Inflate, deflate, statistics, free page hints (never used), reports.
const QUEUE_SIZES: [u16; 5] = [128; 5];

/// Where the fields of the configuration space begin (5.5.4).
const ACTUAL: usize = 4;
const POISON: usize = 12;
const CONFIG_LEN: usize = 16;

/// What a balloon does beside inflating and deflating.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The guest may take pages back instead of running out of memory.
    pub deflate_on_oom: bool,
    /// Free pages are reported, and go back to the host without anyone asking.
    pub reporting: bool,
    /// Time between two statistics; none: only when [`Handle::poll_statistics`] is called.
    pub statistics_interval: Option<Duration>,
}

/// The host's side of a balloon: what it is to become, and what it is. One handle serves all the
/// devices of a machine's life, one after the other.
#[derive(Debug)]
pub struct Handle {
    target: AtomicU32,
    actual: AtomicU32,
    poison: AtomicU32,
    statistics: Mutex<Option<Statistics>>,
    target_changed: EventFd,
    poll: EventFd,
}

impl Handle {
    /// A balloon to be inflated to `target` pages of [`PAGE`] bytes.
    ///
    /// # Errors
    ///
    /// The host has no more descriptors.
    pub fn new(target: u32) -> io::Result<Arc<Self>> {
        let event = || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        Ok(Arc::new(Self {
            target: target.into(),
            actual: 0.into(),
            poison: 0.into(),
            statistics: Mutex::default(),
            target_changed: event()?,
            poll: event()?,
        }))
    }

    /// Asks the guest to do without `pages` pages of [`PAGE`] bytes.
    pub fn set_target_pages(&self, pages: u32) {
        self.target.store(pages, Ordering::Release);
        // The counter cannot overflow: the worker empties it, and 2^64 calls take too long.
        let _ = self.target_changed.write(1);
    }

    /// Asks the guest to do without `bytes` of its memory, rounded down to whole pages; at most
    /// 16 TiB.
    pub fn set_target_bytes(&self, bytes: u64) {
        self.set_target_pages(u32::try_from(bytes / PAGE).unwrap_or(u32::MAX));
    }

    /// Pages asked for.
    pub fn target_pages(&self) -> u32 {
        self.target.load(Ordering::Acquire)
    }

    /// Pages in the balloon, as the driver says: whatever it likes.
    pub fn actual_pages(&self) -> u32 {
        self.actual.load(Ordering::Acquire)
    }

    /// The statistics received last; none before the first, and after a reset.
    pub fn statistics(&self) -> Option<Statistics> {
        *self.statistics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the driver for statistics now. They arrive when the guest gets to it, if it does.
    pub fn poll_statistics(&self) {
        let _ = self.poll.write(1);
    }

    fn set_statistics(&self, statistics: Option<Statistics>) {
        *self.statistics.lock().unwrap_or_else(PoisonError::into_inner) = statistics;
    }

    fn config(&self) -> [u8; CONFIG_LEN] {
        let mut space = [0; CONFIG_LEN];
        space[..ACTUAL].copy_from_slice(&self.target_pages().to_le_bytes());
        space[ACTUAL..ACTUAL + 4].copy_from_slice(&self.actual_pages().to_le_bytes());
        let poison = self.poison.load(Ordering::Acquire);
        space[POISON..].copy_from_slice(&poison.to_le_bytes());
        space
    }
}

/// What is saved of a balloon.
#[derive(Serialize, Deserialize)]
struct State {
    target: u32,
    actual: u32,
    poison: u32,
}

/// A memory balloon.
#[derive(Debug)]
pub struct Balloon {
    options: Options,
    handle: Arc<Handle>,
    worker: Option<Worker<Serving>>,
}

impl Balloon {
    /// An empty balloon, which `handle` tells what to become.
    pub fn new(options: Options, handle: Arc<Handle>) -> Self {
        let mut balloon = Self { options, handle, worker: None };
        balloon.reset();
        balloon
    }
}

impl VirtioDevice for Balloon {
    fn id(&self) -> DeviceId {
        DeviceId::Balloon
    }

    fn features(&self) -> u64 {
        let mut features = feature::STATS_VQ;
        if self.options.deflate_on_oom {
            features |= feature::DEFLATE_ON_OOM;
        }
        if self.options.reporting {
            // Drivers that fill free pages report them only to a device that knows (5.5.6.6).
            features |= feature::REPORTING | feature::PAGE_POISON;
        }
        features
    }

    fn queue_sizes(&self) -> &[u16] {
        if self.options.reporting { &QUEUE_SIZES } else { &QUEUE_SIZES[..3] }
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config(&self.handle.config(), offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let mut space = self.handle.config();
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let Some(room) = space.get_mut(at..) else { return };
        for (to, from) in room.iter_mut().zip(data) {
            *to = *from;
        }
        // Only these two are the driver's; what it wrote to the others goes no further.
        let field = |at: usize| space[at..].first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        self.handle.actual.store(field(ACTUAL).unwrap_or(0), Ordering::Release);
        self.handle.poison.store(field(POISON).unwrap_or(0), Ordering::Release);
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let interval = self.options.statistics_interval;
        let serving = Serving::new(activation, Arc::clone(&self.handle), interval)?;
        self.worker = Some(Worker::start(Role::Balloon, "balloon".to_owned(), serving)?);
        Ok(())
    }

    fn quiesce(&mut self) -> Vec<Queue> {
        let handler = self.worker.take().and_then(Worker::stop);
        handler.map(Serving::into_queues).unwrap_or_default()
    }

    fn reset(&mut self) {
        self.handle.actual.store(0, Ordering::Release);
        self.handle.poison.store(0, Ordering::Release);
        self.handle.set_statistics(None);
    }

    fn save(&self) -> Vec<u8> {
        let state = State {
            target: self.handle.target_pages(),
            actual: self.handle.actual_pages(),
            poison: self.handle.poison.load(Ordering::Acquire),
        };
        // Three numbers always make bytes.
        postcard::to_allocvec(&state).unwrap_or_default()
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), RestoreError> {
        let state: State = postcard::from_bytes(state)
            .map_err(|error| RestoreError { device: "balloon", reason: error.to_string() })?;
        self.handle.target.store(state.target, Ordering::Release);
        self.handle.actual.store(state.actual, Ordering::Release);
        self.handle.poison.store(state.poison, Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
#[path = "balloon_test.rs"]
mod balloon_test;
