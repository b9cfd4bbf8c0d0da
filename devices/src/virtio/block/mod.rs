//! The block device (virtio 1.3, 5.2): a disk with one queue or several, each served by a thread of
//! its own.
//!
//! This file is the device as transports and the machine see it. What requests look like is in
//! `request`, how they are carried out in `worker`, where sectors are in [`backend`].

pub mod backend;
mod config;
mod counters;
mod polling;
mod request;
mod slot;
mod state;
mod worker;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::device::{Activation, DeviceId, RestoreError, VirtioDevice, read_config};
use super::interrupt::Interrupt;
use super::queue::Queue;
use super::worker::Worker;
use crate::mutex::lock;
use crate::rate_limit::RateLimitedLog;
use crate::thread::Role;
use crate::token_bucket::{LimitsHandle, SharedLimiter};

use self::backend::Storage;
use self::config::Config;
use self::request::ID_LEN;
use self::state::State;
use self::worker::QueueWorker;

pub use self::config::feature;
pub use self::counters::{Counters, LATENCIES, Requests, latency_bound};

/// Most queues of a device.
pub const MAX_QUEUES: u16 = 16;
/// Largest queue.
pub const MAX_QUEUE_SIZE: u16 = 1024;

/// What a block device is like, beside its storage.
#[derive(Clone, Debug)]
pub struct Properties {
    /// Refuses writes.
    pub read_only: bool,
    /// What GET_ID answers: at most 20 bytes count.
    pub serial: String,
    /// Number of queues, 1 to [`MAX_QUEUES`].
    pub queues: u16,
    /// Entries of each queue, a power of two, 4 to [`MAX_QUEUE_SIZE`].
    pub queue_size: u16,
    /// Size of a logical block in bytes, 512 or 4096.
    pub block_size: u32,
    /// Limits of all queues together.
    pub limits: Arc<LimitsHandle>,
    /// Where what the disk does is counted.
    pub counters: Arc<Counters>,
}

impl Default for Properties {
    fn default() -> Self {
        Self {
            read_only: false,
            serial: String::new(),
            queues: 1,
            queue_size: 256,
            block_size: 512,
            limits: LimitsHandle::new(crate::token_bucket::Limits::default()),
            counters: Counters::new(),
        }
    }
}

/// What the device and its workers share. Workers take no lock here but the limiter's.
struct Shared {
    /// Size of the disk in bytes.
    capacity: AtomicU64,
    /// The driver's choice, where it has one (VIRTIO_BLK_F_CONFIG_WCE).
    writeback: AtomicBool,
    read_only: bool,
    block_size: u32,
    serial: [u8; ID_LEN],
    limiter: SharedLimiter,
    counters: Arc<Counters>,
    /// No request is taken off a queue.
    held: AtomicBool,
    /// The driver does not know of the capacity yet, as it was changed while none was served.
    grown: AtomicBool,
    /// Host errors.
    log: RateLimitedLog,
    /// When workers that are being stopped give up waiting.
    deadline: Mutex<Option<Instant>>,
    /// Of the driver that is there at present.
    interrupt: Mutex<Option<Arc<dyn Interrupt>>>,
    /// Held by who changes the capacity.
    resizing: Mutex<()>,
}

/// A block device.
pub struct Block {
    storage: Arc<dyn Storage>,
    properties: Properties,
    queue_sizes: Vec<u16>,
    shared: Arc<Shared>,
    workers: Vec<Worker<QueueWorker>>,
    /// How long operations in flight may take to end when the device is stopped.
    patience: Duration,
}

/// Through which to change a device while it runs.
#[derive(Clone)]
pub struct Handle {
    storage: Arc<dyn Storage>,
    shared: Arc<Shared>,
}

impl Block {
    /// A device with what `storage` holds.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`]: a property is out of its range.
    pub fn new(storage: Arc<dyn Storage>, properties: Properties) -> io::Result<Self> {
        let Properties { queues, queue_size, block_size, .. } = properties;
        let valid = (1..=MAX_QUEUES).contains(&queues)
            && (4..=MAX_QUEUE_SIZE).contains(&queue_size)
            && queue_size.is_power_of_two()
            && [512, 4096].contains(&block_size);
        if !valid {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut serial = [0; ID_LEN];
        for (to, from) in serial.iter_mut().zip(properties.serial.bytes()) {
            *to = from;
        }
        let shared = Shared {
            capacity: AtomicU64::new(storage.capacity() / 512 * 512),
            writeback: AtomicBool::new(true),
            read_only: properties.read_only,
            block_size,
            serial,
            limiter: SharedLimiter::new(Arc::clone(&properties.limits)),
            counters: Arc::clone(&properties.counters),
            held: AtomicBool::new(false),
            grown: AtomicBool::new(false),
            log: RateLimitedLog::new(),
            deadline: Mutex::new(None),
            interrupt: Mutex::new(None),
            resizing: Mutex::new(()),
        };
        Ok(Self {
            storage,
            queue_sizes: vec![queue_size; usize::from(queues)],
            properties,
            shared: Arc::new(shared),
            workers: Vec::new(),
            patience: worker::PATIENCE,
        })
    }

    /// A handle to change it with while it runs.
    pub fn handle(&self) -> Handle {
        Handle { storage: Arc::clone(&self.storage), shared: Arc::clone(&self.shared) }
    }

    fn config(&self) -> Config {
        Config {
            capacity: self.shared.capacity.load(Ordering::Acquire),
            queue_size: self.properties.queue_size,
            queues: self.properties.queues,
            block_size: self.properties.block_size,
            writeback: self.shared.writeback.load(Ordering::Relaxed),
            read_only: self.properties.read_only,
        }
    }

    fn start(&mut self, queue: Queue, features: u64) -> io::Result<()> {
        let name = format!("block-q{}", queue.index());
        let (storage, shared) = (Arc::clone(&self.storage), Arc::clone(&self.shared));
        // Rings are made on the thread that uses them, while it still can make them.
        let make = move || {
            let engine = storage.engine(queue.memory(), queue.size())?;
            Ok(QueueWorker::new(queue, engine, shared, features))
        };
        self.workers.push(Worker::start_with(Role::Block, name, make)?);
        Ok(())
    }
}

impl Handle {
    /// Size of the disk in bytes, as the driver sees it.
    pub fn capacity(&self) -> u64 {
        self.shared.capacity.load(Ordering::Acquire)
    }

    /// Lets the disk grow to `bytes`, storage included, and tells the driver.
    ///
    /// # Errors
    ///
    /// `bytes` is not whole blocks, less than the disk has, or more than its storage can hold; or the
    /// disk is read-only.
    pub fn grow(&self, bytes: u64) -> io::Result<()> {
        let _alone = lock(&self.shared.resizing);
        let (old, block_size) = (self.capacity(), self.shared.block_size);
        let invalid = |reason| io::Error::new(io::ErrorKind::InvalidInput, reason);
        if bytes < old || !bytes.is_multiple_of(block_size.into()) {
            let reason =
                format!("a disk of {old} bytes can only grow, by whole blocks of {block_size}");
            return Err(invalid(reason));
        }
        if self.shared.read_only && self.storage.host_size()? < bytes {
            return Err(invalid("the disk is read-only and its file not as large".to_owned()));
        }
        self.storage.grow(bytes)?;
        self.announce(bytes);
        Ok(())
    }

    /// Shows the driver what its owner on the host has added to the file or block device; the size in
    /// bytes then. One that shrank stays as it was: what is missing cannot be read.
    ///
    /// # Errors
    ///
    /// The size cannot be told.
    pub fn follow_host(&self) -> io::Result<u64> {
        let _alone = lock(&self.shared.resizing);
        let block_size = u64::from(self.shared.block_size);
        let bytes = self.storage.host_size()? / block_size * block_size;
        if bytes > self.capacity() {
            self.storage.grow(bytes)?;
            self.announce(bytes);
        }
        Ok(self.capacity())
    }

    fn announce(&self, bytes: u64) {
        self.shared.capacity.store(bytes, Ordering::Release);
        match &*lock(&self.shared.interrupt) {
            Some(interrupt) => interrupt.signal_config(),
            None => self.shared.grown.store(true, Ordering::Release),
        }
    }

    /// While held, the disk takes no request off its queues; those it has already are carried out, as
    /// [`in_flight`](Self::in_flight) tells.
    pub fn hold(&self, held: bool) {
        self.shared.held.store(held, Ordering::Release);
    }

    /// Requests that the host has not carried out yet.
    pub fn in_flight(&self) -> u64 {
        self.shared.counters.in_flight()
    }

    /// The rate limits, to be changed at will.
    pub fn limits(&self) -> &Arc<LimitsHandle> {
        self.shared.limiter.handle()
    }
}

impl VirtioDevice for Block {
    fn id(&self) -> DeviceId {
        DeviceId::Block
    }

    fn features(&self) -> u64 {
        config::features(self.properties.read_only, self.properties.queues)
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config(&self.config().bytes(), offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (config::WRITEBACK, [value]) = (offset, data) {
            self.shared.writeback.store(value & 1 != 0, Ordering::Relaxed);
        }
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        if activation.has(feature::CONFIG_WCE) && !activation.has(feature::FLUSH) {
            // A driver that cannot flush gets write-through (5.2.5.2).
            self.shared.writeback.store(false, Ordering::Relaxed);
        }
        *lock(&self.shared.deadline) = None;
        let Activation { queues, interrupt, features, .. } = activation;
        for queue in queues {
            if let Err(error) = self.start(queue, features) {
                self.quiesce();
                return Err(error);
            }
        }
        let mut listening = lock(&self.shared.interrupt);
        if self.shared.grown.swap(false, Ordering::AcqRel) {
            interrupt.signal_config();
        }
        *listening = Some(interrupt);
        Ok(())
    }

    fn quiesce(&mut self) -> Vec<Queue> {
        // One deadline for all, though they are stopped one after the other.
        *lock(&self.shared.deadline) = Some(Instant::now() + self.patience);
        *lock(&self.shared.interrupt) = None;
        let handlers = self.workers.drain(..).filter_map(Worker::stop);
        handlers.map(QueueWorker::into_queue).collect()
    }

    fn reset(&mut self) {
        self.shared.writeback.store(true, Ordering::Relaxed);
        // The next driver reads the capacity there is.
        self.shared.grown.store(false, Ordering::Release);
    }

    fn save(&self) -> Vec<u8> {
        let Config { capacity, writeback, read_only, .. } = self.config();
        State { capacity, writeback, read_only }.encode()
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), RestoreError> {
        let state = State::decode(state)?;
        let Config { capacity, read_only, .. } = self.config();
        if state.read_only != read_only {
            return Err(state::refuse("the disk was read-only, or is now"));
        }
        if state.capacity > capacity {
            return Err(state::refuse(format!(
                "the disk had {} bytes and has {capacity}",
                state.capacity
            )));
        }
        self.shared.grown.store(state.capacity < capacity, Ordering::Release);
        self.shared.writeback.store(state.writeback, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.quiesce();
    }
}

#[cfg(test)]
#[path = "block_test.rs"]
mod block_test;
#[cfg(test)]
#[path = "io_test.rs"]
mod io_test;
#[cfg(test)]
#[path = "qcow2_test.rs"]
mod qcow2_test;
#[cfg(test)]
#[path = "test_disk.rs"]
mod test_disk;
