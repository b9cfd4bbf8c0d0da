//! Kernels as distributions ship them, through extraction, cache, relocation and loading.
//!
//! `CARVE_TEST_KERNELS` lists them, separated by colons. Without it the tests are skipped and say
//! so. Times are printed: run with `--release -- --nocapture` to look at them.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use boot::cmdline::CommandLine;
use boot::kernel::{Kernel, Options};
use boot::layout::{LOW_RAM_END, RamLayout, ZERO_PAGE};
use boot::{BootSource, Protocol};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const RSDP: GuestAddress = GuestAddress(0xE_0000);
const MEMORY: u64 = 512 << 20;

fn kernels() -> Vec<PathBuf> {
    let list = std::env::var_os("CARVE_TEST_KERNELS").unwrap_or_default();
    let kernels: Vec<_> =
        std::env::split_paths(&list).filter(|p| !p.as_os_str().is_empty()).collect();
    if kernels.is_empty() {
        println!("skipped: CARVE_TEST_KERNELS names no kernels");
    }
    kernels
}

fn guest(kernel: &Path, cache: &Path, protocol: Option<Protocol>, line: &str) -> BootSource {
    let options = Options { cache: Some(cache.into()), protocol, ..Options::default() };
    let file = File::open(kernel).unwrap();
    BootSource {
        kernel: Kernel::open(file, kernel, &options).unwrap(),
        initrd: None,
        cmdline: CommandLine::new(line).unwrap(),
    }
}

fn memory() -> (RamLayout, GuestMemoryMmap) {
    let size = usize::try_from(MEMORY).unwrap();
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size)]).unwrap();
    (RamLayout::new(MEMORY), memory)
}

fn bytes(memory: &GuestMemoryMmap, range: std::ops::Range<u64>) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap()];
    memory.read_slice(&mut bytes, GuestAddress(range.start)).unwrap();
    bytes
}

#[test]
fn every_kernel_is_extracted_cached_and_randomised() {
    for kernel in kernels() {
        let cache = tempfile::tempdir().unwrap();
        let (ram, _) = memory();
        for start in ["cold", "warm"] {
            let opened = Instant::now();
            let guest = guest(&kernel, cache.path(), None, "");
            let opened = opened.elapsed();
            assert!(guest.kernel.is_extracted() && guest.kernel.is_relocatable());
            let (_, memory) = memory();
            let loaded = Instant::now();
            let entry = guest.load(&memory, &ram, RSDP).unwrap();
            println!(
                "{}: {start}: opened in {opened:?}, loaded in {:?}, least memory {} MiB, {entry:x?}",
                kernel.display(),
                loaded.elapsed(),
                guest.minimum_memory() >> 20
            );
            assert_eq!(bytes(&memory, ZERO_PAGE..ZERO_PAGE + 0x212)[0x211] & 2, 2, "KASLR_FLAG");
        }
        let entries = std::fs::read_dir(cache.path().join("kernels")).unwrap().count();
        assert_eq!(entries, 2, "one entry and the index");
    }
}

#[test]
fn kernel_bytes_do_not_depend_on_the_cache() {
    for kernel in kernels() {
        let cache = tempfile::tempdir().unwrap();
        let uncached = Path::new("/proc/no/such/directory");
        let load = |cache: &Path| {
            let (ram, memory) = memory();
            let guest = guest(&kernel, cache, None, "nokaslr");
            let entry = guest.load(&memory, &ram, RSDP).unwrap();
            assert_eq!((entry.virtual_shift, entry.physical_shift), (0, 0));
            bytes(&memory, entry.kernel)
        };
        let plain = load(uncached);
        assert!(plain == load(cache.path()), "cold");
        assert!(plain == load(cache.path()), "warm");
    }
}

#[test]
fn a_second_boot_gets_another_base() {
    for kernel in kernels() {
        let cache = tempfile::tempdir().unwrap();
        let guest = guest(&kernel, cache.path(), None, "");
        let mut bases = std::collections::BTreeSet::new();
        for _ in 0..8 {
            let (ram, memory) = memory();
            let entry = guest.load(&memory, &ram, RSDP).unwrap();
            bases.insert((entry.virtual_shift, entry.physical_shift));
            assert_eq!(bytes(&memory, LOW_RAM_END..0x10_0000).iter().max(), Some(&0));
        }
        assert!(bases.len() > 4, "{bases:x?}");
    }
}

#[test]
fn pvh_moves_the_kernel_by_the_same_distance_in_both_address_spaces() {
    for kernel in kernels() {
        let cache = tempfile::tempdir().unwrap();
        let guest = guest(&kernel, cache.path(), Some(Protocol::Pvh), "");
        let (ram, memory) = memory();
        let entry = guest.load(&memory, &ram, RSDP).unwrap();
        assert_eq!(entry.virtual_shift, entry.physical_shift);
        assert!(entry.kernel.contains(&entry.registers.rip));
    }
}
