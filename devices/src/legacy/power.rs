//! The three registers by which hardware-reduced ACPI turns a machine off or resets it: sleep
//! control and sleep status (ACPI 6.5, 4.8.3.7) and the reset register (4.8.3.6), which the FADT
//! points at.

use super::ByteRegisters;
use crate::bus::Action;

/// Number of ports.
pub const LEN: u16 = 3;
/// Offset of the sleep control register.
pub const SLEEP_CONTROL: u16 = 0;
/// Offset of the sleep status register.
pub const SLEEP_STATUS: u16 = 1;
/// Offset of the reset register.
pub const RESET: u16 = 2;
/// The value that, written to the reset register, resets the machine.
pub const RESET_VALUE: u8 = 1;
/// The sleep type of S5, soft off: the first element of the DSDT's `_S5` package.
pub const SLEEP_TYPE_S5: u8 = 5;

const SLP_TYP_SHIFT: u8 = 2;
const SLP_TYP_MASK: u8 = 0b111;
const SLP_EN: u8 = 1 << 5;

/// Sleep control, sleep status and reset register. All read 0: the machine never slept, so the
/// wake status bit is never set.
#[derive(Clone, Copy, Debug, Default)]
pub struct PowerRegisters;

impl ByteRegisters for PowerRegisters {
    fn read_byte(&mut self, _offset: u64) -> u8 {
        0
    }

    fn write_byte(&mut self, offset: u64, value: u8) -> Option<Action> {
        let sleep_type = (value >> SLP_TYP_SHIFT) & SLP_TYP_MASK;
        match u16::try_from(offset).ok()? {
            SLEEP_CONTROL if value & SLP_EN != 0 && sleep_type == SLEEP_TYPE_S5 => {
                Some(Action::PowerOff)
            }
            RESET if value == RESET_VALUE => Some(Action::Reset),
            _ => None,
        }
    }
}
