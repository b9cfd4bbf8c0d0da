//! The global descriptor table of the boot vCPU and the segments it describes.
//!
//! Linux loads its own table at once; the descriptors in memory only have to agree with the hidden
//! parts of the segment registers until then.

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

use crate::layout;
use crate::x86_64::registers::Segment;

const FLAT: Segment = Segment {
    selector: 0,
    base: 0,
    limit: u32::MAX,
    type_: 0,
    dpl: 0,
    present: true,
    code_or_data: true,
    default_32: false,
    long: false,
    granularity: true,
    unusable: false,
};

/// Execute, read, accessed.
const TYPE_CODE: u8 = 0xB;
/// Read, write, accessed.
const TYPE_DATA: u8 = 0x3;
/// Busy 32- or 64-bit task state segment; VM entry accepts no other in TR.
const TYPE_BUSY_TSS: u8 = 0xB;

/// `__BOOT_CS` for a start in long mode.
pub const CODE_64: Segment = Segment { selector: 0x10, type_: TYPE_CODE, long: true, ..FLAT };
/// `__BOOT_CS` for a start in 32-bit protected mode.
pub const CODE_32: Segment = Segment { selector: 0x10, type_: TYPE_CODE, default_32: true, ..FLAT };
/// `__BOOT_DS`.
pub const DATA: Segment = Segment { selector: 0x18, type_: TYPE_DATA, default_32: true, ..FLAT };
/// A task state segment that nothing uses.
pub const TASK_STATE: Segment = Segment {
    selector: 0x20,
    limit: 0x67,
    type_: TYPE_BUSY_TSS,
    code_or_data: false,
    granularity: false,
    ..FLAT
};
/// No local descriptor table.
pub const NO_LDT: Segment = Segment {
    limit: 0,
    type_: 0x2,
    present: false,
    code_or_data: false,
    granularity: false,
    unusable: true,
    ..FLAT
};

/// Two unused entries, code, data, and the task state segment, which takes two in long mode.
const ENTRIES: u16 = 6;
/// Offset of the table's last byte.
pub const LIMIT: u16 = ENTRIES * 8 - 1;

/// Writes the table for a start with the code segment `code` to [`layout::GDT`].
pub(crate) fn write<M: GuestMemoryBackend>(
    memory: &M,
    code: &Segment,
) -> Result<(), GuestMemoryError> {
    let mut table = [0u64; ENTRIES as usize];
    for segment in [code, &DATA, &TASK_STATE] {
        table[usize::from(segment.selector / 8)] = descriptor(segment);
    }
    for (entry, address) in table.into_iter().zip((layout::GDT..).step_by(8)) {
        memory.write_obj(entry, GuestAddress(address))?;
    }
    Ok(())
}

/// Encodes a segment descriptor (Intel SDM vol. 3, figure 3-8).
fn descriptor(segment: &Segment) -> u64 {
    let limit = u64::from(if segment.granularity { segment.limit >> 12 } else { segment.limit });
    let access = u64::from(segment.type_)
        | u64::from(segment.code_or_data) << 4
        | u64::from(segment.dpl) << 5
        | u64::from(segment.present) << 7;
    let flags = u64::from(segment.long) << 1
        | u64::from(segment.default_32) << 2
        | u64::from(segment.granularity) << 3;
    limit & 0xFFFF
        | (segment.base & 0xFF_FFFF) << 16
        | access << 40
        | (limit >> 16 & 0xF) << 48
        | flags << 52
        | (segment.base >> 24 & 0xFF) << 56
}

#[cfg(test)]
#[path = "gdt_test.rs"]
mod gdt_test;
