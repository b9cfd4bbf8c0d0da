//! The structures of a PVH boot: `hvm_start_info`, its memory map and its one module, the initrd
//! (Xen's public/arch-x86/hvm/start_info.h, version 1).

use std::ops::Range;

use linux_loader::loader::elf::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

use crate::layout::{self, RamLayout};

/// Writes the structures to [`layout::PVH_START_INFO`] and after it.
pub(crate) fn write<M: GuestMemoryBackend>(
    memory: &M,
    ram: &RamLayout,
    rsdp: u64,
    initrd: Option<&Range<u64>>,
) -> Result<(), GuestMemoryError> {
    let mut info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: 1,
        cmdline_paddr: layout::COMMAND_LINE,
        rsdp_paddr: rsdp,
        memmap_paddr: layout::PVH_MEMORY_MAP,
        ..hvm_start_info::default()
    };
    if let Some(initrd) = initrd {
        let module = hvm_modlist_entry {
            paddr: initrd.start,
            size: initrd.end - initrd.start,
            ..hvm_modlist_entry::default()
        };
        memory.write_obj(module, GuestAddress(layout::PVH_MODULES))?;
        info.modlist_paddr = layout::PVH_MODULES;
        info.nr_modules = 1;
    }
    let mut address = layout::PVH_MEMORY_MAP;
    for entry in ram.e820() {
        // The types are e820's.
        let entry = hvm_memmap_table_entry {
            addr: entry.range.start,
            size: entry.range.end - entry.range.start,
            type_: entry.kind as u32,
            reserved: 0,
        };
        memory.write_obj(entry, GuestAddress(address))?;
        address += size_of::<hvm_memmap_table_entry>() as u64;
        info.memmap_entries += 1;
    }
    memory.write_obj(info, GuestAddress(layout::PVH_START_INFO))
}

#[cfg(test)]
#[path = "pvh_test.rs"]
mod pvh_test;
