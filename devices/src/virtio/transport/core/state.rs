//! Saving a device and restoring it from a state that nobody vouches for.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use virtio_queue::QueueState;

use super::Core;
use super::notifications::{feature, isr, status};
use crate::virtio::device::RestoreError;
use crate::virtio::queue::Queue;

/// What a device looked like when it was saved. Untrusted when read back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceState {
    pub(super) status: u8,
    pub(super) generation: u32,
    pub(super) interrupts: u32,
    pub(super) driver_features: u64,
    pub(super) unknown_features: bool,
    pub(super) device_features_select: u32,
    pub(super) driver_features_select: u32,
    pub(super) queue_select: u16,
    pub(super) queues: Vec<SavedQueue>,
    pub(super) device: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedQueue {
    pub size: u16,
    pub ready: bool,
    pub reset: bool,
    pub desc_table: u64,
    pub avail_ring: u64,
    pub used_ring: u64,
    pub next_avail: u16,
    pub next_used: u16,
}

impl SavedQueue {
    fn state(&self, max_size: u16, event_idx_enabled: bool) -> QueueState {
        QueueState {
            max_size,
            next_avail: self.next_avail,
            next_used: self.next_used,
            event_idx_enabled: event_idx_enabled && self.ready,
            size: self.size,
            ready: self.ready,
            desc_table: self.desc_table,
            avail_ring: self.avail_ring,
            used_ring: self.used_ring,
        }
    }
}

impl Core {
    /// The state of a device that is not active: [suspended](Self::suspend), or never started.
    pub fn save(&self) -> DeviceState {
        let queue = |slot: &super::QueueSlot| SavedQueue {
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
            interrupts: self.notifications.pending(),
            driver_features: self.driver_features,
            unknown_features: self.unknown_features,
            device_features_select: self.device_features_select,
            driver_features_select: self.driver_features_select,
            queue_select: self.queue_select,
            queues: self.queues.iter().map(queue).collect(),
            device: self.device.save(),
        }
    }

    /// Makes this device, fresh, what `state` says; [`resume`](Self::resume) then starts it, if it was
    /// running. Guest memory must have been restored before.
    ///
    /// # Errors
    ///
    /// The state is not one of such a device, which is as fresh as before unless the error is the
    /// device's own.
    pub fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        let refuse = |reason: String| RestoreError { device: "virtio", reason };
        if self.active || self.status() != 0 {
            return Err(refuse("the device is in use".to_owned()));
        }
        self.check_status(state).map_err(|reason| refuse(reason.to_owned()))?;
        self.check_queues(state).map_err(refuse)?;
        self.device.restore(&state.device)?;
        let event_idx = state.driver_features & feature::EVENT_IDX != 0;
        for (slot, saved) in self.queues.iter_mut().zip(&state.queues) {
            slot.reset = saved.reset;
            slot.state = saved.state(slot.state.max_size, event_idx);
        }
        self.driver_features = state.driver_features;
        self.unknown_features = state.unknown_features;
        self.device_features_select = state.device_features_select;
        self.driver_features_select = state.driver_features_select;
        self.queue_select = state.queue_select;
        self.restored = true;
        let notifications = &self.notifications;
        notifications.interrupts.store(state.interrupts, Ordering::Release);
        notifications.generation.store(state.generation, Ordering::Release);
        notifications.status.store(state.status, Ordering::Release);
        Ok(())
    }

    /// That the state machine can get into this status with these features.
    fn check_status(&self, state: &DeviceState) -> Result<(), &'static str> {
        let has = |bits| state.status & bits == bits;
        if state.status & !(status::BY_DRIVER | status::NEEDS_RESET) != 0 {
            return Err("its status has unknown bits");
        }
        if has(status::FEATURES_OK) {
            let unknown = state.driver_features & !self.offered() != 0 || state.unknown_features;
            if unknown || state.driver_features & feature::VERSION_1 == 0 {
                return Err("its driver uses other features than are offered");
            }
        }
        if has(status::DRIVER_OK) && !has(status::DRIVER | status::FEATURES_OK) {
            return Err("its status skips a step");
        }
        if state.interrupts & !(isr::USED_BUFFER | isr::CONFIG_CHANGE) != 0 {
            return Err("it has unknown interrupts pending");
        }
        Ok(())
    }

    /// That the queues are those of this device, and if it is to run, that they can be used. A driver may
    /// have set up nonsense that nobody has looked at yet.
    fn check_queues(&self, state: &DeviceState) -> Result<(), String> {
        if state.queues.len() != self.queues.len() {
            let (theirs, ours) = (state.queues.len(), self.queues.len());
            return Err(format!("it has {theirs} queues, the device {ours}"));
        }
        let negotiated = state.status & status::FEATURES_OK != 0;
        let running = state.status & (status::DRIVER_OK | status::NEEDS_RESET) == status::DRIVER_OK;
        let event_idx = state.driver_features & feature::EVENT_IDX != 0;
        for (index, (saved, slot)) in (0..).zip(state.queues.iter().zip(&self.queues)) {
            let in_use = saved.next_avail != 0 || saved.next_used != 0;
            if saved.ready && (!negotiated || saved.reset) || !saved.ready && in_use {
                return Err(format!("queue {index} cannot be in that state"));
            }
            if running && saved.ready {
                let state = saved.state(slot.state.max_size, event_idx);
                let (memory, doorbell) = (Arc::clone(&self.memory), Arc::clone(&slot.doorbell));
                Queue::new(index, &state, memory, doorbell, Arc::clone(&self.interrupt))
                    .map_err(|broken| format!("queue {index}: {broken}"))?;
            }
        }
        Ok(())
    }
}
