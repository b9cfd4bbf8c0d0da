//! The virtio state machine: device status, feature negotiation, queue set-up, activation, reset,
//! NEEDS_RESET, pause and resume (virtio 1.3, 2.1 to 2.6 and 3.1). Both transports translate their
//! registers to the methods here.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use serde::{Deserialize, Serialize};
use virtio_queue::QueueState;
use vmm_sys_util::eventfd::EventFd;

use super::Doorbells;
use crate::memory::GuestMemory;
use crate::rate_limit::RateLimitedLog;
use crate::virtio::device::{Activation, DeviceId, RestoreError, VirtioDevice};
use crate::virtio::interrupt::Interrupt;
use crate::virtio::queue::Queue;

/// Feature bits every device has (virtio 1.3, 6).
pub mod feature {
    /// Indirect descriptor tables.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// Notification suppression by index.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// Not a legacy device.
    pub const VERSION_1: u64 = 1 << 32;
    /// Single queues can be reset.
    pub const RING_RESET: u64 = 1 << 40;
    /// What this transport offers for every device.
    pub const ALWAYS: u64 = INDIRECT_DESC | EVENT_IDX | VERSION_1 | RING_RESET;
}

/// Device status bits (virtio 1.3, 2.1).
pub mod status {
    #![allow(missing_docs)]
    pub const ACKNOWLEDGE: u8 = 1;
    pub const DRIVER: u8 = 2;
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const NEEDS_RESET: u8 = 64;
    pub const FAILED: u8 = 128;
}

/// The part of a device's state that interrupts change: shared between the state machine and the
/// transport's [`Interrupt`], without locks.
#[derive(Debug, Default)]
pub struct Notifications {
    status: AtomicU8,
    generation: AtomicU32,
}

impl Notifications {
    /// To be called before a configuration change interrupt is sent.
    pub fn config_changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Sets DEVICE_NEEDS_RESET; true if the driver must be told by a configuration change interrupt.
    pub fn needs_reset(&self) -> bool {
        let before = self.status.fetch_or(status::NEEDS_RESET, Ordering::AcqRel);
        before & (status::NEEDS_RESET | status::DRIVER_OK) == status::DRIVER_OK
    }
}

/// A queue as the driver sets it up.
struct QueueSlot {
    state: QueueState,
    doorbell: Arc<EventFd>,
    /// Reset by the driver and not enabled again (VIRTIO_F_RING_RESET).
    reset: bool,
}

/// What a device looked like when it was saved.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeviceState {
    status: u8,
    generation: u32,
    driver_features: u64,
    device_features_select: u32,
    driver_features_select: u32,
    queue_select: u16,
    queues: Vec<SavedQueue>,
    device: Vec<u8>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SavedQueue {
    size: u16,
    ready: bool,
    reset: bool,
    desc_table: u64,
    avail_ring: u64,
    used_ring: u64,
    next_avail: u16,
    next_used: u16,
}

/// One virtio device behind a transport.
pub struct Core {
    device: Box<dyn VirtioDevice>,
    memory: Arc<GuestMemory>,
    interrupt: Arc<dyn Interrupt>,
    notifications: Arc<Notifications>,
    doorbells: Box<dyn Doorbells>,
    queues: Vec<QueueSlot>,
    driver_features: u64,
    device_features_select: u32,
    driver_features_select: u32,
    queue_select: u16,
    /// The device serves its queues.
    active: bool,
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
        let slot = |&max_size: &u16| {
            let doorbell = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
            Ok(QueueSlot { state: empty(max_size), doorbell: Arc::new(doorbell), reset: false })
        };
        let queues = device.queue_sizes().iter().map(slot).collect::<io::Result<_>>()?;
        Ok(Self {
            device,
            memory,
            interrupt,
            notifications,
            doorbells,
            queues,
            driver_features: 0,
            device_features_select: 0,
            driver_features_select: 0,
            queue_select: 0,
            active: false,
            log: RateLimitedLog::new(),
        })
    }

    /// Type of the device.
    pub fn id(&self) -> DeviceId {
        self.device.id()
    }

    /// The device itself, for what the host asks of it while it runs.
    pub fn device(&mut self) -> &mut dyn VirtioDevice {
        &mut *self.device
    }

    /// How many queues there are.
    pub fn queue_count(&self) -> u16 {
        u16::try_from(self.queues.len()).unwrap_or(u16::MAX)
    }

    /// Everything the device offers.
    fn offered(&self) -> u64 {
        self.device.features() | feature::ALWAYS
    }

    /// Device status.
    pub fn status(&self) -> u8 {
        self.notifications.status.load(Ordering::Acquire)
    }

    /// Configuration generation: changes whenever the configuration space does.
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
            // Only a driver that knows of more features than there are writes there, zeros.
            _ => return,
        };
        self.driver_features &= !(0xffff_ffff << shift);
        self.driver_features |= u64::from(value) << shift;
    }

    /// Writes the device status: zero resets, bits otherwise only come.
    pub fn set_status(&mut self, value: u8) {
        if value == 0 {
            return self.reset();
        }
        let old = self.status();
        if value & old != old & !status::NEEDS_RESET
            || value & status::NEEDS_RESET > old & status::NEEDS_RESET
        {
            // Clearing bits is a driver's mistake (2.1.1); NEEDS_RESET is the device's alone.
            self.complain("status bits cannot be cleared but by reset");
        }
        let mut new = value & !old & !status::NEEDS_RESET;
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
            self.activate();
        }
    }

    fn features_are_acceptable(&self) -> bool {
        let unknown = self.driver_features & !self.offered();
        if unknown != 0 {
            self.complain("the driver chose features that were not offered");
        }
        if self.driver_features & feature::VERSION_1 == 0 {
            self.complain("the driver is a legacy one");
        }
        unknown == 0 && self.driver_features & feature::VERSION_1 != 0
    }

    /// Selects the queue that the queue registers stand for.
    pub fn select_queue(&mut self, index: u16) {
        self.queue_select = index;
    }

    /// The selected queue's number, whether there is one or not.
    pub fn queue_select(&self) -> u16 {
        self.queue_select
    }

    fn selected(&self) -> Option<&QueueSlot> {
        self.queues.get(usize::from(self.queue_select))
    }

    /// The selected queue, if its set-up may be changed now.
    fn changeable(&mut self) -> Option<&mut QueueState> {
        let status = self.status();
        let slot = self.queues.get_mut(usize::from(self.queue_select))?;
        // After DRIVER_OK only a queue that was reset can be set up again.
        let negotiated = status & status::FEATURES_OK != 0;
        let running = status & status::DRIVER_OK != 0;
        (negotiated && !slot.state.ready && (!running || slot.reset)).then_some(&mut slot.state)
    }

    /// Largest size of the selected queue; 0: there is no such queue.
    pub fn queue_max_size(&self) -> u16 {
        self.selected().map_or(0, |slot| slot.state.max_size)
    }

    /// Size of the selected queue.
    pub fn queue_size(&self) -> u16 {
        self.selected().map_or(0, |slot| slot.state.size)
    }

    /// Sets the size of the selected queue; an impossible one shows when the queue is enabled.
    pub fn set_queue_size(&mut self, size: u16) {
        if let Some(state) = self.changeable() {
            state.size = size;
        }
    }

    /// Whether the selected queue is enabled.
    pub fn queue_ready(&self) -> bool {
        self.selected().is_some_and(|slot| slot.state.ready)
    }

    /// Address of a ring of the selected queue.
    pub fn ring_address(&self, ring: Ring) -> u64 {
        let state = self.selected().map(|slot| slot.state).unwrap_or_default();
        match ring {
            Ring::Descriptors => state.desc_table,
            Ring::Available => state.avail_ring,
            Ring::Used => state.used_ring,
        }
    }

    /// Sets the low or high half of the address of a ring of the selected queue.
    pub fn set_ring_address(&mut self, ring: Ring, half: Half, value: u32) {
        let Some(state) = self.changeable() else { return };
        let address = match ring {
            Ring::Descriptors => &mut state.desc_table,
            Ring::Available => &mut state.avail_ring,
            Ring::Used => &mut state.used_ring,
        };
        *address = match half {
            Half::Low => *address & !0xffff_ffff | u64::from(value),
            Half::High => *address & 0xffff_ffff | u64::from(value) << 32,
        };
    }

    /// Enables the selected queue.
    pub fn enable_queue(&mut self) {
        let event_idx = self.driver_features & feature::EVENT_IDX != 0;
        let Some(state) = self.changeable() else { return };
        (state.ready, state.event_idx_enabled) = (true, event_idx);
        let index = usize::from(self.queue_select);
        if std::mem::take(&mut self.queues[index].reset) && self.active {
            self.suspend();
            self.activate();
        }
    }

    /// Takes the enabled queue away from the device: its reset (VIRTIO_F_RING_RESET), and the way
    /// virtio-mmio drivers disable it.
    pub fn reset_queue(&mut self) {
        let index = usize::from(self.queue_select);
        if !self.queues.get(index).is_some_and(|slot| slot.state.ready) {
            return;
        }
        let was_active = self.suspend();
        let slot = &mut self.queues[index];
        slot.state = empty(slot.state.max_size);
        slot.reset = true;
        // A ring of before means nothing any more.
        let _ = slot.doorbell.read();
        if was_active {
            self.activate();
        }
    }

    /// The doorbell of queue `index` rang by a write that reached the transport.
    pub fn notify(&self, index: u16) {
        if let Some(slot) = self.queues.get(usize::from(index)) {
            let _ = slot.doorbell.write(1);
        }
    }

    /// Reads the device's configuration space.
    pub fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.device.read_config(offset, data);
    }

    /// Writes to the device's configuration space.
    pub fn write_config(&mut self, offset: u64, data: &[u8]) {
        if self.status() & status::DRIVER != 0 {
            self.device.write_config(offset, data);
        }
    }

    /// Runs `change`, which moves the notification registers, while no doorbell is connected to them.
    pub fn move_doorbells(&mut self, change: impl FnOnce()) {
        // While the device is active, its queues are those that are ready.
        let active = self.active;
        let queues = || (0..).zip(&self.queues).filter(|(_, slot)| active && slot.state.ready);
        for (index, slot) in queues() {
            self.disconnect(index, &slot.doorbell);
        }
        change();
        for (index, slot) in queues() {
            self.connect(index, &slot.doorbell);
        }
    }

    fn connect(&self, index: u16, doorbell: &EventFd) {
        if let Err(error) = self.doorbells.connect(index, doorbell) {
            tracing::debug!(queue = index, "no ioeventfd: {error}");
        }
    }

    fn disconnect(&self, index: u16, doorbell: &EventFd) {
        if let Err(error) = self.doorbells.disconnect(index, doorbell) {
            tracing::debug!(queue = index, "the ioeventfd stays: {error}");
        }
    }

    fn activate(&mut self) {
        match self.try_activate() {
            Ok(()) => self.active = true,
            Err(error) => {
                self.complain(&format!("the device could not be started: {error}"));
                self.interrupt.signal_needs_reset();
            }
        }
    }

    fn try_activate(&mut self) -> io::Result<()> {
        let mut queues = Vec::new();
        for (index, slot) in (0..).zip(&self.queues).filter(|(_, slot)| slot.state.ready) {
            let (memory, doorbell) = (Arc::clone(&self.memory), Arc::clone(&slot.doorbell));
            let interrupt = Arc::clone(&self.interrupt);
            let queue = Queue::new(index, &slot.state, memory, doorbell, interrupt);
            queues.push(
                queue.map_err(|broken| io::Error::other(format!("queue {index}: {broken}")))?,
            );
        }
        self.device.activate(Activation {
            memory: Arc::clone(&self.memory),
            queues,
            interrupt: Arc::clone(&self.interrupt),
            features: self.driver_features,
        })?;
        // Not before: a device that did not start leaves none behind.
        for (index, slot) in (0..).zip(&self.queues).filter(|(_, slot)| slot.state.ready) {
            self.connect(index, &slot.doorbell);
        }
        Ok(())
    }

    /// Stops the device and notes how far its queues are; whether it was running.
    pub fn suspend(&mut self) -> bool {
        if !std::mem::take(&mut self.active) {
            return false;
        }
        for queue in self.device.quiesce() {
            self.disconnect(queue.index(), queue.doorbell());
            self.queues[usize::from(queue.index())].state = queue.state();
        }
        true
    }

    /// Lets a device that [`suspend`](Self::suspend) stopped carry on.
    pub fn resume(&mut self) {
        self.activate();
    }

    fn reset(&mut self) {
        self.suspend();
        self.device.reset();
        for slot in &mut self.queues {
            slot.state = empty(slot.state.max_size);
            slot.reset = false;
            let _ = slot.doorbell.read();
        }
        self.driver_features = 0;
        (self.device_features_select, self.driver_features_select) = (0, 0);
        self.queue_select = 0;
        self.notifications.status.store(0, Ordering::Release);
    }

    /// The state of a suspended device.
    pub fn save(&self) -> DeviceState {
        let queue = |slot: &QueueSlot| SavedQueue {
            size: slot.state.size,
            ready: slot.state.ready,
            reset: slot.reset,
            desc_table: slot.state.desc_table,
            avail_ring: slot.state.avail_ring,
            used_ring: slot.state.used_ring,
            next_avail: slot.state.next_avail,
            next_used: slot.state.next_used,
        };
        DeviceState {
            status: self.status(),
            generation: self.generation(),
            driver_features: self.driver_features,
            device_features_select: self.device_features_select,
            driver_features_select: self.driver_features_select,
            queue_select: self.queue_select,
            queues: self.queues.iter().map(queue).collect(),
            device: self.device.save(),
        }
    }

    /// Makes this device, fresh, what `state` says; [`resume`](Self::resume) then starts it if
    /// [`is_running`](Self::is_running).
    ///
    /// # Errors
    ///
    /// The state is not one of such a device.
    pub fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        let refuse =
            |reason: &str| Err(RestoreError { device: "virtio", reason: reason.to_owned() });
        if state.queues.len() != self.queues.len() {
            return refuse("it has another number of queues");
        }
        if state.driver_features & !self.offered() != 0 {
            return refuse("its driver uses features that are not offered");
        }
        self.device.restore(&state.device)?;
        let event_idx = state.driver_features & feature::EVENT_IDX != 0;
        for (slot, saved) in self.queues.iter_mut().zip(&state.queues) {
            slot.reset = saved.reset;
            slot.state = QueueState {
                max_size: slot.state.max_size,
                next_avail: saved.next_avail,
                next_used: saved.next_used,
                event_idx_enabled: event_idx,
                size: saved.size,
                ready: saved.ready,
                desc_table: saved.desc_table,
                avail_ring: saved.avail_ring,
                used_ring: saved.used_ring,
            };
        }
        self.driver_features = state.driver_features;
        self.device_features_select = state.device_features_select;
        self.driver_features_select = state.driver_features_select;
        self.queue_select = state.queue_select;
        self.notifications.status.store(state.status, Ordering::Release);
        self.notifications.generation.store(state.generation, Ordering::Release);
        Ok(())
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

fn empty(max_size: u16) -> QueueState {
    QueueState { max_size, size: max_size, ..Default::default() }
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
