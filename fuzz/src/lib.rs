//! What the fuzz targets share: a small guest, and the drivers of hostile guests.

pub mod device;
pub mod disk;
pub mod net;
pub mod registers;
pub mod rings;
pub mod sockets;

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

/// A fuzz target of a virtio device behind virtio-mmio registers: how to make the device.
///
/// ```ignore
/// carve_fuzz::virtio_device!(Rng::default());
/// ```
#[macro_export]
macro_rules! virtio_device {
    ($device:expr) => {
        ::libfuzzer_sys::fuzz_target!(|steps: Vec<$crate::registers::Step>| {
            $crate::registers::run(|| $device, &steps);
        });
    };
}
