//! The zero page of the Linux boot protocol (`struct boot_params`) and the random seed handed over
//! with it (Documentation/arch/x86/zero-page.rst and boot.rst).

use std::ops::Range;

use linux_loader::loader::bootparam::{self, boot_e820_entry, boot_params, setup_header};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

use crate::layout::{self, RamLayout};

/// "HdrS".
pub(crate) const HEADER_MAGIC: u32 = 0x5372_6448;
pub(crate) const BOOT_FLAG: u16 = 0xAA55;
/// The protocol version claimed for a kernel that comes without a header of its own.
const PROTOCOL_2_15: u16 = 0x020F;
/// A boot loader without an assigned number.
const LOADER_UNDEFINED: u8 = 0xFF;

/// What the zero page tells the kernel.
pub(crate) struct ZeroPage<'a> {
    /// Header of the bzImage; made up for an ELF kernel.
    pub header: Option<setup_header>,
    /// Memory of the machine.
    pub ram: &'a RamLayout,
    /// Address of the ACPI root pointer.
    pub rsdp: u64,
    /// Where the initrd was loaded.
    pub initrd: Option<Range<u64>>,
    /// Where the kernel's protected-mode part was loaded.
    pub kernel: u64,
    /// Whether the kernel's base was randomised; without this Linux leaves the bases of modules
    /// and of the direct map alone too.
    pub kaslr: bool,
    /// Fresh random bytes for the guest's entropy pool.
    pub seed: [u8; 32],
}

impl ZeroPage<'_> {
    /// Writes the page and the seed to their places.
    pub(crate) fn write<M: GuestMemoryBackend>(&self, memory: &M) -> Result<(), GuestMemoryError> {
        self.write_seed(memory)?;
        memory.write_obj(self.build(), GuestAddress(layout::ZERO_PAGE))
    }

    fn build(&self) -> boot_params {
        let mut params = boot_params {
            hdr: self.header.unwrap_or_else(synthesized_header),
            acpi_rsdp_addr: self.rsdp,
            ..boot_params::default()
        };
        let hdr = &mut params.hdr;
        hdr.type_of_loader = LOADER_UNDEFINED;
        hdr.loadflags |= bootparam::LOADED_HIGH;
        hdr.loadflags &= !(bootparam::CAN_USE_HEAP | bootparam::KASLR_FLAG);
        if self.kaslr {
            hdr.loadflags |= bootparam::KASLR_FLAG;
        }
        hdr.code32_start = low(self.kernel);
        hdr.cmd_line_ptr = low(layout::COMMAND_LINE);
        hdr.setup_data = layout::SETUP_DATA;
        if let Some(initrd) = &self.initrd {
            let size = initrd.end - initrd.start;
            hdr.ramdisk_image = low(initrd.start);
            hdr.ramdisk_size = low(size);
            params.ext_ramdisk_image = low(initrd.start >> 32);
            params.ext_ramdisk_size = low(size >> 32);
        }
        let mut table = params.e820_table;
        for (slot, entry) in table.iter_mut().zip(self.ram.e820()) {
            *slot = boot_e820_entry {
                addr: entry.range.start,
                size: entry.range.end - entry.range.start,
                r#type: entry.kind as u32,
            };
            params.e820_entries += 1;
        }
        params.e820_table = table;
        params
    }

    /// `struct setup_data` of type SETUP_RNG_SEED: next, type, length, data.
    fn write_seed<M: GuestMemoryBackend>(&self, memory: &M) -> Result<(), GuestMemoryError> {
        let mut data = [0; 48];
        data[8..12].copy_from_slice(&bootparam::SETUP_RNG_SEED.to_le_bytes());
        data[12..16].copy_from_slice(&32u32.to_le_bytes());
        data[16..].copy_from_slice(&self.seed);
        memory.write_slice(&data, GuestAddress(layout::SETUP_DATA))
    }
}

/// The header of a kernel that brings none: what the kernel itself reads of it.
fn synthesized_header() -> setup_header {
    setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MAGIC,
        version: PROTOCOL_2_15,
        cmdline_size: low(crate::cmdline::DEFAULT_LIMIT),
        ..setup_header::default()
    }
}

/// The low 32 bits, for fields that are split or whose values are known to be below 4 GiB.
#[allow(clippy::cast_possible_truncation)]
fn low(value: u64) -> u32 {
    value as u32
}

#[cfg(test)]
#[path = "boot_params_test.rs"]
mod boot_params_test;
