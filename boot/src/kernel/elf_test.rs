use proptest::prelude::*;

use super::super::fixture::{self, BASE, elf, elf_header, flat_segment, linux_segment, pvh_note};
use super::*;

fn parsed(file: &[u8]) -> Result<Elf, Error> {
    parse(&file, file.len() as u64)
}

#[test]
fn a_linux_kernel_is_placed_by_its_physical_addresses() {
    let kernel = fixture::linux();
    let found = parsed(&kernel).unwrap();
    let layout = &found.image.layout;
    assert_eq!(layout.ranges, [BASE..BASE + 0x1000, BASE + 0x20_0000..BASE + 0x28_0000]);
    assert_eq!(layout.entry, BASE + 0x10);
    assert_eq!(layout.pvh_entry, Some(0x100_0020));
    assert!(layout.linux);
    assert_eq!(kernel.len() as u64 - found.end, 6 * 4, "the relocation table is not in the ELF");
}

#[test]
fn segments_are_sorted_and_virtual_entry_points_translated() {
    let mut data = flat_segment(0x30_0000, b"data");
    let mut text = flat_segment(0x20_0000, b"text");
    (text.vaddr, data.vaddr) = (0xFFFF_8000_0020_0000, 0xFFFF_8000_0030_0000);
    let file = elf(text.vaddr + 2, &[data, text], None);
    let layout = parsed(&file).unwrap().image.layout;
    assert_eq!(layout.ranges, [0x20_0000..0x20_0004, 0x30_0000..0x30_0004]);
    assert_eq!(layout.entry, 0x20_0002);
    assert!(!layout.linux);
}

#[test]
fn a_tiny_payload_at_one_mib_is_a_kernel() {
    let file = elf(0x10_0000, &[flat_segment(0x10_0000, &[0xF4])], None);
    let found = parsed(&file).unwrap();
    assert_eq!((found.image.layout.start(), found.image.layout.end()), (0x10_0000, 0x10_0001));
    assert_eq!(found.image.layout.pvh_entry, None);
}

#[test]
fn other_architectures_are_named() {
    let aarch64 = abi::Elf64_Ehdr { e_machine: 183, ..elf_header(0, 0) };
    let error = parsed(aarch64.as_slice()).unwrap_err();
    assert!(error.to_string().contains("AArch64 (64 bits)"), "{error}");
    let mut x86 = abi::Elf64_Ehdr { e_machine: 3, ..elf_header(0, 0) };
    x86.e_ident[4] = 1;
    let error = parsed(x86.as_slice()).unwrap_err();
    assert!(error.to_string().contains("x86 (32 bits)"), "{error}");
    let mut s390 = abi::Elf64_Ehdr { e_machine: 22u16.swap_bytes(), ..elf_header(0, 0) };
    s390.e_ident[5] = 2;
    assert!(parsed(s390.as_slice()).unwrap_err().to_string().contains("s390"));
}

#[test]
fn every_truncation_is_an_error() {
    let file = elf(BASE, &[linux_segment(BASE, &[0x90; 100])], Some(&pvh_note(BASE as u32)));
    let with_note_cut = file.len() - 30..file.len();
    for length in 0..file.len() {
        match parsed(&file[..length]) {
            Err(Error::Truncated { have, need }) => {
                assert_eq!(have, length as u64);
                assert!(need > have);
            }
            // A kernel without its note can be booted; the note is the last thing in this file.
            Ok(_) => assert!(with_note_cut.contains(&length), "{length}"),
            Err(error) => panic!("{length}: {error}"),
        }
    }
}

#[test]
fn segments_that_cannot_be_placed_are_refused() {
    let refused = |segments: &[_], entry| parsed(&elf(entry, segments, None)).unwrap_err();
    let low = flat_segment(0x9_0000, b"x");
    assert!(matches!(refused(&[low], 0x9_0000), Error::Placement { start: 0x9_0000, .. }));
    let overlap = [flat_segment(BASE, &[1; 16]), flat_segment(BASE + 8, &[2; 16])];
    assert!(matches!(refused(&overlap, BASE), Error::Placement { .. }));
    let mut huge = flat_segment(BASE, b"x");
    huge.memsz = u64::MAX;
    assert!(matches!(refused(&[huge], BASE), Error::Placement { end: u64::MAX, .. }));
    let mut shrunk = flat_segment(BASE, b"xyz");
    shrunk.memsz = 2;
    assert!(matches!(refused(&[shrunk], BASE), Error::SegmentSize { file: 3, memory: 2, .. }));
    assert!(matches!(refused(&[flat_segment(BASE, b"x")], 5), Error::Entry(5)));
    assert!(matches!(refused(&[], BASE), Error::NoSegments));
}

#[test]
fn object_files_and_odd_program_headers_are_refused() {
    let object = abi::Elf64_Ehdr { e_type: 1, ..elf_header(0, 0) };
    assert!(matches!(parsed(object.as_slice()), Err(Error::NotExecutable(1))));
    let odd = abi::Elf64_Ehdr { e_phentsize: 55, ..elf_header(0, 0) };
    assert!(matches!(parsed(odd.as_slice()), Err(Error::ProgramHeaders { size: 55, .. })));
    let far = abi::Elf64_Ehdr { e_phoff: u64::MAX, ..elf_header(0, 3) };
    assert!(matches!(parsed(far.as_slice()), Err(Error::ProgramHeaders { count: 3, .. })));
    assert!(matches!(parsed(&[0; 64]), Err(Error::NotElf)));
}

#[test]
fn the_note_is_found_behind_others_and_ignored_where_it_points_elsewhere() {
    let linux = |note: &[u8]| {
        let file = elf(BASE, &[linux_segment(BASE, &[0x90; 64])], Some(note));
        parsed(&file).unwrap().image.layout.pvh_entry
    };
    // A GNU build id of 3 bytes, padded to 4.
    let mut notes = [4u32, 3, 3].map(u32::to_le_bytes).concat();
    notes.extend(b"GNU\0abc\0");
    notes.extend(pvh_note(0x100_0020));
    assert_eq!(linux(&notes), Some(0x100_0020));
    assert_eq!(linux(&pvh_note(0x100_0040)), None, "behind the segment");
    assert_eq!(linux(&pvh_note(0x100_0020)[..20]), None, "cut off");
}

#[test]
fn the_file_ends_after_its_sections() {
    let mut file = elf(BASE, &[flat_segment(BASE, b"x")], None);
    let at = file.len() as u64;
    let mut section = [0u8; 64];
    section[4] = 1;
    section[24..32].copy_from_slice(&(at + 64).to_le_bytes());
    section[32..40].copy_from_slice(&9u64.to_le_bytes());
    file.extend(section);
    file.extend([7; 9 + 4]);
    file[40..48].copy_from_slice(&at.to_le_bytes());
    file[58..62].copy_from_slice(&[64, 0, 1, 0]);
    assert_eq!(parsed(&file).unwrap().end, file.len() as u64 - 4);
}

proptest! {
    #[test]
    fn mutated_kernels_never_panic_and_parse_to_sound_images(
        changes in prop::collection::vec((0usize..400, any::<u8>()), 0..8), cut in 0usize..100,
    ) {
        let mut file = fixture::linux();
        file.truncate(file.len() - cut);
        for (at, byte) in changes {
            file[at] = byte;
        }
        if let Ok(elf) = parsed(&file) {
            prop_assert!(elf.image.is_sound(file.len() as u64));
        }
    }
}
