use std::os::unix::fs::FileExt as _;

use vm_memory::GuestMemoryMmap;

use super::fixture::{self, BASE};
use super::*;

const PATH: &str = "/boot/vmlinuz";

fn file(content: &[u8]) -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(content, 0).unwrap();
    file
}

fn open_with(content: &[u8], options: &Options) -> Result<Kernel, Error> {
    Kernel::open(file(content), Path::new(PATH), options)
}

fn open(content: &[u8]) -> Result<Kernel, Error> {
    open_with(content, &Options::default())
}

fn forced(content: &[u8], protocol: Protocol) -> Result<Kernel, Error> {
    open_with(content, &Options { protocol: Some(protocol), ..Options::default() })
}

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 64 << 20)]).unwrap()
}

fn loaded(kernel: &Kernel, shift: Shift) -> GuestMemoryMmap {
    let memory = memory();
    kernel.load(&memory, shift).unwrap();
    memory
}

fn bytes(memory: &GuestMemoryMmap, address: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

/// The error and its causes, as a user sees them.
fn message(error: &Error) -> String {
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        message += &format!(": {error}");
        cause = error.source();
    }
    message
}

/// A bzImage whose payload nothing here can unpack.
fn lzo_bzimage() -> Vec<u8> {
    fixture::bzimage(b"\x89LZO\0\r\n\x1a\n and so on", 0, |_| ())
}

#[test]
fn a_bzimage_is_loaded_like_the_elf_inside_it() {
    let shift = Shift { virtual_shift: 6 << 20, physical: 4 << 20 };
    let [bzimage, elf] = [fixture::linux_bzimage(), fixture::linux()].map(|content| {
        let kernel = open(&content).unwrap();
        assert!(kernel.is_extracted() && kernel.is_relocatable());
        assert_eq!(kernel.entry(shift).unwrap(), BASE + 0x10 + (4 << 20));
        bytes(&loaded(&kernel, shift), 0, 64 << 20)
    });
    assert!(bzimage == elf);
}

#[test]
fn sites_are_relocated_and_only_with_a_virtual_shift() {
    let kernel = open(&fixture::linux_bzimage()).unwrap();
    let sites = |shift| {
        let memory = loaded(&kernel, shift);
        let at = BASE + shift.physical;
        let abs64: u64 = memory.read_obj(GuestAddress(at)).unwrap();
        let [abs32, inverse]: [u32; 2] = memory.read_obj(GuestAddress(at + 8)).unwrap();
        (abs64, abs32, inverse)
    };
    let unmoved = (0xFFFF_FFFF_8100_0100, 0x8100_0200, 0x1234_5678);
    assert_eq!(sites(Shift::default()), unmoved);
    assert_eq!(sites(Shift { virtual_shift: 0, physical: 2 << 20 }), unmoved);
    let moved = sites(Shift { virtual_shift: 6 << 20, physical: 2 << 20 });
    assert_eq!(moved, (0xFFFF_FFFF_8160_0100, 0x8160_0200, 0x11D4_5678));
}

#[test]
fn an_uncached_kernel_can_be_loaded_again() {
    let kernel = open(&fixture::linux_bzimage()).unwrap();
    let first = bytes(&loaded(&kernel, Shift::default()), BASE, 0x28_0000);
    let second = bytes(&loaded(&kernel, Shift::default()), BASE, 0x28_0000);
    assert!(first == second && first[1] == 1);
}

#[test]
fn a_damaged_cache_entry_is_replaced_while_loading() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { cache: Some(directory.path().into()), ..Options::default() };
    let content = fixture::linux_bzimage();
    let intact = bytes(&loaded(&open(&content).unwrap(), Shift::default()), 0, 64 << 20);
    drop(open_with(&content, &options).unwrap());

    let kernel = open_with(&content, &options).unwrap();
    let entry = std::fs::read_dir(directory.path().join("kernels")).unwrap().flatten();
    let entry = entry.map(|e| e.path()).find(|p| p.extension().is_some()).unwrap();
    let damage = |at: u64| {
        let file = File::options().write(true).open(&entry).unwrap();
        file.write_all_at(b"damage", at).unwrap();
        file
    };
    drop(damage(4096 + 100));
    for _ in 0..2 {
        assert!(bytes(&loaded(&kernel, Shift::default()), 0, 64 << 20) == intact);
    }
    assert!(entry.exists(), "stored again");
    damage(0).set_len(5000).unwrap();
    assert!(bytes(&loaded(&kernel, Shift::default()), 0, 64 << 20) == intact, "cut off");
}

#[test]
fn a_cache_that_cannot_be_used_costs_only_time() {
    let options = Options { cache: Some("/proc/version/x".into()), ..Options::default() };
    let kernel = open_with(&fixture::linux_bzimage(), &options).unwrap();
    assert!(kernel.is_extracted());
    loaded(&kernel, Shift::default());
}

#[test]
fn a_kernel_changed_under_a_running_guest_is_not_booted() {
    let content = fixture::linux_bzimage();
    let file = file(&content);
    let kernel =
        Kernel::open(file.try_clone().unwrap(), Path::new(PATH), &Options::default()).unwrap();
    loaded(&kernel, Shift::default());
    let other = fixture::elf(BASE, &[fixture::linux_segment(BASE, b"other")], None);
    file.write_all_at(&fixture::bzimage(&fixture::lz4(&other), 0, |_| ()), 0).unwrap();
    let error = kernel.load(&memory(), Shift::default()).unwrap_err();
    assert!(matches!(error, Error::Changed(_)));
}

#[test]
fn what_cannot_be_unpacked_unpacks_itself() {
    let extract = Options { extract: false, ..Options::default() };
    for kernel in [open(&lzo_bzimage()), open_with(&fixture::linux_bzimage(), &extract)] {
        let kernel = kernel.unwrap();
        assert!(!kernel.is_extracted() && !kernel.is_relocatable());
        assert_eq!(kernel.entry(Shift::default()).unwrap(), BASE + 0x200);
        assert_eq!(kernel.memory(), BASE..BASE + 0x40_0000);
        assert_eq!(bytes(&loaded(&kernel, Shift::default()), BASE, 4), [0x90; 4]);
    }
}

#[test]
fn a_payload_that_is_damaged_or_no_elf_is_left_to_the_guest() {
    let mut damaged = fixture::linux_bzimage();
    let length = damaged.len();
    damaged[5 * 512 + 0x40 + 8..length - 64].fill(0xFF);
    let text = fixture::bzimage(&fixture::lz4(b"no kernel"), 9, |_| ());
    for content in [damaged, text] {
        assert!(!open(&content).unwrap().is_extracted());
    }
}

#[test]
fn a_32_bit_kernel_in_a_bzimage_is_refused() {
    let mut kernel = fixture::linux();
    (kernel[4], kernel[18]) = (1, 3);
    let bzimage = fixture::bzimage(&fixture::lz4(&kernel), kernel.len(), |_| ());
    let error = open(&bzimage).unwrap_err();
    assert!(message(&error).contains("x86 (32 bits)"), "{}", message(&error));
}

#[test]
fn linux_takes_its_own_protocol_and_others_the_one_they_declare() {
    assert_eq!(open(&fixture::linux()).unwrap().protocol(), Protocol::Linux64);
    let segment = [fixture::flat_segment(BASE, &[0xF4; 64])];
    let note = fixture::pvh_note(BASE as u32);
    let other = fixture::elf(BASE, &segment, Some(&note));
    assert_eq!(open(&other).unwrap().protocol(), Protocol::Pvh);
    assert_eq!(forced(&other, Protocol::Linux64).unwrap().protocol(), Protocol::Linux64);
    let tiny = fixture::elf(BASE, &segment, None);
    assert_eq!(open(&tiny).unwrap().protocol(), Protocol::Linux64);
}

#[test]
fn pvh_enters_at_the_note_moved_with_the_kernel() {
    let kernel = forced(&fixture::linux_bzimage(), Protocol::Pvh).unwrap();
    let shift = Shift { virtual_shift: 2 << 20, physical: 2 << 20 };
    assert_eq!(kernel.entry(shift).unwrap(), BASE + 0x20 + (2 << 20));
    for content in [lzo_bzimage(), fixture::elf(BASE, &[fixture::flat_segment(BASE, b"x")], None)] {
        assert!(matches!(forced(&content, Protocol::Pvh), Err(Error::NoPvhEntry(_))));
    }
}

#[test]
fn init_size_counts_as_memory_of_the_kernel() {
    assert_eq!(open(&fixture::linux_bzimage()).unwrap().memory(), BASE..BASE + 0x40_0000);
    assert_eq!(open(&fixture::linux()).unwrap().memory(), BASE..BASE + 0x28_0000);
}

#[test]
fn limits_come_from_the_header_or_are_the_usual_ones() {
    let adjust = |file: &mut [u8]| file[0x238..0x23C].copy_from_slice(&[0xFF; 4]);
    let long = open(&fixture::bzimage(b"\x89LZO\0\0\0\0", 0, adjust)).unwrap();
    assert_eq!(long.command_line_limit(), 0xFFFF, "what there is room for");
    let elf = open(&fixture::linux()).unwrap();
    assert_eq!((elf.command_line_limit(), elf.initrd_ceiling()), (2047, 0xC000_0000));
    let bzimage = open(&fixture::linux_bzimage()).unwrap();
    assert_eq!((bzimage.command_line_limit(), bzimage.initrd_ceiling()), (2047, 0x8000_0000));
}

#[test]
fn files_that_are_no_kernels_are_refused_with_their_path_and_the_reason() {
    let mut aarch64 = fixture::linux();
    aarch64[18] = 183;
    let truncated = fixture::linux_bzimage();
    for (content, reason) in [
        (&b"#!/bin/sh\n"[..], "not a kernel"),
        (&aarch64, "AArch64"),
        (&fixture::linux()[..5000], "truncated"),
        (&truncated[..truncated.len() - 1], "truncated"),
        (b"", "empty"),
    ] {
        let message = message(&open(content).unwrap_err());
        assert!(message.contains(PATH) && message.contains(reason), "{message}");
    }
    let directory = Kernel::open(File::open("/").unwrap(), Path::new("/"), &Options::default());
    assert!(matches!(directory, Err(Error::NotRegular(_))));
}

#[test]
fn a_wild_relocation_is_refused_when_the_kernel_is_loaded() {
    let mut kernel = fixture::linux();
    let site = kernel.len() - 4;
    kernel[site..].copy_from_slice(&0x8000_0000u32.to_le_bytes());
    let bzimage = fixture::bzimage(&fixture::lz4(&kernel), kernel.len(), |_| ());
    for content in [kernel, bzimage] {
        let kernel = open(&content).unwrap();
        let shift = Shift { virtual_shift: 2 << 20, physical: 0 };
        let error = kernel.load(&memory(), shift).unwrap_err();
        assert!(message(&error).contains("0xffffffff80000000"), "{}", message(&error));
    }
}
