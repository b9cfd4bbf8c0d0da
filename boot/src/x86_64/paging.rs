//! The identity map with which a 64-bit boot starts: the first 4 GiB in 2 MiB pages.
//!
//! It covers all RAM below the MMIO hole, where kernel, zero page and command line are, and the
//! interrupt controllers' registers. It is not meant for use beyond the guest's first page tables.

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

use crate::layout::{PAGE_SIZE, PAGE_TABLES};

const PRESENT_WRITABLE: u64 = 0b11;
const LARGE_PAGE: u64 = 1 << 7;
const LARGE_PAGE_SIZE: u64 = 2 << 20;
const DIRECTORIES: u64 = 4;
/// Entries of all directories.
const LEAVES: usize = 4 * 512;

/// Writes PML4, PDPT and page directories to [`PAGE_TABLES`].
pub(crate) fn write<M: GuestMemoryBackend>(memory: &M) -> Result<(), GuestMemoryError> {
    let pdpt = PAGE_TABLES + PAGE_SIZE;
    let directories = pdpt + PAGE_SIZE;
    memory.write_obj(pdpt | PRESENT_WRITABLE, GuestAddress(PAGE_TABLES))?;
    for i in 0..DIRECTORIES {
        let directory = directories + i * PAGE_SIZE;
        memory.write_obj(directory | PRESENT_WRITABLE, GuestAddress(pdpt + i * 8))?;
    }
    let mut leaves = [0u8; LEAVES * 8];
    for (leaf, i) in leaves.chunks_exact_mut(8).zip(0u64..) {
        let entry = (i * LARGE_PAGE_SIZE) | PRESENT_WRITABLE | LARGE_PAGE;
        leaf.copy_from_slice(&entry.to_le_bytes());
    }
    memory.write_slice(&leaves, GuestAddress(directories))
}

#[cfg(test)]
#[path = "paging_test.rs"]
mod paging_test;
