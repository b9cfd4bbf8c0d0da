//! The Generic Event Device's hardware half (ACPI 6.5, 5.6.9; `ACPI0013`): an interrupt says that
//! something happened, the event selector register says what. The AML half, which reads the
//! selector and notifies the device concerned, is part of the DSDT.

use std::io;
use std::sync::Arc;

use super::ByteRegisters;
use crate::bus::Action;
use crate::interrupt::InterruptLine;

/// Bit of the event selector: the power button was pressed.
pub const POWER_BUTTON: u8 = 1 << 0;

/// One 8-bit register, the event selector: reading it returns the pending events and clears them.
pub struct Ged {
    line: Arc<dyn InterruptLine>,
    /// Events raised and not yet read by the guest; the device's whole state.
    pending: u8,
}

impl Ged {
    /// A device without pending events that interrupts through `line`.
    pub fn new(line: Arc<dyn InterruptLine>) -> Self {
        Self { line, pending: 0 }
    }

    /// Presses the power button: asks the guest to shut down. A guest that has not yet taken notice
    /// of an earlier press sees one.
    ///
    /// # Errors
    ///
    /// The interrupt could not be sent; the event stays pending.
    pub fn press_power_button(&mut self) -> io::Result<()> {
        self.pending |= POWER_BUTTON;
        self.line.trigger()
    }
}

impl ByteRegisters for Ged {
    fn read_byte(&mut self, _offset: u64) -> u8 {
        std::mem::take(&mut self.pending)
    }

    fn write_byte(&mut self, _offset: u64, _value: u8) -> Option<Action> {
        None
    }
}
