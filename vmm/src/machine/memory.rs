//! Guest memory: where a guest's RAM comes from on the host.
//!
//! RAM is reserved when the machine is built and populated by the first touch, unless asked for in
//! advance. What lies where in the guest is [`boot::layout`]'s business; KVM's slots are
//! [`crate::kvm::vm`]'s.
#![allow(unsafe_code)] // Memory maps.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};

use boot::layout::RamLayout;
use devices::memory::{GuestMemory, RamRegion};
use resources::Size;
use resources::config::{Backing, HugePageSize, VmConfig};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress,
};

/// Guest addresses below this get huge pages only once the guest is loaded: the loader touches a few
/// pages of them, and clearing two huge pages for those would be a good part of a short guest's life.
const SMALL_PAGES: u64 = 4 << 20;

/// Host alignment of regions: the size of the huge pages the kernel makes of ordinary memory.
const HUGE_PAGE: usize = 2 << 20;

/// Why guest memory could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address space or the memory for it could not be reserved.
    #[error("cannot reserve {size} of guest memory: {source}; ask for less with --memory")]
    Reserve {
        /// Size of the region that failed.
        size: Size,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The host has too few free huge pages.
    #[error(
        "cannot reserve {size} of guest memory in {page} huge pages: {source}; reserve them with \
         `echo N > /sys/kernel/mm/hugepages/hugepages-{kib}kB/nr_hugepages`"
    )]
    HugePages {
        /// Size of the region that failed.
        size: Size,
        /// Huge page size.
        page: Size,
        /// Huge page size in KiB, as sysfs names it.
        kib: u64,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Populating the memory in advance failed.
    #[error(
        "cannot populate {size} of guest memory in advance: {source}; leave out --prefault or ask for less"
    )]
    Prefault {
        /// Size of the region that failed.
        size: Size,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Maps RAM for every region of `layout` as `config` says.
///
/// # Errors
///
/// [`Error`] naming the size that could not be had.
pub fn map(layout: &RamLayout, config: &VmConfig) -> Result<GuestMemory, Error> {
    let regions =
        layout.regions().map(|range| map_region(range, config)).collect::<Result<Vec<_>, _>>()?;
    // The layout's regions are sorted and apart: its own property.
    GuestMemory::from_regions(regions)
        .map_err(|e| Error::Reserve { size: config.memory.size, source: io::Error::other(e) })
}

/// Maps one region as `config` says.
fn map_region(range: Range<u64>, config: &VmConfig) -> Result<RamRegion, Error> {
    let (start, len) = (GuestAddress(range.start), range.end - range.start);
    let size = Size::from_bytes(len);
    let reserve = |source: io::Error| match config.hugepages {
        None => Error::Reserve { size, source },
        Some(page) => {
            Error::HugePages { size, page: page.size(), kib: page.size().bytes() >> 10, source }
        }
    };
    let len = usize::try_from(len).map_err(|e| reserve(io::Error::other(e)))?;
    let file = backing_file(len, config).map_err(|e| reserve(e.into()))?;
    let align = config.hugepages.map_or(HUGE_PAGE, |page| page_bytes(page).max(HUGE_PAGE));
    let host = map_aligned(len, align, file.as_ref(), config).map_err(|e| reserve(e.into()))?;
    let (file, hugetlb) = (file.map(|file| FileOffset::new(file, 0)), config.hugepages.is_some());
    // SAFETY: the mapping made above, of `len` bytes, handed over whole.
    let region = unsafe { RamRegion::from_mapping(start, host, len, file, hugetlb) };
    let later = SMALL_PAGES.saturating_sub(region.start_addr().0).min(len as u64);
    want_huge_pages(&region, usize::try_from(later).unwrap_or(len), config);
    Ok(region)
}

/// Completes what was left until the guest is loaded: asks for huge pages everywhere, keeps the memory
/// to this process, and populates it where that was asked for.
///
/// # Errors
///
/// [`Error::Prefault`]
pub fn settle(memory: &GuestMemory, config: &VmConfig) -> Result<(), Error> {
    for region in memory.iter() {
        keep_to_this_process(region);
        want_huge_pages(region, 0, config);
        if config.memory.prefault {
            let size = Size::from_bytes(region.len());
            populate(region).map_err(|source| Error::Prefault { size, source })?;
        }
    }
    Ok(())
}

/// Asks for transparent huge pages from the byte `from` of the region on.
fn want_huge_pages(region: &RamRegion, from: usize, config: &VmConfig) {
    if !config.memory.transparent_hugepages || config.hugepages.is_some() {
        return;
    }
    let Some((start, len)) = tail(region, from) else { return };
    // SAFETY: advice on a region's own mapping changes no contents. A host built without transparent
    // huge pages refuses it; small pages do as well then.
    let _ = unsafe { madvise(start.cast(), len, Advice::LinuxHugepage) };
}

/// Leaves the region out of child processes, which execute another program at once: to copy the page
/// tables of a large guest would take long, and make it fault for every page it writes afterwards. And out of core
/// dumps, which a process outside of a jail may leave: what a guest has in its memory is the guest's.
fn keep_to_this_process(region: &RamRegion) {
    let Some((start, len)) = tail(region, 0) else { return };
    for advice in [Advice::LinuxDontFork, Advice::LinuxDontDump] {
        // SAFETY: advice on a region's own mapping, which no child process uses.
        let _ = unsafe { madvise(start.cast(), len, advice) };
    }
}

fn populate(region: &RamRegion) -> io::Result<()> {
    let Some((start, len)) = tail(region, 0) else { return Ok(()) };
    // SAFETY: populating a region's own mapping changes no contents.
    Ok(unsafe { madvise(start.cast(), len, Advice::LinuxPopulateWrite) }?)
}

/// Host address and length of what follows the first `from` bytes of a region, if anything does.
fn tail(region: &RamRegion, from: usize) -> Option<(*mut u8, usize)> {
    let len = usize::try_from(region.len()).ok()?.checked_sub(from).filter(|&len| len > 0)?;
    let start = region.get_host_address(MemoryRegionAddress(from as u64)).ok()?;
    Some((start, len))
}

fn page_bytes(page: HugePageSize) -> usize {
    usize::try_from(page.size().bytes()).unwrap_or(usize::MAX)
}

/// The file behind a region, where it has one. Huge pages always do: a memfd is charged when it
/// is mapped, so that a lack of pages shows here and not as SIGBUS in the guest.
fn backing_file(len: usize, config: &VmConfig) -> rustix::io::Result<Option<File>> {
    let huge = match config.hugepages {
        None if config.memory.backing == Backing::Anonymous => return Ok(None),
        None => MemfdFlags::empty(),
        Some(HugePageSize::TwoMib) => MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
        Some(HugePageSize::OneGib) => MemfdFlags::HUGETLB | MemfdFlags::HUGE_1GB,
    };
    let fd = memfd_create(c"carve-ram", MemfdFlags::CLOEXEC | huge)?;
    ftruncate(&fd, len as u64)?;
    Ok(Some(File::from(fd)))
}

/// Maps `len` bytes at a multiple of `align`: only there can the host use huge pages throughout.
fn map_aligned(
    len: usize,
    align: usize,
    file: Option<&File>,
    config: &VmConfig,
) -> rustix::io::Result<NonNull<u8>> {
    let span = len.checked_add(align).ok_or(rustix::io::Errno::NOMEM)?;
    let none = ProtFlags::empty();
    let reserved = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a fresh mapping wherever the kernel likes.
    let space = unsafe { mmap_anonymous(ptr::null_mut(), span, none, reserved) }?;
    let head = space.align_offset(align);
    let aligned = space.wrapping_byte_add(head);
    let access = ProtFlags::READ | ProtFlags::WRITE;
    let mapped = match file {
        Some(file) => {
            // Huge pages are charged now; ordinary shared memory when it is touched.
            let lazy =
                if config.hugepages.is_some() { MapFlags::empty() } else { MapFlags::NORESERVE };
            let flags = MapFlags::SHARED | MapFlags::FIXED | lazy;
            // SAFETY: replaces part of the reservation made above, which nothing else refers to.
            unsafe { mmap(aligned, len, access, flags, file.as_fd(), 0) }
        }
        // SAFETY: as above.
        None => unsafe { mmap_anonymous(aligned, len, access, reserved | MapFlags::FIXED) },
    };
    // Give back what is not used: all of it after a failure.
    let (keep_from, keep_to) = if mapped.is_ok() { (head, head + len) } else { (0, 0) };
    for (from, to) in [(0, keep_from), (keep_to, span)] {
        if to > from {
            // SAFETY: inside the reservation and outside the part that is kept.
            let _ = unsafe { munmap(space.wrapping_byte_add(from), to - from) };
        }
    }
    NonNull::new(mapped?.cast()).ok_or(rustix::io::Errno::NOMEM)
}

#[cfg(test)]
#[path = "memory_test.rs"]
mod memory_test;
