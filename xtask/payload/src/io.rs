//! Serial port, the way out, time, and the command line.

use core::arch::asm;
use core::fmt;

const COM1: u16 = 0x3f8;
const LINE_STATUS: u16 = COM1 + 5;
const TRANSMITTER_EMPTY: u8 = 0x20;
const DEBUG_EXIT: u16 = 0x501;

/// The first serial port.
pub struct Serial;

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while inb(LINE_STATUS) & TRANSMITTER_EMPTY == 0 {}
            outb(COM1, byte);
        }
        Ok(())
    }
}

/// Ends the virtual machine.
pub fn exit(code: u8) -> ! {
    loop {
        outb(DEBUG_EXIT, code);
    }
}

fn outb(port: u16, value: u8) {
    // SAFETY: a port of the machine's, which changes no memory.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) };
}

fn inb(port: u16) -> u8 {
    let value;
    // SAFETY: as above.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack)) };
    value
}

/// The time stamp counter.
pub fn now() -> u64 {
    // SAFETY: reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The kernel command line by PVH's `hvm_start_info`.
pub fn command_line(start_info: *const u64) -> &'static str {
    // SAFETY: `cmdline_paddr` is its fourth field; the boot loader filled it in, and memory is mapped one to one.
    let text = unsafe { start_info.add(3).read() } as *const core::ffi::c_char;
    if text.is_null() {
        return "";
    }
    // SAFETY: the boot loader ends it with a NUL and nobody changes it.
    unsafe { core::ffi::CStr::from_ptr(text) }.to_str().unwrap_or_default()
}
