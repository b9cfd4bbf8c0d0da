//! Register state of the boot vCPU, in the words of the processor manuals and free of KVM types.
//!
//! Registers not named in [`Registers`] are zero.

use crate::layout;
use crate::x86_64::gdt;

/// CR0.PE, protected mode.
pub const CR0_PE: u64 = 1 << 0;
/// CR0.ET, always set on processors of this century.
pub const CR0_ET: u64 = 1 << 4;
/// CR0.PG, paging.
pub const CR0_PG: u64 = 1 << 31;
/// CR4.PAE, needed for long mode.
pub const CR4_PAE: u64 = 1 << 5;
/// EFER.LME, long mode enabled.
pub const EFER_LME: u64 = 1 << 8;
/// EFER.LMA, long mode active.
pub const EFER_LMA: u64 = 1 << 10;
/// Bit 1 of RFLAGS, which is always set; interrupts are off.
const RFLAGS_RESERVED: u64 = 1 << 1;

/// A segment register with its hidden part (Intel SDM vol. 3, 3.4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Selector: offset of the descriptor in the GDT.
    pub selector: u16,
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes, already scaled by the granularity.
    pub limit: u32,
    /// Type field, 4 bits.
    pub type_: u8,
    /// Descriptor privilege level, 0 to 3.
    pub dpl: u8,
    /// Present.
    pub present: bool,
    /// Code or data (true) or system (false) segment.
    pub code_or_data: bool,
    /// Default operation size is 32 bits (the D/B flag).
    pub default_32: bool,
    /// 64-bit code segment (the L flag).
    pub long: bool,
    /// Limit counts pages of 4 KiB (the G flag).
    pub granularity: bool,
    /// The register holds no usable segment.
    pub unusable: bool,
}

/// Base and limit of a descriptor table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DescriptorTable {
    /// Linear address.
    pub base: u64,
    /// Offset of the last byte.
    pub limit: u16,
}

/// What the boot vCPU's registers hold at the guest's first instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // The names are the processor's.
pub struct Registers {
    pub rip: u64,
    pub rsp: u64,
    pub rbx: u64,
    pub rsi: u64,
    pub rflags: u64,
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub cs: Segment,
    pub ds: Segment,
    pub es: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub ss: Segment,
    pub tr: Segment,
    pub ldt: Segment,
    pub gdt: DescriptorTable,
    pub idt: DescriptorTable,
}

impl Registers {
    /// 64-bit boot protocol (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"): long mode,
    /// identity-mapped paging, flat segments with CS 0x10 and DS 0x18, RSI at the zero page.
    pub(crate) fn linux64(entry: u64) -> Self {
        Self {
            rip: entry,
            rsi: layout::ZERO_PAGE,
            cr0: CR0_PE | CR0_ET | CR0_PG,
            cr3: layout::PAGE_TABLES,
            cr4: CR4_PAE,
            efer: EFER_LME | EFER_LMA,
            ..Self::flat(gdt::CODE_64)
        }
    }

    /// PVH (Xen's docs/misc/pvh.pandoc): 32-bit protected mode, no paging, flat segments, EBX at
    /// `hvm_start_info`.
    pub(crate) fn pvh(entry: u32) -> Self {
        Self {
            rip: entry.into(),
            rbx: layout::PVH_START_INFO,
            cr0: CR0_PE | CR0_ET,
            ..Self::flat(gdt::CODE_32)
        }
    }

    fn flat(code: Segment) -> Self {
        Self {
            rip: 0,
            rsp: layout::STACK_TOP,
            rbx: 0,
            rsi: 0,
            rflags: RFLAGS_RESERVED,
            cr0: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            cs: code,
            ds: gdt::DATA,
            es: gdt::DATA,
            fs: gdt::DATA,
            gs: gdt::DATA,
            ss: gdt::DATA,
            tr: gdt::TASK_STATE,
            ldt: gdt::NO_LDT,
            gdt: DescriptorTable { base: layout::GDT, limit: gdt::LIMIT },
            // No handlers: an exception before the guest has its own IDT is a triple fault.
            idt: DescriptorTable { base: 0, limit: 0 },
        }
    }
}
