//! What is left of the i8042 keyboard controller: the reset line, which kernels pull when nothing
//! else rebooted the machine. There is no keyboard and no mouse, ACPI tells the guest so.
//!
//! The range includes system control port B (0x61), between the controller's two ports.

use super::ByteRegisters;
use crate::bus::Action;

/// First port.
pub const PORT: u16 = 0x60;
/// Number of ports.
pub const LEN: u16 = 5;

const SYSTEM_CONTROL_B: u64 = 1;
const COMMAND: u64 = 4;

/// Timer 2's output is high. A kernel without a paravirtual clock calibrates its TSC by waiting for
/// this bit without any bound; the NMI reason bits (7 and 6) must be clear.
const TIMER2_OUT: u8 = 1 << 5;

/// Commands 0xf0 to 0xff pulse the output lines whose bits are clear; line 0 is the CPU's reset.
const PULSE_MASK: u8 = 0xf0;
const RESET_LINE: u8 = 1 << 0;

/// Ports 0x60 to 0x64. The status port (0x64) reads 0: nothing to read, ready for a command. All
/// ones, as from an absent port, would make kernels wait for the controller before every reset.
#[derive(Clone, Copy, Debug, Default)]
pub struct I8042;

impl ByteRegisters for I8042 {
    fn read_byte(&mut self, offset: u64) -> u8 {
        if offset == SYSTEM_CONTROL_B { TIMER2_OUT } else { 0 }
    }

    fn write_byte(&mut self, offset: u64, value: u8) -> Option<Action> {
        let pulses_reset = value & PULSE_MASK == PULSE_MASK && value & RESET_LINE == 0;
        (offset == COMMAND && pulses_reset).then_some(Action::Reset)
    }
}
