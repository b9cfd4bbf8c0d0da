//! The guest-physical address map of the PC-like machine: where the boot loader puts its tables,
//! where RAM lies for any memory size, and which ranges are left to devices.
//!
//! Everything that has a fixed address is named here and nowhere else. What is written to these
//! addresses lives in the modules that write it; which device answers in the device ranges is not
//! known here.

use std::ops::Range;

/// Smallest unit of guest memory, in bytes.
pub const PAGE_SIZE: u64 = 4096;

/// Global descriptor table of the boot vCPU.
pub const GDT: u64 = 0x500;
/// `hvm_start_info` of a PVH boot, followed by its module list and memory map.
pub const PVH_START_INFO: u64 = 0x6000;
/// `hvm_modlist_entry` of the initrd.
pub const PVH_MODULES: u64 = 0x6040;
/// `hvm_memmap_table_entry` array; ends below [`ZERO_PAGE`].
pub const PVH_MEMORY_MAP: u64 = 0x6080;
/// `boot_params` of the Linux boot protocol, one page.
pub const ZERO_PAGE: u64 = 0x7000;
/// `setup_data` list of the Linux boot protocol, one page.
pub const SETUP_DATA: u64 = 0x8000;
/// PML4, PDPT and four page directories of the identity map, one page each.
pub const PAGE_TABLES: u64 = 0x9000;
/// Initial stack pointer; the stack grows down towards the page tables' end at 0xF000.
pub const STACK_TOP: u64 = 0x2_0000;
/// Kernel command line, NUL terminated.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// Room for the command line in bytes, its NUL included.
pub const COMMAND_LINE_ROOM: u64 = 0x1_0000;
/// End of the RAM below 1 MiB that the guest may use (a PC's extended BIOS data area starts here).
pub const LOW_RAM_END: u64 = 0x9_FC00;
/// ACPI tables; the RSDP is at the start. Within the range in which a BIOS-style scan looks.
pub const ACPI_TABLES: Range<u64> = 0xE_0000..0xF_F000;
/// Page with the code at the reset vector's real-mode address, F000:FFF0.
pub const RESET_PAGE: Range<u64> = 0xF_F000..0x10_0000;
/// Start of the RAM above 1 MiB, the lowest address at which a kernel is loaded.
pub const HIGH_RAM_START: u64 = 0x10_0000;

/// Addresses below 4 GiB that are never RAM.
pub const MMIO_HOLE: Range<u64> = 0xC000_0000..0x1_0000_0000;
/// Device memory below the ECAM window: 32-bit PCI BARs and virtio-mmio.
pub const MMIO32_LOW: Range<u64> = 0xC000_0000..0xE000_0000;
/// PCI Express enhanced configuration space of segment 0, buses 0 to 255.
pub const PCI_ECAM: Range<u64> = 0xE000_0000..0xF000_0000;
/// Device memory between the ECAM window and the I/O APIC.
pub const MMIO32_HIGH: Range<u64> = 0xF000_0000..0xFEC0_0000;
/// I/O APIC registers, one page.
pub const IO_APIC: u64 = 0xFEC0_0000;
/// Local APIC registers, one page.
pub const LOCAL_APIC: u64 = 0xFEE0_0000;
/// Page that KVM uses for its identity map (`KVM_SET_IDENTITY_MAP_ADDR`).
pub const KVM_IDENTITY_MAP: u64 = 0xFFFB_C000;
/// Three pages that KVM uses for its task state segment (`KVM_SET_TSS_ADDR`).
pub const KVM_TSS: u64 = 0xFFFB_D000;
/// End of the pages that KVM keeps for itself.
pub const KVM_RESERVED_END: u64 = KVM_TSS + 3 * PAGE_SIZE;

/// Start of the RAM that does not fit below the MMIO hole.
pub const RAM_ABOVE_4G: u64 = MMIO_HOLE.end;

/// Granule at which device space above RAM starts, so that a guest can map it with huge pages.
const HIGH_MMIO_ALIGNMENT: u64 = 1 << 30;

/// Type of an e820 entry (ACPI 6.5, table 15.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum E820Type {
    /// Memory the guest may use.
    Ram = 1,
    /// Addresses the guest must leave alone.
    Reserved = 2,
    /// ACPI tables; usable once the guest has read them.
    Acpi = 3,
}

/// One entry of the memory map shown to the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct E820Entry {
    /// Guest-physical addresses covered.
    pub range: Range<u64>,
    /// What they are.
    pub kind: E820Type,
}

/// Where the guest's RAM lies: from address 0 up to the MMIO hole, and the rest from 4 GiB up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RamLayout {
    size: u64,
}

impl RamLayout {
    /// Lays out `memory_size` bytes, rounded down to whole pages.
    ///
    /// Any size is accepted; whether the host has that much and the kernel fits is not asked here.
    pub fn new(memory_size: u64) -> Self {
        // The top page is given up so that no end address can overflow.
        let most = u64::MAX - MMIO_HOLE.end - PAGE_SIZE;
        Self { size: memory_size.min(most) / PAGE_SIZE * PAGE_SIZE }
    }

    /// RAM in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// RAM below the MMIO hole, starting at 0. The parts of the first MiB that the memory map does
    /// not offer to the guest are backed by memory as well.
    pub fn below_hole(&self) -> Range<u64> {
        0..self.size.min(MMIO_HOLE.start)
    }

    /// RAM from 4 GiB up, if there is any.
    pub fn above_hole(&self) -> Option<Range<u64>> {
        let rest = self.size.saturating_sub(MMIO_HOLE.start);
        (rest > 0).then(|| RAM_ABOVE_4G..RAM_ABOVE_4G + rest)
    }

    /// All RAM in ascending order: what the memory of the VM consists of.
    pub fn regions(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        let low = self.below_hole();
        (!low.is_empty()).then_some(low).into_iter().chain(self.above_hole())
    }

    /// First address after all RAM.
    pub fn end(&self) -> u64 {
        self.above_hole().unwrap_or(self.below_hole()).end
    }

    /// 64-bit address space free for devices, between RAM and the end of what `physical_bits` of
    /// address (CPUID 0x8000_0008, EAX bits 7:0) reach. Empty where RAM leaves nothing.
    pub fn device_space(&self, physical_bits: u8) -> Range<u64> {
        let limit = 1u64.checked_shl(physical_bits.into()).unwrap_or(u64::MAX);
        let start = self.end().max(MMIO_HOLE.end).checked_next_multiple_of(HIGH_MMIO_ALIGNMENT);
        let start = start.unwrap_or(limit).min(limit);
        start..limit
    }

    /// The memory map for the guest, in ascending order and without overlaps.
    pub fn e820(&self) -> Vec<E820Entry> {
        let low = self.below_hole();
        let ram = [
            Some(0..LOW_RAM_END.min(low.end)),
            (low.end > HIGH_RAM_START).then_some(HIGH_RAM_START..low.end),
            self.above_hole(),
        ];
        let ram = ram.into_iter().flatten().map(|range| (range, E820Type::Ram));
        let other = [
            (low.end > ACPI_TABLES.start)
                .then_some((ACPI_TABLES.start..ACPI_TABLES.end.min(low.end), E820Type::Acpi)),
            (low.end >= RESET_PAGE.end).then_some((RESET_PAGE, E820Type::Reserved)),
            // Linux only uses an ECAM window that the memory map reserves.
            Some((PCI_ECAM, E820Type::Reserved)),
            Some((KVM_IDENTITY_MAP..KVM_RESERVED_END, E820Type::Reserved)),
        ];
        let mut map: Vec<E820Entry> = ram
            .chain(other.into_iter().flatten())
            .filter(|(range, _)| !range.is_empty())
            .map(|(range, kind)| E820Entry { range, kind })
            .collect();
        map.sort_by_key(|entry| entry.range.start);
        map
    }
}

#[cfg(test)]
#[path = "layout_test.rs"]
mod layout_test;
