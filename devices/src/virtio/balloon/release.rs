//! Gives pages of guest RAM back to the host's kernel. They read as zeros from then on, and are
//! there again when touched.
#![allow(unsafe_code)] // madvise(2) on guest RAM.

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io;
use rustix::mm::{Advice, madvise};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

use super::PAGE;
use crate::memory::{GuestMemory, RamRegion};

/// Gives back what lies in RAM of the guest-physical range of `len` bytes at `start`, both multiples
/// of [`PAGE`]; how many bytes of it lie in RAM.
///
/// # Errors
///
/// The kernel's answer; the rest of the range is tried all the same.
pub(super) fn guest_range(memory: &GuestMemory, start: u64, len: u64) -> (u64, io::Result<()>) {
    let end = start.saturating_add(len);
    let (mut inside, mut result) = (0, Ok(()));
    for region in memory.iter() {
        let base = region.start_addr().0;
        let from = start.max(base);
        let to = end.min(base + region.len());
        if from < to {
            inside += to - from;
            result = result.and(pages(region, from - base, to - from));
        }
    }
    (inside, result)
}

/// Gives back the whole pages of a buffer of guest RAM that a chain named by its host address.
///
/// # Errors
///
/// The kernel's answer.
pub(super) fn buffer(memory: &GuestMemory, buffer: &libc::iovec) -> io::Result<()> {
    let (address, len) = (buffer.iov_base as u64, buffer.iov_len as u64);
    for region in memory.iter() {
        let Ok(base) = region.get_host_address(MemoryRegionAddress(0)) else { continue };
        // A buffer lies in one region as a whole.
        if let Some(offset) = address.checked_sub(base as u64).filter(|&at| at < region.len()) {
            let from = offset.next_multiple_of(PAGE);
            let to = (offset + len).min(region.len()) / PAGE * PAGE;
            return if from < to { pages(region, from, to - from) } else { Ok(()) };
        }
    }
    Ok(())
}

/// `offset + len` is within `region`.
fn pages(region: &RamRegion, offset: u64, len: u64) -> io::Result<()> {
    if region.is_hugetlbfs() == Some(true) {
        // 4 KiB of a huge page cannot go back, and the pool would not lend them to others.
        return Ok(());
    }
    if let Some(file) = region.file_offset() {
        // A region with a file is a shared mapping of it: only a hole frees the memory.
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        return fallocate(file.file(), flags, file.start() + offset, len);
    }
    let address =
        region.get_host_address(MemoryRegionAddress(offset)).map_err(|_| io::Errno::FAULT);
    let len = usize::try_from(len).map_err(|_| io::Errno::FAULT)?;
    // SAFETY: within a mapping of guest RAM, which holds no Rust objects and which the guest changes
    // at any time anyway.
    unsafe { madvise(address?.cast(), len, Advice::LinuxDontNeed) }
}
