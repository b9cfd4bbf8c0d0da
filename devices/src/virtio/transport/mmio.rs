//! The virtio-mmio register layout (virtio 1.3, 4.2), version 2.

use std::sync::{Arc, Mutex, PoisonError};

use super::core::{Core, Half, Notifications, Ring, isr};
use crate::bus::{Action, BusDevice};
use crate::interrupt::InterruptLine;
use crate::rate_limit::RateLimitedLog;
use crate::virtio::interrupt::Interrupt;

/// Length of a device's register window in bytes.
pub const WINDOW: u64 = 0x1000;
/// Offset of the notification register, to which the driver writes a queue's number (32 bits).
pub const QUEUE_NOTIFY: u64 = 0x50;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"CARV");
const CONFIG: u64 = 0x100;

/// The one interrupt of a virtio-mmio device.
pub struct MmioInterrupt {
    line: Arc<dyn InterruptLine>,
    notifications: Arc<Notifications>,
    log: RateLimitedLog,
}

impl MmioInterrupt {
    /// An interrupt on `line`, with nothing pending.
    pub fn new(line: Arc<dyn InterruptLine>, notifications: Arc<Notifications>) -> Self {
        Self { line, notifications, log: RateLimitedLog::new() }
    }

    /// Every event sends an edge, pending ones or not: the driver may be about to acknowledge those.
    fn send(&self, reason: u32) {
        self.notifications.raise(reason);
        if let Err(error) = self.line.trigger()
            && let Some(suppressed) = self.log.admit()
        {
            tracing::warn!(suppressed, "a virtio-mmio interrupt is lost: {error}");
        }
    }
}

impl Interrupt for MmioInterrupt {
    fn signal_queue(&self, _: u16) {
        self.send(isr::USED_BUFFER);
    }

    fn signal_config(&self) {
        self.notifications.config_changed();
        self.send(isr::CONFIG_CHANGE);
    }

    fn signal_needs_reset(&self) {
        if self.notifications.needs_reset() {
            self.send(isr::CONFIG_CHANGE);
        }
    }
}

/// A device's register window. Clones of the core's handle let the machine reach the device.
pub struct Mmio {
    core: Arc<Mutex<Core>>,
    interrupt: Arc<MmioInterrupt>,
}

impl Mmio {
    /// The registers of `core`, whose interrupts are `interrupt`.
    pub fn new(core: Arc<Mutex<Core>>, interrupt: Arc<MmioInterrupt>) -> Self {
        Self { core, interrupt }
    }

    fn register(&self, core: &Core, offset: u64) -> u32 {
        match offset {
            0x00 => MAGIC,
            0x04 => VERSION,
            0x08 => core.id() as u32,
            0x0c => VENDOR,
            0x10 => core.device_features(),
            0x34 => core.queue_max_size().into(),
            0x44 => core.queue_ready().into(),
            0x60 => self.interrupt.notifications.pending(),
            0x70 => core.status().into(),
            // Shared memory regions: none, said by lengths and addresses of all ones.
            0xb0..=0xbc => u32::MAX,
            // QueueReset (0xc0) reads 1 while a reset is under way; here it is over with the write.
            0xfc => core.generation(),
            _ => 0,
        }
    }

    fn set_register(&self, core: &mut Core, offset: u64, value: u32) {
        match offset {
            0x14 => core.select_device_features(value),
            0x20 => core.set_driver_features(value),
            0x24 => core.select_driver_features(value),
            // Numbers past 16 bits stand for no queue.
            0x30 => core.select_queue(u16::try_from(value).unwrap_or(u16::MAX)),
            0x38 => core.set_queue_size(u16::try_from(value).unwrap_or(0)),
            0x44 if value == 0 => core.disable_queue(),
            0x44 if value == 1 => core.enable_queue(),
            QUEUE_NOTIFY => core.notify(u16::try_from(value).unwrap_or(u16::MAX)),
            0x64 => drop(self.interrupt.notifications.acknowledge(value)),
            0x70 => set_status(core, value),
            0x80 => core.set_ring_address(Ring::Descriptors, Half::Low, value),
            0x84 => core.set_ring_address(Ring::Descriptors, Half::High, value),
            0x90 => core.set_ring_address(Ring::Available, Half::Low, value),
            0x94 => core.set_ring_address(Ring::Available, Half::High, value),
            0xa0 => core.set_ring_address(Ring::Used, Half::Low, value),
            0xa4 => core.set_ring_address(Ring::Used, Half::High, value),
            0xc0 if value == 1 => core.reset_queue(),
            _ => {}
        }
    }
}

/// Only a whole register of zeros resets; bits past the status are reserved.
fn set_status(core: &mut Core, value: u32) {
    match value.to_le_bytes()[0] {
        0 if value != 0 => {}
        status => core.set_status(status),
    }
}

impl BusDevice for Mmio {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        match offset {
            CONFIG.. => core.read_config(offset - CONFIG, data),
            // Registers are read 32 bits at a time (4.2.2.2); anything else reads zero.
            _ => {
                if let (Ok(data), 0) = (<&mut [u8; 4]>::try_from(data), offset % 4) {
                    *data = self.register(&core, offset).to_le_bytes();
                }
            }
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Option<Action> {
        let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        match offset {
            CONFIG.. => core.write_config(offset - CONFIG, data),
            _ => {
                if let (Ok(data), 0) = (<[u8; 4]>::try_from(data), offset % 4) {
                    self.set_register(&mut core, offset, u32::from_le_bytes(data));
                }
            }
        }
        None
    }
}

#[cfg(test)]
#[path = "mmio_test.rs"]
mod mmio_test;
