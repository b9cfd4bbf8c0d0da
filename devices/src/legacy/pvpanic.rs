//! pvpanic, ISA flavour: one port through which a guest kernel tells of its own death
//! (QEMU's `docs/specs/pvpanic.rst`, ACPI id QEMU0001).

use super::ByteRegisters;
use crate::bus::Action;

/// The port the device usually sits at.
pub const PORT: u16 = 0x505;

/// The guest panicked.
const PANICKED: u8 = 1 << 0;
/// The guest panicked and its own crash kernel takes over.
const CRASH_LOADED: u8 = 1 << 1;

/// One 8-bit register: reads give the events known, writes report one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pvpanic;

impl ByteRegisters for Pvpanic {
    fn read_byte(&mut self, _offset: u64) -> u8 {
        PANICKED | CRASH_LOADED
    }

    fn write_byte(&mut self, _offset: u64, value: u8) -> Option<Action> {
        // Of both, the final one counts.
        if value & PANICKED != 0 {
            Some(Action::GuestPanicked { crash_loaded: false })
        } else if value & CRASH_LOADED != 0 {
            Some(Action::GuestPanicked { crash_loaded: true })
        } else {
            None
        }
    }
}
