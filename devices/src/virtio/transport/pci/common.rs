//! The common configuration structure (virtio 1.3, 4.1.4.3), without the fields of administration
//! virtqueues. A field answers to accesses of its own width, fields of 64 bits to those of 32 as well.

use super::interrupt::PciInterrupt;
use crate::virtio::transport::core::{Core, Half, Ring};

/// Its length in bytes: up to and with `queue_reset`.
pub(super) const LEN: u64 = 0x3c;

/// Reads; what is not a field is left as it is in `data`.
pub(super) fn read(core: &Core, interrupt: &PciInterrupt, offset: u64, data: &mut [u8]) {
    if data.len() == 8 && ring(offset).is_some_and(|(_, half)| half == Half::Low) {
        let (low, high) = data.split_at_mut(4);
        read(core, interrupt, offset, low);
        return read(core, interrupt, offset + 4, high);
    }
    let value: u32 = match (offset, data.len()) {
        (0x00, 4) => core.device_features_select(),
        (0x04, 4) => core.device_features(),
        (0x08, 4) => core.driver_features_select(),
        (0x0c, 4) => core.driver_features(),
        (0x10, 2) => interrupt.config_vector().into(),
        (0x12, 2) => core.queue_count().into(),
        (0x14, 1) => core.status().into(),
        (0x15, 1) => core.generation() & 0xff,
        (0x16, 2) => core.queue_select().into(),
        (0x18, 2) => core.queue_size().into(),
        (0x1a, 2) => interrupt.queue_vector(core.queue_select()).into(),
        (0x1c, 2) => core.queue_ready().into(),
        // queue_notify_off: each queue has a register of its own.
        (0x1e, 2) if core.queue_select() < core.queue_count() => core.queue_select().into(),
        (_, 4) => ring(offset).map_or(0, |(ring, half)| {
            let address = core.ring_address(ring).to_le_bytes();
            let [a, b, c, d, e, f, g, h] = address;
            u32::from_le_bytes(if half == Half::Low { [a, b, c, d] } else { [e, f, g, h] })
        }),
        // queue_notif_config_data (0x38) means nothing without VIRTIO_F_NOTIF_CONFIG_DATA, and a
        // queue's reset (0x3a) is over with the write that asks for it.
        _ => return,
    };
    for (to, from) in data.iter_mut().zip(value.to_le_bytes()) {
        *to = from;
    }
}

/// Writes; what is not a field, or cannot be written, is ignored.
pub(super) fn write(core: &mut Core, interrupt: &PciInterrupt, offset: u64, data: &[u8]) {
    match *data {
        [value] if offset == 0x14 => {
            core.set_status(value);
            if value == 0 {
                interrupt.reset();
            }
        }
        [a, b] => write_16(core, interrupt, offset, u16::from_le_bytes([a, b])),
        [a, b, c, d] => write_32(core, offset, u32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] if ring(offset).is_some_and(|(_, half)| half == Half::Low) => {
            write_32(core, offset, u32::from_le_bytes([a, b, c, d]));
            write_32(core, offset + 4, u32::from_le_bytes([e, f, g, h]));
        }
        _ => {}
    }
}

fn write_16(core: &mut Core, interrupt: &PciInterrupt, offset: u64, value: u16) {
    match offset {
        0x10 => interrupt.set_config_vector(value),
        0x16 => core.select_queue(value),
        0x18 => core.set_queue_size(value),
        0x1a => interrupt.set_queue_vector(core.queue_select(), value),
        // Only a reset disables a queue again.
        0x1c if value == 1 => core.enable_queue(),
        0x3a if value == 1 && core.queue_ready() => {
            core.reset_queue();
            interrupt.set_queue_vector(core.queue_select(), super::interrupt::NO_VECTOR);
        }
        _ => {}
    }
}

fn write_32(core: &mut Core, offset: u64, value: u32) {
    match offset {
        0x00 => core.select_device_features(value),
        0x08 => core.select_driver_features(value),
        0x0c => core.set_driver_features(value),
        _ => {
            if let Some((ring, half)) = ring(offset) {
                core.set_ring_address(ring, half, value);
            }
        }
    }
}

/// The ring whose address the 32 bits at `offset` are half of.
fn ring(offset: u64) -> Option<(Ring, Half)> {
    Some(match offset {
        0x20 => (Ring::Descriptors, Half::Low),
        0x24 => (Ring::Descriptors, Half::High),
        0x28 => (Ring::Available, Half::Low),
        0x2c => (Ring::Available, Half::High),
        0x30 => (Ring::Used, Half::Low),
        0x34 => (Ring::Used, Half::High),
        _ => return None,
    })
}
