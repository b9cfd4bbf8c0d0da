//! The handful of PC devices a kernel still expects on I/O ports, and the registers of
//! hardware-reduced ACPI. No timer and no interrupt controller: those live in KVM and in
//! [`crate::ioapic`].

pub mod cmos;
pub mod debug_exit;
pub mod ged;
pub mod i8042;
pub mod power;
pub mod pvpanic;
pub mod serial;

pub use cmos::Cmos;
pub use debug_exit::DebugExit;
pub use ged::Ged;
pub use i8042::I8042;
pub use power::PowerRegisters;
pub use pvpanic::Pvpanic;
pub use serial::Serial;

use crate::bus::{Action, BusDevice};

/// A device of 8-bit registers.
///
/// As on the ISA bus, a wider access becomes one access to each of the registers it covers, lowest
/// first; that also makes an access of any length well defined. Every implementor is a
/// [`BusDevice`].
pub trait ByteRegisters: Send {
    /// Reads the register at `offset`.
    fn read_byte(&mut self, offset: u64) -> u8;

    /// Writes the register at `offset`.
    fn write_byte(&mut self, offset: u64, value: u8) -> Option<Action>;
}

impl<T: ByteRegisters> BusDevice for T {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = self.read_byte(offset.wrapping_add(index as u64));
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Option<Action> {
        let mut action = None;
        for (index, &byte) in data.iter().enumerate() {
            // The first action wins; the registers behind it are written all the same.
            action = action.or(self.write_byte(offset.wrapping_add(index as u64), byte));
        }
        action
    }
}

#[cfg(test)]
#[path = "legacy_test.rs"]
mod legacy_test;
