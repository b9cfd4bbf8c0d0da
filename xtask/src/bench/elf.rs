//! Guests of a few instructions, as ELF files that `carve run --kernel` takes.

/// Powers off through Carve's sleep control register: mov dx, 0x600; mov al, 0x34; out dx, al; hlt.
pub const POWER_OFF: &[u8] = &[0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee, 0xf4];

/// Does nothing until it is ended: cli; hlt; jmp to the hlt.
pub const IDLE: &[u8] = &[0xfa, 0xf4, 0xeb, 0xfd];

/// An ELF file with `code`, entered in 64-bit mode.
pub fn of(code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 0x20_0000;
    const HEADERS: u64 = 64 + 56;
    let mut elf = Vec::from(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for field in [BASE, 64, 0] {
        elf.extend(field.to_le_bytes());
    }
    elf.extend(0u32.to_le_bytes());
    for field in [64u16, 56, 1, 64, 0, 0] {
        elf.extend(field.to_le_bytes());
    }
    let size = code.len() as u64;
    elf.extend([1, 0, 0, 0, 7, 0, 0, 0]);
    for field in [HEADERS, BASE, BASE, size, size, 0x1000] {
        elf.extend(field.to_le_bytes());
    }
    elf.extend(code);
    elf
}
