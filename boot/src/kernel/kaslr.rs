//! Kernel address space layout randomisation in the monitor: how far a kernel is moved in virtual
//! and in physical memory.
//!
//! Linux's own decompressor does this for a bzImage (`arch/x86/boot/compressed/kaslr.c`); a kernel
//! that was extracted never runs it. This module only chooses; relocating and loading are next door.

use crate::Protocol;
use crate::layout::MMIO_HOLE;

/// Size of the virtual address range for the kernel image where KASLR is built in
/// (`KERNEL_IMAGE_SIZE`).
const KERNEL_IMAGE_SIZE: u64 = 1 << 30;

/// Alignment that the kernel's early page tables need (`MIN_KERNEL_ALIGN`).
pub const MIN_ALIGNMENT: u64 = 2 << 20;

/// How far a kernel is moved from where it was linked, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shift {
    /// In virtual memory; at most 1 GiB.
    pub virtual_shift: u32,
    /// In guest-physical memory.
    pub physical: u64,
}

/// The space within which a kernel can be moved.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Guest-physical address of the image as linked; its virtual offset is the same.
    pub base: u64,
    /// Memory it needs from there on, `init_size` included.
    pub size: u64,
    /// Alignment of its base, a power of two of at least [`MIN_ALIGNMENT`].
    pub alignment: u64,
    /// First guest-physical address it must not touch.
    pub ceiling: u64,
    /// Whether it must stay where it is in physical memory.
    pub fixed: bool,
}

/// Chooses a shift from two random numbers.
///
/// With the 64-bit protocol the two are independent. A PVH entry runs with paging off on addresses
/// that were relocated with the virtual shift, so both must be the same.
pub fn choose(protocol: Protocol, room: &Room, random: [u64; 2]) -> Shift {
    let virtual_slots = slots(room, KERNEL_IMAGE_SIZE);
    let physical_slots =
        if room.fixed { 1 } else { slots(room, room.ceiling.min(MMIO_HOLE.start)) };
    let pick = |slots: u64, random: u64| {
        // The bias is below 2⁻⁵⁰: there are a few thousand slots at most.
        let slot = (u128::from(random) * u128::from(slots)) >> 64;
        u64::try_from(slot).unwrap_or(0) * room.alignment
    };
    let virtual_shift = |slots| u32::try_from(pick(slots, random[0])).unwrap_or(0);
    match protocol {
        Protocol::Linux64 => Shift {
            virtual_shift: virtual_shift(virtual_slots),
            physical: pick(physical_slots, random[1]),
        },
        Protocol::Pvh => {
            let virtual_shift = virtual_shift(virtual_slots.min(physical_slots));
            Shift { virtual_shift, physical: virtual_shift.into() }
        }
    }
}

/// Number of aligned places from the base up to `ceiling`.
fn slots(room: &Room, ceiling: u64) -> u64 {
    let spare = ceiling.checked_sub(room.base).and_then(|space| space.checked_sub(room.size));
    spare.map_or(1, |spare| spare / room.alignment + 1)
}

#[cfg(test)]
#[path = "kaslr_test.rs"]
mod kaslr_test;
