use proptest::prelude::*;

use super::super::super::elf;
use super::super::super::fixture;
use super::*;

/// The test kernel as an entry's bytes, and its image in there.
fn entry() -> (Vec<u8>, Image) {
    let bzimage = fixture::linux_bzimage();
    let header = Header::parse(&bzimage, bzimage.len() as u64).unwrap();
    let bytes = fixture::linux();
    let source = &bytes.as_slice();
    let elf = elf::parse(source, bytes.len() as u64).unwrap();
    let table = relocations::Table::find(source, elf.end, bytes.len() as u64).unwrap();
    let image = Image { relocations: table, ..elf.image };
    let plan = Plan::new(&header, &image, &bytes).unwrap();
    let mut file = Vec::new();
    plan.write(&mut file).unwrap();
    assert_eq!(file.len() as u64, plan.size());
    (file, plan.image)
}

#[test]
fn what_is_written_is_read() {
    let (file, image) = entry();
    let (header, found) = read(&file.as_slice(), file.len() as u64).unwrap();
    assert_eq!(found, image);
    assert_eq!(header.init_size(), 0x40_0000);
    for piece in &image.pieces {
        let start = piece.offset as usize;
        let bytes = &file[start..start + piece.length as usize];
        assert_eq!(piece.checksum, Some(crc32fast::hash(bytes)));
    }
}

#[test]
fn zeros_are_left_out() {
    let (_, image) = entry();
    let data: Vec<_> =
        image.pieces.iter().filter(|p| p.address >= fixture::BASE + 0x20_0000).collect();
    assert_eq!(data.len(), 2, "the first and the last block of the data segment");
    assert_eq!(data.iter().map(|piece| piece.length).sum::<u64>(), 2 * BLOCK as u64);
}

#[test]
fn truncated_entries_are_not_read() {
    let (file, _) = entry();
    for length in (0..file.len()).step_by(97).chain([file.len() - 1]) {
        assert!(read(&&file[..length], length as u64).is_none(), "{length}");
    }
}

#[test]
fn tables_longer_than_a_page_are_read_whole() {
    let mut bytes = vec![0; 200 * BLOCK];
    bytes.iter_mut().step_by(2 * BLOCK).for_each(|byte| *byte = 1);
    let elf = fixture::elf(fixture::BASE, &[fixture::linux_segment(fixture::BASE, &bytes)], None);
    let image = elf::parse(&elf.as_slice(), elf.len() as u64).unwrap().image;
    let bzimage = fixture::linux_bzimage();
    let header = Header::parse(&bzimage, bzimage.len() as u64).unwrap();
    let plan = Plan::new(&header, &image, &elf).unwrap();
    assert_eq!(plan.image.pieces.len(), 100);
    let mut file = Vec::new();
    plan.write(&mut file).unwrap();
    assert_eq!(read(&file.as_slice(), file.len() as u64).unwrap().1, plan.image);
}

proptest! {
    #[test]
    fn a_change_to_the_table_is_noticed(at in any::<prop::sample::Index>(), bit in 0u32..8) {
        let (mut file, _) = entry();
        let size = u32::from_le_bytes(file[8..12].try_into().unwrap()) as usize;
        file[at.index(PREFIX + size)] ^= 1 << bit;
        prop_assert!(read(&file.as_slice(), file.len() as u64).is_none());
    }

    #[test]
    fn tables_with_a_right_checksum_but_wrong_numbers_decode_to_sound_images(
        changes in prop::collection::vec((0usize..40, any::<u64>()), 1..4),
    ) {
        let (mut file, _) = entry();
        let size = u32::from_le_bytes(file[8..12].try_into().unwrap()) as usize;
        let table = &mut file[PREFIX..PREFIX + size];
        for (number, value) in changes {
            let at = HEADER_LENGTH + number * 8;
            if let Some(target) = table.get_mut(at..at + 8) {
                target.copy_from_slice(&value.to_le_bytes());
            }
        }
        let checksum = crc32fast::hash(table);
        file[12..16].copy_from_slice(&checksum.to_le_bytes());
        if let Some((_, image)) = read(&file.as_slice(), file.len() as u64) {
            prop_assert!(image.is_sound(file.len() as u64));
        }
    }
}
