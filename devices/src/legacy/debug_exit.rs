//! The debug-exit port: a write ends the process with a code the guest chooses. Meant for tests
//! and benchmarks; a machine has it only when asked for, since it lets a guest choose the VMM's
//! exit code.

use super::ByteRegisters;
use crate::bus::Action;

/// The port the device usually sits at.
pub const PORT: u16 = 0x501;

/// One write-only 8-bit register.
#[derive(Clone, Copy, Debug, Default)]
pub struct DebugExit;

impl ByteRegisters for DebugExit {
    fn read_byte(&mut self, _offset: u64) -> u8 {
        0
    }

    fn write_byte(&mut self, _offset: u64, value: u8) -> Option<Action> {
        Some(Action::DebugExit(value))
    }
}
