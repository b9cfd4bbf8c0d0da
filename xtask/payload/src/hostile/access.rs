//! Accesses of every width to memory, ports, and what only ring 0 may touch.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

use super::random::Random;

/// Whether hypercalls are made.
pub static HYPERCALLS: AtomicBool = AtomicBool::new(false);

/// Widths in bytes of one access to memory.
pub const WIDTHS: [u64; 4] = [1, 2, 4, 8];

/// Reads `width` bytes at `address`, wherever they are.
pub fn read(address: usize, width: u64) -> u64 {
    let value: u64;
    // SAFETY: the whole address space below 4 GiB is mapped; where there is nothing, ones are read.
    unsafe {
        match width {
            1 => asm!("movzx {0:e}, byte ptr [{1}]", out(reg) value, in(reg) address),
            2 => asm!("movzx {0:e}, word ptr [{1}]", out(reg) value, in(reg) address),
            4 => asm!("mov {0:e}, dword ptr [{1}]", out(reg) value, in(reg) address),
            8 => asm!("mov {0}, qword ptr [{1}]", out(reg) value, in(reg) address),
            _ => {
                asm!("movups {2}, [{1}]", "movq {0}, {2}", out(reg) value, in(reg) address, out(xmm_reg) _)
            }
        }
    }
    value
}

/// Writes the low `width` bytes of `value` to `address`, wherever that is.
pub fn write(address: usize, width: u64, value: u64) {
    // SAFETY: only the arena and device memory are written to, in neither of which this program has anything.
    unsafe {
        match width {
            1 => asm!("mov byte ptr [{0}], {1}", in(reg) address, in(reg_byte) value as u8),
            2 => asm!("mov word ptr [{0}], {1:x}", in(reg) address, in(reg) value),
            4 => asm!("mov dword ptr [{0}], {1:e}", in(reg) address, in(reg) value),
            8 => asm!("mov qword ptr [{0}], {1}", in(reg) address, in(reg) value),
            _ => {
                asm!("movq {2}, {1}", "movups [{0}], {2}", in(reg) address, in(reg) value, out(xmm_reg) _)
            }
        }
    }
}

/// A string instruction from device memory to the arena: one access after another without a pause.
pub fn copy(from: usize, to: usize, count: usize) {
    // SAFETY: as above.
    unsafe {
        asm!("rep movsb", inout("rsi") from => _, inout("rdi") to => _, inout("rcx") count => _)
    };
}

/// Ports whose writing would end the game rather than play it: keyboard controller (reset), the monitor's own
/// (power, reset, panic, exit), and those of chipsets for reset.
fn ends_the_game(port: u16, width: u64) -> bool {
    let end = u64::from(port) + width;
    let meets = |from: u64, to: u64| u64::from(port) < to && from < end;
    meets(0x60, 0x65) || meets(0x92, 0x93) || meets(0x500, 0x610) || meets(0xcf9, 0xcfa)
}

/// Reads or writes some port.
pub fn port(random: &mut Random) {
    let known = [
        0x20, 0x40, 0x60, 0x64, 0x70, 0x71, 0x3f8, 0x3f9, 0x3fc, 0x500, 0x600, 0x608, 0xcf8, 0xcfc,
        0xffff,
    ];
    let port = match random.below(4) {
        0 => random.next() as u16,
        _ => (random.pick::<u16>(&known)).wrapping_add(random.below(8) as u16),
    };
    let width: u64 = random.pick(&[1, 2, 4]);
    // All of it must be in the map of ports that ring 3 may use.
    let port = port.min(u16::MAX - (width as u16 - 1));
    let value = random.value() as u32;
    let write = random.once_in(2) && !ends_the_game(port, width);
    // SAFETY: ports of devices, none of which changes memory.
    unsafe {
        match (write, width) {
            (true, 1) => asm!("out dx, al", in("dx") port, in("al") value as u8),
            (true, 2) => asm!("out dx, ax", in("dx") port, in("ax") value as u16),
            (true, _) => asm!("out dx, eax", in("dx") port, in("eax") value),
            (false, 1) => asm!("in al, dx", in("dx") port, out("al") _),
            (false, 2) => asm!("in ax, dx", in("dx") port, out("ax") _),
            (false, _) => asm!("in eax, dx", in("dx") port, out("eax") _),
        }
    }
}

/// The serial port as this program speaks through it, whatever was done to it.
pub fn mend_serial() {
    for (register, value) in [(3_u16, 3_u8), (1, 0), (4, 0), (2, 0)] {
        // SAFETY: registers of the serial port.
        unsafe { asm!("out dx, al", in("dx") 0x3f8 + register, in("al") value) };
    }
}

/// Instructions that only ring 0 may use, by way of a fault: model-specific registers, CPUID, and hypercalls where they
/// are made.
pub fn privileged(random: &mut Random) {
    const MSRS: [u32; 14] = [
        0x10,
        0x1b,
        0x8b,
        0xfe,
        0x17a,
        0x1a0,
        0x200,
        0x277,
        0x6e0,
        0x808,
        0x4b56_4d02,
        0x4b56_4d05,
        0xc001_0015,
        0x4000_0000,
    ];
    let what = random.below(3 + u64::from(HYPERCALLS.load(Ordering::Relaxed))) as u32;
    // Writing may only break this processor, at registers that it needs; they are left out.
    let register = match (what, random.below(4)) {
        (0, 0) => random.next() as u32,
        (0, _) => random.pick(&MSRS),
        (1, _) => random.pick(&[0x8b, 0xfe, 0x17a, 0x200, 0x277, 0x4000_0000, 0x4000_0001, 0xdead]),
        _ => random.value() as u32,
    };
    let value = match what {
        // The known ones are below 16 (linux/kvm_para.h).
        3 => random.value() & !0xffff_ffff | random.below(16),
        _ => random.value(),
    };
    // SAFETY: the handler changes no memory of this program's and keeps all registers but these.
    unsafe {
        asm!(
            "call call_privileged",
            in("edi") what,
            inout("ecx") register => _,
            inout("eax") value as u32 => _,
            inout("edx") (value >> 32) as u32 => _,
            out("r8") _,
        );
    }
}
