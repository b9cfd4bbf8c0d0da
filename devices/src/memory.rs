//! Guest RAM as devices see it: contiguous regions of guest-physical addresses, each backed by one
//! host mapping that lives as long as anything still refers to it.
//!
//! How the mapping is made (huge pages, files, advice) is the machine's business; what lies where
//! in it is the boot loader's.
#![allow(unsafe_code)] // Owns a memory map.

use std::ptr::NonNull;

use vm_memory::bitmap::BS;
use vm_memory::guest_memory::Result as AccessResult;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryError, GuestMemoryRegion, GuestMemoryRegionBytes,
    GuestRegionCollection, GuestUsize, MemoryRegionAddress, VolatileSlice,
};

/// A guest's RAM: sorted regions that do not touch one another.
pub type GuestMemory = GuestRegionCollection<RamRegion>;

/// One contiguous piece of guest RAM and the host mapping behind it, unmapped with its last user.
#[derive(Debug)]
pub struct RamRegion {
    start: GuestAddress,
    host: NonNull<u8>,
    len: usize,
    file: Option<FileOffset>,
    hugetlb: bool,
}

// SAFETY: the mapping is plain memory of the process; guest and threads access it through volatile
// slices and raw pointers only.
unsafe impl Send for RamRegion {}
// SAFETY: as above.
unsafe impl Sync for RamRegion {}

impl RamRegion {
    /// Takes over the `len` bytes mapped readable and writable at `host` as the guest-physical
    /// addresses from `start` on. `hugetlb`: the mapping is of reserved huge pages.
    ///
    /// # Safety
    ///
    /// The mapping is a whole one made by mmap(2), nothing else unmaps it, and no Rust reference
    /// to its contents is ever made: a guest changes them at any time. `start` is page-aligned, as
    /// `host` is, and `start + len` does not overflow.
    pub unsafe fn from_mapping(
        start: GuestAddress,
        host: NonNull<u8>,
        len: usize,
        file: Option<FileOffset>,
        hugetlb: bool,
    ) -> Self {
        Self { start, host, len, file, hugetlb }
    }
}

impl Drop for RamRegion {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours to unmap (`from_mapping`), and this is its last user.
        let _ = unsafe { rustix::mm::munmap(self.host.as_ptr().cast(), self.len) };
    }
}

impl GuestMemoryRegion for RamRegion {
    type B = ();

    fn len(&self) -> GuestUsize {
        self.len as GuestUsize
    }

    fn start_addr(&self) -> GuestAddress {
        self.start
    }

    fn bitmap(&self) -> BS<'_, ()> {}

    fn get_host_address(&self, addr: MemoryRegionAddress) -> AccessResult<*mut u8> {
        let addr = self.check_address(addr).ok_or(GuestMemoryError::InvalidBackendAddress)?;
        let offset =
            usize::try_from(addr.0).map_err(|_| GuestMemoryError::InvalidBackendAddress)?;
        Ok(self.host.as_ptr().wrapping_add(offset))
    }

    fn file_offset(&self) -> Option<&FileOffset> {
        self.file.as_ref()
    }

    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> AccessResult<VolatileSlice<'_, BS<'_, ()>>> {
        let out_of_range = GuestMemoryError::InvalidBackendAddress;
        let Ok(from) = usize::try_from(offset.0) else { return Err(out_of_range) };
        match from.checked_add(count) {
            Some(end) if end <= self.len => {}
            _ => return Err(out_of_range),
        }
        // SAFETY: `from + count` is within the mapping, which lives as long as the slice's borrow,
        // and is only ever accessed volatilely.
        Ok(unsafe { VolatileSlice::new(self.host.as_ptr().wrapping_add(from), count) })
    }

    fn is_hugetlbfs(&self) -> Option<bool> {
        Some(self.hugetlb)
    }
}

impl GuestMemoryRegionBytes for RamRegion {}

/// Guest memory of anonymous mappings at the given addresses and lengths, for tests and benchmarks
/// of devices.
///
/// # Panics
///
/// The ranges are not page-aligned, overlap, or the host has no memory.
#[cfg(any(test, feature = "test-utils"))]
#[allow(clippy::unwrap_used, clippy::expect_used)]
pub fn anonymous(ranges: &[(u64, usize)]) -> GuestMemory {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

    let regions = ranges.iter().map(|&(start, len)| {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping wherever the kernel likes.
        let host = unsafe { mmap_anonymous(std::ptr::null_mut(), len, access, MapFlags::PRIVATE) };
        let host = NonNull::new(host.expect("memory").cast()).unwrap();
        // SAFETY: the mapping made above, handed over whole.
        unsafe { RamRegion::from_mapping(GuestAddress(start), host, len, None, false) }
    });
    GuestMemory::from_regions(regions.collect()).unwrap()
}
