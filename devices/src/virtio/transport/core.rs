//! The virtio state machine: device status, feature negotiation, queue set-up, activation, reset,
//! NEEDS_RESET, pause and resume (virtio 1.3, 2.1 to 2.6 and 3.1). Both transports translate their
//! registers to the methods here.

mod notifications;
mod queues;
mod state;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use self::queues::QueueSlot;
use super::Doorbells;
use crate::memory::GuestMemory;
use crate::rate_limit::RateLimitedLog;
use crate::virtio::device::{Activation, DeviceId, VirtioDevice};
use crate::virtio::interrupt::{Counted, Interrupt, InterruptCounts};
use crate::virtio::queue::Queue;

pub use self::notifications::{Notifications, feature, isr, status};
pub use self::state::DeviceState;

/// One virtio device behind a transport.
pub struct Core {
    device: Box<dyn VirtioDevice>,
    memory: Arc<GuestMemory>,
    interrupt: Arc<dyn Interrupt>,
    notifications: Arc<Notifications>,
    doorbells: Box<dyn Doorbells>,
    queues: Vec<QueueSlot>,
    driver_features: u64,
    /// The driver chose features past the 64 there are.
    unknown_features: bool,
    device_features_select: u32,
    driver_features_select: u32,
    queue_select: u16,
    /// The device serves its queues.
    active: bool,
    /// Not resumed since it was restored.
    restored: bool,
    log: RateLimitedLog,
}

impl Core {
    /// A device in its reset state.
    ///
    /// # Errors
    ///
    /// The host has no more descriptors.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: Arc<GuestMemory>,
        interrupt: Arc<dyn Interrupt>,
        notifications: Arc<Notifications>,
        doorbells: Box<dyn Doorbells>,
    ) -> io::Result<Self> {
        let sizes = device.queue_sizes().iter();
        let queues = sizes.map(|&size| QueueSlot::new(size)).collect::<io::Result<_>>()?;
        Ok(Self {
            device,
            memory,
            interrupt,
            notifications,
            doorbells,
            queues,
            driver_features: 0,
            unknown_features: false,
            device_features_select: 0,
            driver_features_select: 0,
            queue_select: 0,
            active: false,
            restored: false,
            log: RateLimitedLog::new(),
        })
    }

    /// From now on its interrupts are counted there. Call it before a driver is at work.
    pub fn count_interrupts(&mut self, counts: Arc<InterruptCounts>) {
        let interrupt = Arc::clone(&self.interrupt);
        self.interrupt = Arc::new(Counted::new(interrupt, counts, self.queues.len()));
    }

    /// Type of the device.
    pub fn id(&self) -> DeviceId {
        self.device.id()
    }

    /// The device itself, for what the host asks of it while it runs.
    pub fn device(&mut self) -> &mut dyn VirtioDevice {
        &mut *self.device
    }

    /// Everything the device offers.
    fn offered(&self) -> u64 {
        self.device.features() | feature::ALWAYS
    }

    /// Whether all bits of `features` were agreed on.
    pub fn negotiated(&self, features: u64) -> bool {
        self.status() & status::FEATURES_OK != 0 && self.driver_features & features == features
    }

    /// Device status.
    pub fn status(&self) -> u8 {
        self.notifications.status.load(Ordering::Acquire)
    }

    /// Configuration generation: changes whenever the configuration space does (virtio 1.3, 2.5.3).
    pub fn generation(&self) -> u32 {
        self.notifications.generation.load(Ordering::Acquire)
    }

    /// Selects the word of the device's features to read.
    pub fn select_device_features(&mut self, word: u32) {
        self.device_features_select = word;
    }

    /// The selected word's number.
    pub fn device_features_select(&self) -> u32 {
        self.device_features_select
    }

    /// The selected word of the device's features.
    pub fn device_features(&self) -> u32 {
        word(self.offered(), self.device_features_select)
    }

    /// Selects the word of the driver's features to write.
    pub fn select_driver_features(&mut self, word: u32) {
        self.driver_features_select = word;
    }

    /// The selected word's number.
    pub fn driver_features_select(&self) -> u32 {
        self.driver_features_select
    }

    /// The selected word of the driver's features.
    pub fn driver_features(&self) -> u32 {
        word(self.driver_features, self.driver_features_select)
    }

    /// Sets the selected word of the driver's features, while they are being negotiated.
    pub fn set_driver_features(&mut self, value: u32) {
        if self.status() & (status::DRIVER | status::FEATURES_OK) != status::DRIVER {
            return self.complain("features written outside of negotiation");
        }
        let shift = match self.driver_features_select {
            0 => 0,
            1 => 32,
            _ => {
                // Nothing is offered there: a driver that knows of such features writes zeros.
                self.unknown_features |= value != 0;
                return;
            }
        };
        self.driver_features &= !(0xffff_ffff << shift);
        self.driver_features |= u64::from(value) << shift;
    }

    /// Writes the device status: zero resets, bits otherwise only come. NEEDS_RESET is the device's own:
    /// a driver that writes back what it read neither sets nor clears it.
    pub fn set_status(&mut self, value: u8) {
        if value == 0 {
            return self.reset();
        }
        let old = self.status();
        if old & !value & status::BY_DRIVER != 0 {
            self.complain("status bits cannot be cleared but by reset");
        }
        let mut new = value & !old & status::BY_DRIVER;
        if new & status::FEATURES_OK != 0 && !self.features_are_acceptable() {
            new &= !status::FEATURES_OK;
        }
        let before_ok = status::DRIVER | status::FEATURES_OK;
        if new & status::DRIVER_OK != 0 && (old | new) & before_ok != before_ok {
            self.complain("DRIVER_OK before FEATURES_OK");
            new &= !status::DRIVER_OK;
        }
        self.notifications.status.fetch_or(new, Ordering::AcqRel);
        if new & status::DRIVER_OK != 0 {
            self.resume();
        }
    }

    fn features_are_acceptable(&self) -> bool {
        let unknown = self.driver_features & !self.offered() != 0 || self.unknown_features;
        if unknown {
            self.complain("the driver chose features that were not offered");
        }
        let modern = self.driver_features & feature::VERSION_1 != 0;
        if !modern {
            self.complain("the driver is a legacy one");
        }
        !unknown && modern
    }

    /// Reads the device's configuration space.
    pub fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.device.read_config(offset, data);
    }

    /// Writes to the device's configuration space, which a driver may do once features are negotiated
    /// (virtio 1.3, 3.1.1).
    pub fn write_config(&mut self, offset: u64, data: &[u8]) {
        if self.status() & status::FEATURES_OK != 0 {
            self.device.write_config(offset, data);
        }
    }

    fn activate(&mut self) {
        match self.try_activate() {
            Ok(()) => self.active = true,
            Err(error) => {
                self.complain(&format!("the device could not be started: {error}"));
                // What it started before it failed must not go on alone.
                let queues = self.device.quiesce();
                self.take_back(queues);
                self.interrupt.signal_needs_reset();
            }
        }
    }

    fn try_activate(&mut self) -> io::Result<()> {
        let mut queues = Vec::new();
        for (index, slot) in (0..).zip(&self.queues).filter(|(_, slot)| slot.state.ready) {
            let (memory, doorbell) = (Arc::clone(&self.memory), Arc::clone(&slot.doorbell));
            let interrupt = Arc::clone(&self.interrupt);
            let queue = Queue::new(index, &slot.state, memory, doorbell, interrupt)
                .map_err(|broken| io::Error::other(format!("queue {index}: {broken}")))?;
            queues.push(queue);
        }
        self.connect_doorbells();
        self.device.activate(Activation {
            memory: Arc::clone(&self.memory),
            queues,
            interrupt: Arc::clone(&self.interrupt),
            features: self.driver_features,
        })
    }

    /// Stops the device and notes how far its queues are; whether it was running.
    pub fn suspend(&mut self) -> bool {
        self.stop(|device| device.quiesce())
    }

    /// [Suspends](Self::suspend) the device until its machine goes on.
    pub fn pause(&mut self) -> bool {
        self.stop(|device| device.pause())
    }

    fn stop(&mut self, quiesce: impl Fn(&mut dyn VirtioDevice) -> Vec<Queue>) -> bool {
        if !std::mem::take(&mut self.active) {
            return false;
        }
        let queues = quiesce(&mut *self.device);
        if !self.take_back(queues) {
            self.complain("a queue was lost with the thread that served it");
            self.interrupt.signal_needs_reset();
        }
        true
    }

    /// Notes how far the queues are that the device gave back; whether none is missing.
    fn take_back(&mut self, queues: Vec<Queue>) -> bool {
        let mut missing = self.queues.iter().filter(|slot| slot.state.ready).count();
        for mut queue in queues {
            // What was published and not signalled would be forgotten here.
            queue.signal();
            if let Some(slot) = self.queues.get_mut(usize::from(queue.index())) {
                slot.state = queue.state();
                missing = missing.saturating_sub(1);
            }
        }
        missing == 0
    }

    /// Lets a device that [`suspend`](Self::suspend) stopped, or that was [restored](Self::restore),
    /// carry on; does nothing if its driver is not ready or has broken it.
    pub fn resume(&mut self) {
        if std::mem::take(&mut self.restored) && self.status() & status::DRIVER_OK != 0 {
            self.signal_everything();
        }
        if !self.active && self.is_running() {
            self.activate();
        }
    }

    /// Interrupts that were on their way when the device was saved may be lost, and its configuration
    /// may be another one now. An interrupt too many is harmless, one too few hangs the driver.
    fn signal_everything(&self) {
        self.interrupt.signal_config();
        for (index, _) in (0..).zip(&self.queues).filter(|(_, slot)| slot.state.ready) {
            self.interrupt.signal_queue(index);
        }
    }

    fn reset(&mut self) {
        if self.status() & status::NEEDS_RESET != 0 {
            self.complain("the device was broken and is reset by its driver");
        }
        if std::mem::take(&mut self.active) {
            let queues = self.device.quiesce();
            self.take_back(queues);
        }
        self.disconnect_doorbells();
        self.device.reset();
        for slot in &mut self.queues {
            slot.clear();
            slot.reset = false;
        }
        (self.driver_features, self.unknown_features) = (0, false);
        (self.device_features_select, self.driver_features_select) = (0, 0);
        self.queue_select = 0;
        self.restored = false;
        self.notifications.interrupts.store(0, Ordering::Release);
        self.notifications.status.store(0, Ordering::Release);
    }

    /// Whether the driver has said that it is ready, and nothing is broken since.
    pub fn is_running(&self) -> bool {
        self.status() & (status::DRIVER_OK | status::NEEDS_RESET) == status::DRIVER_OK
    }

    fn complain(&self, what: &str) {
        if let Some(suppressed) = self.log.admit() {
            tracing::warn!(device = ?self.device.id(), suppressed, "virtio: {what}");
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.suspend();
        self.disconnect_doorbells();
    }
}

/// A ring of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Ring {
    Descriptors,
    Available,
    Used,
}

/// Half of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Half {
    Low,
    High,
}

#[allow(clippy::cast_possible_truncation)]
fn word(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

#[cfg(test)]
#[path = "core_test.rs"]
mod core_test;
