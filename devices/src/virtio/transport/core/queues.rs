//! Queue set-up: the selected queue's registers, enabling, disabling and resetting single queues
//! (virtio 1.3, 2.6.1 and 3.1.1).

use std::io;
use std::sync::Arc;

use virtio_queue::QueueState;
use vmm_sys_util::eventfd::EventFd;

use super::notifications::{feature, status};
use super::{Core, Half, Ring};

/// A queue as the driver sets it up.
pub(super) struct QueueSlot {
    pub state: QueueState,
    pub doorbell: Arc<EventFd>,
    /// Whether KVM rings the doorbell.
    pub connected: bool,
    /// Reset or disabled by the driver and not enabled again.
    pub reset: bool,
}

impl QueueSlot {
    pub fn new(max_size: u16) -> io::Result<Self> {
        let doorbell = Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
        Ok(Self { state: empty(max_size), doorbell, connected: false, reset: false })
    }

    /// Forgets what the driver said, and that it rang.
    pub fn clear(&mut self) {
        self.state = empty(self.state.max_size);
        let _ = self.doorbell.read();
    }
}

fn empty(max_size: u16) -> QueueState {
    QueueState { max_size, size: max_size, ..Default::default() }
}

impl Core {
    /// How many queues there are.
    pub fn queue_count(&self) -> u16 {
        u16::try_from(self.queues.len()).unwrap_or(u16::MAX)
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

    /// The selected queue, if its set-up may be changed now: after feature negotiation and before
    /// DRIVER_OK, or after the queue's own reset, and not while it is enabled.
    fn changeable(&mut self) -> Option<&mut QueueSlot> {
        let status = self.status();
        let slot = self.queues.get_mut(usize::from(self.queue_select))?;
        let negotiated = status & status::FEATURES_OK != 0;
        let running = status & status::DRIVER_OK != 0;
        (negotiated && !slot.state.ready && (!running || slot.reset)).then_some(slot)
    }

    /// Largest size of the selected queue; 0: there is no such queue.
    pub fn queue_max_size(&self) -> u16 {
        self.selected().map_or(0, |slot| slot.state.max_size)
    }

    /// Size of the selected queue.
    pub fn queue_size(&self) -> u16 {
        self.selected().map_or(0, |slot| slot.state.size)
    }

    /// Sets the size of the selected queue. One that is no power of two or too large shows when the
    /// device is activated, which then needs a reset.
    pub fn set_queue_size(&mut self, size: u16) {
        if let Some(slot) = self.changeable() {
            slot.state.size = size;
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
        let Some(slot) = self.changeable() else { return };
        let address = match ring {
            Ring::Descriptors => &mut slot.state.desc_table,
            Ring::Available => &mut slot.state.avail_ring,
            Ring::Used => &mut slot.state.used_ring,
        };
        *address = match half {
            Half::Low => *address & !0xffff_ffff | u64::from(value),
            Half::High => *address & 0xffff_ffff | u64::from(value) << 32,
        };
    }

    /// Enables the selected queue. After DRIVER_OK a queue that was reset can be enabled again, and the
    /// device serves it at once.
    pub fn enable_queue(&mut self) {
        let event_idx = self.negotiated(feature::EVENT_IDX);
        if self.changeable().is_none() {
            return;
        }
        let was_active = self.suspend();
        if let Some(slot) = self.changeable() {
            (slot.state.ready, slot.state.event_idx_enabled) = (true, event_idx);
            slot.reset = false;
        }
        if was_active {
            self.resume();
        }
    }

    /// Resets the selected queue, if VIRTIO_F_RING_RESET was negotiated: when this returns the reset is
    /// complete. The device's other queues are stopped and carry on.
    pub fn reset_queue(&mut self) {
        if self.negotiated(feature::RING_RESET) {
            self.disable_queue();
        }
    }

    /// Takes the selected queue away from the device, the way a virtio-mmio driver disables it
    /// (QueueReady 0); the same as its reset, but needs no feature.
    pub fn disable_queue(&mut self) {
        let index = usize::from(self.queue_select);
        if !self.queues.get(index).is_some_and(|slot| slot.state.ready) {
            return;
        }
        let was_active = self.suspend();
        self.disconnect(index);
        let slot = &mut self.queues[index];
        slot.clear();
        slot.reset = true;
        if was_active {
            self.resume();
        }
    }

    /// The doorbell of queue `index` rang by a write that reached the transport.
    pub fn notify(&self, index: u16) {
        if let Some(slot) = self.queues.get(usize::from(index)).filter(|slot| slot.state.ready) {
            // A counter that is full has rung already.
            let _ = slot.doorbell.write(1);
        }
    }

    /// Has KVM ring the doorbells of all enabled queues. Done late, as it takes KVM a while, and only
    /// undone when a queue is disabled.
    pub(super) fn connect_doorbells(&mut self) {
        for (index, slot) in (0..).zip(&mut self.queues) {
            if slot.state.ready && !slot.connected {
                match self.doorbells.connect(index, &slot.doorbell) {
                    Ok(()) => slot.connected = true,
                    Err(error) => tracing::debug!(queue = index, "no ioeventfd: {error}"),
                }
            }
        }
    }

    /// Runs `change`, which moves the notification registers, while no doorbell is connected to them.
    pub fn move_doorbells(&mut self, change: impl FnOnce()) {
        self.disconnect_doorbells();
        change();
        if self.active {
            self.connect_doorbells();
        }
    }

    pub(super) fn disconnect_doorbells(&mut self) {
        (0..self.queues.len()).for_each(|index| self.disconnect(index));
    }

    fn disconnect(&mut self, index: usize) {
        let (Some(slot), Ok(number)) = (self.queues.get_mut(index), u16::try_from(index)) else {
            return;
        };
        if std::mem::take(&mut slot.connected)
            && let Err(error) = self.doorbells.disconnect(number, &slot.doorbell)
        {
            tracing::debug!(queue = number, "the ioeventfd stays: {error}");
        }
    }
}
