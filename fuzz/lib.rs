//! What the fuzz targets share: a small guest.

use boot::layout::RamLayout;
use vm_memory::{GuestAddress, GuestMemoryMmap};

/// RAM of the guest in bytes.
pub const MEMORY: usize = 64 << 20;

/// Fresh guest memory and its layout. Only touched pages cost anything.
pub fn guest() -> (GuestMemoryMmap, RamLayout) {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)])
        .expect("64 MiB of address space");
    (memory, RamLayout::new(MEMORY as u64))
}
