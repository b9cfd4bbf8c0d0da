//! The part of a device's state that interrupts change, and the bits it consists of.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

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
    /// Those a driver sets; all others but NEEDS_RESET are reserved.
    pub const BY_DRIVER: u8 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED;
}

/// Interrupt status bits, the same in virtio-mmio's InterruptStatus (virtio 1.3, 4.2.2) and the ISR
/// status of virtio over PCI (4.1.4.5).
pub mod isr {
    /// A buffer was used.
    pub const USED_BUFFER: u32 = 1;
    /// The configuration or the device status changed.
    pub const CONFIG_CHANGE: u32 = 2;
}

/// The part of a device's state that interrupts change: shared between the state machine and the
/// transport's [`Interrupt`](crate::virtio::Interrupt), without locks.
#[derive(Debug, Default)]
pub struct Notifications {
    pub(super) status: AtomicU8,
    pub(super) generation: AtomicU32,
    pub(super) interrupts: AtomicU32,
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

    /// Marks interrupts ([`isr`]) as pending, before they are sent.
    pub fn raise(&self, interrupts: u32) {
        self.interrupts.fetch_or(interrupts, Ordering::SeqCst);
    }

    /// Interrupts raised and not acknowledged. Saved with the device and forgotten at its reset.
    pub fn pending(&self) -> u32 {
        self.interrupts.load(Ordering::SeqCst)
    }

    /// The driver has seen `interrupts`; gives back those that were pending before.
    pub fn acknowledge(&self, interrupts: u32) -> u32 {
        self.interrupts.fetch_and(!interrupts, Ordering::SeqCst)
    }
}
