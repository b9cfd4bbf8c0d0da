use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use proptest::prelude::*;
use vm_memory::GuestMemoryMmap;

use super::*;
use crate::kernel::Options;
use crate::kernel::fixture::{self, BASE};
use crate::layout::{ACPI_TABLES, COMMAND_LINE, LOW_RAM_END, ZERO_PAGE};

const MIB: u64 = 1 << 20;
const RSDP: GuestAddress = GuestAddress(ACPI_TABLES.start);

fn file(content: &[u8]) -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(content, 0).unwrap();
    file
}

fn kernel(content: &[u8], protocol: Option<Protocol>) -> Kernel {
    let options = Options { protocol, ..Options::default() };
    Kernel::open(file(content), Path::new("/boot/vmlinuz"), &options).unwrap()
}

/// A guest with an initrd of `initrd` bytes, all 0x55.
fn guest(kernel: Kernel, initrd: u64, line: &str) -> BootSource {
    let initrd = (initrd > 0).then(|| {
        let file = file(&vec![0x55; usize::try_from(initrd.min(MIB)).unwrap()]);
        file.set_len(initrd).unwrap();
        Initrd::open(file, Path::new("/boot/initrd")).unwrap()
    });
    BootSource { kernel, initrd, cmdline: CommandLine::new(line).unwrap() }
}

fn linux(initrd: u64, line: &str) -> BootSource {
    guest(kernel(&fixture::linux_bzimage(), None), initrd, line)
}

fn boot(guest: &BootSource, size: u64) -> (GuestMemoryMmap, Entry) {
    let ram = RamLayout::new(size);
    let low = usize::try_from(ram.below_hole().end).unwrap();
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), low)]).unwrap();
    let entry = guest.load(&memory, &ram, RSDP).unwrap();
    (memory, entry)
}

fn bytes(memory: &GuestMemoryMmap, address: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

#[test]
fn the_guest_is_told_where_everything_is() {
    let guest = linux(5000, "quiet");
    let (memory, entry) = boot(&guest, 64 * MIB);
    let initrd = entry.initrd.clone().unwrap();
    assert_eq!(initrd, 64 * MIB - 8192..64 * MIB - 8192 + 5000, "as high as possible");
    assert_eq!(bytes(&memory, initrd.start, 5000), [0x55; 5000]);
    assert_eq!(entry.registers.rip, BASE + 0x10 + entry.physical_shift);
    assert_eq!(entry.registers.rsi, ZERO_PAGE);
    assert_eq!(bytes(&memory, COMMAND_LINE, 29), b"console=ttyS0 panic=-1 quiet\0");
    let page = bytes(&memory, ZERO_PAGE, 4096);
    assert_eq!(page[0x211] & 2, 2, "KASLR_FLAG");
    assert_eq!(page[0x218..0x21C], u32::try_from(initrd.start).unwrap().to_le_bytes());
    assert_eq!(page[0x260..0x264], 0x40_0000u32.to_le_bytes(), "the bzImage's own header");
}

#[test]
fn every_boot_has_another_base_and_seed() {
    let guest = linux(0, "");
    let mut bases = std::collections::BTreeSet::new();
    let mut seeds = std::collections::BTreeSet::new();
    for _ in 0..8 {
        let (memory, entry) = boot(&guest, 256 * MIB);
        bases.insert((entry.virtual_shift, entry.physical_shift));
        seeds.insert(bytes(&memory, layout::SETUP_DATA + 16, 32));
    }
    assert!(bases.len() > 4, "{bases:x?}");
    assert_eq!(seeds.len(), 8);
}

#[test]
fn nokaslr_leaves_the_kernel_where_it_is_linked() {
    let (memory, entry) = boot(&linux(0, "nokaslr"), 256 * MIB);
    assert_eq!((entry.virtual_shift, entry.physical_shift), (0, 0));
    assert_eq!(bytes(&memory, ZERO_PAGE, 4096)[0x211] & 2, 0);
}

#[test]
fn parameters_that_take_memory_away_keep_the_kernel_low() {
    for line in ["mem=64M", "memmap=1M$128M", "hugepagesz=1G"] {
        let guest = linux(0, line);
        let shifts: Vec<_> = (0..8).map(|_| boot(&guest, 256 * MIB).1).collect();
        assert!(shifts.iter().all(|entry| entry.physical_shift == 0), "{line}");
        assert!(shifts.iter().any(|entry| entry.virtual_shift != 0), "{line}");
    }
}

#[test]
fn a_kernel_without_relocations_is_not_moved() {
    let tiny = fixture::elf(MIB, &[fixture::flat_segment(MIB, &[0xF4])], None);
    let (memory, entry) = boot(&guest(kernel(&tiny, None), 0, ""), 2 * MIB);
    assert_eq!((entry.registers.rip, entry.virtual_shift), (MIB, 0));
    assert_eq!(bytes(&memory, MIB, 1), [0xF4]);
}

#[test]
fn pvh_is_entered_in_32_bit_mode_with_the_start_info() {
    let kernel = kernel(&fixture::linux_bzimage(), Some(Protocol::Pvh));
    let (memory, entry) = boot(&guest(kernel, 4096, ""), 64 * MIB);
    assert_eq!(entry.virtual_shift, entry.physical_shift);
    assert_eq!(entry.registers.rip, BASE + 0x20 + entry.physical_shift);
    assert_eq!(entry.registers.rbx, layout::PVH_START_INFO);
    assert_eq!((entry.registers.cr0 >> 31, entry.registers.efer), (0, 0));
    assert_eq!(bytes(&memory, layout::PVH_START_INFO, 4), 0x336E_C578u32.to_le_bytes());
    assert_eq!(bytes(&memory, ZERO_PAGE, 4096), [0; 4096], "no zero page");
}

#[test]
fn the_least_memory_is_enough_and_a_page_less_is_not() {
    for initrd in [0, 1, 4096, 3 * MIB + 5] {
        let guest = linux(initrd, "");
        let least = guest.minimum_memory();
        assert_eq!(least % MIB, 0);
        guest.check(&RamLayout::new(least)).unwrap();
        let needed = BASE + 4 * MIB + initrd.next_multiple_of(PAGE_SIZE);
        guest.check(&RamLayout::new(needed)).unwrap();
        let error = guest.check(&RamLayout::new(needed - PAGE_SIZE)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("at least {} MiB", least / MIB)), "{text}");
    }
}

#[test]
fn an_initrd_above_the_kernels_limit_is_refused_for_any_memory() {
    let guest = linux(2 << 30, "");
    let error = guest.check(&RamLayout::new(64 << 30)).unwrap_err();
    assert!(matches!(error, Error::InitrdTooLarge { size, .. } if size == 2 << 30), "{error}");
    let text = error.to_string();
    assert!(text.contains("/boot/initrd") && text.contains("2048 MiB"), "{text}");
    // Just as much as there is room for, with more memory than the kernel allows for it.
    linux((2 << 30) - BASE - 4 * MIB, "").check(&RamLayout::new(5 << 30)).unwrap();
}

#[test]
fn a_command_line_that_is_too_long_is_refused_with_the_numbers() {
    let defaults = crate::cmdline::DEFAULTS.len() + 1;
    linux(0, &"x".repeat(2047 - defaults)).check(&RamLayout::new(64 * MIB)).unwrap();
    let error = linux(0, &"x".repeat(2048 - defaults)).check(&RamLayout::new(64 * MIB));
    let error = error.unwrap_err();
    assert!(matches!(error, Error::CommandLineTooLong { length: 2048, limit: 2047 }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn nothing_overlaps_wherever_the_kernel_goes(
        spare in 0u64..40, initrd in 0u64..2 * MIB, pvh: bool,
    ) {
        let protocol = pvh.then_some(Protocol::Pvh);
        let guest = guest(kernel(&fixture::linux_bzimage(), protocol), initrd, "");
        let size = guest.minimum_memory() + spare * MIB;
        let (memory, entry) = boot(&guest, size);
        prop_assert!(entry.kernel.start >= BASE && entry.kernel.end <= size);
        if let Some(place) = &entry.initrd {
            prop_assert!(place.start >= entry.kernel.end && place.end <= size);
        }
        prop_assert_eq!(entry.physical_shift % (2 * MIB), 0);
        // The ACPI tables are somebody else's.
        let length = usize::try_from(BASE - LOW_RAM_END).unwrap();
        prop_assert!(bytes(&memory, LOW_RAM_END, length).iter().all(|byte| *byte == 0));
        let bss = bytes(&memory, entry.kernel.start + 0x25_0000, 0x3_0000);
        prop_assert!(bss.iter().all(|byte| *byte == 0));
    }
}
