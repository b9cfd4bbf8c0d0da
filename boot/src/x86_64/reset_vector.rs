//! The real-mode code at F000:FFF0, where PC firmware has its entry.
//!
//! A kernel that has run out of other ways to reset jumps there. Linux does so at once where ACPI
//! is hardware-reduced: it then prefers EFI's reset service, and without EFI goes straight to this
//! (arch/x86/kernel/reboot.c, `reboot_init` and `machine_real_restart`).

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

use crate::layout::RESET_PAGE;

/// Offset of the entry in its page: the last 16 bytes below 1 MiB.
const ENTRY: u64 = 0xff0;

/// Writes code that writes `value` to the 8-bit I/O port `port`, the machine's reset register, and
/// halts.
///
/// # Errors
///
/// There is no memory below 1 MiB.
pub fn write<M: GuestMemoryBackend>(
    memory: &M,
    port: u16,
    value: u8,
) -> Result<(), GuestMemoryError> {
    let [low, high] = port.to_le_bytes();
    let code = [
        0xba, low, high, // mov dx, port
        0xb0, value, // mov al, value
        0xee,  // out dx, al
        0xfa,  // cli
        0xf4,  // hlt
        0xeb, 0xfd, // jmp to the hlt
    ];
    memory.write_slice(&code, GuestAddress(RESET_PAGE.start + ENTRY))
}

#[cfg(test)]
mod reset_vector_test {
    use vm_memory::GuestMemoryMmap;

    use super::*;

    #[test]
    fn the_code_is_at_f000_fff0_and_ends_below_one_mebibyte() {
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
        write(&memory, 0x602, 0x5a).unwrap();
        let code: [u8; 16] = memory.read_obj(GuestAddress(0xf_fff0)).unwrap();
        assert_eq!(code[..6], [0xba, 0x02, 0x06, 0xb0, 0x5a, 0xee]);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x10_0000)).unwrap(), 0);
    }
}
