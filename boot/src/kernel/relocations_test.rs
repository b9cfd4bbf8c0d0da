use proptest::prelude::*;
use vm_memory::GuestMemoryMmap;

use super::super::fixture::{BASE, relocation_table};
use super::*;

const SIZE: u64 = 0x4000;
const HALF: u64 = SIZE / 2;

fn layout() -> Layout {
    let ranges = vec![BASE..BASE + HALF, BASE + HALF..BASE + SIZE];
    Layout { ranges, entry: BASE, pvh_entry: None, linux: true }
}

/// Memory made of two regions that meet in the middle of the second segment.
fn memory() -> GuestMemoryMmap {
    let border = BASE + HALF + 0x1001;
    let size = usize::try_from(border).unwrap();
    let memory: GuestMemoryMmap =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size), (GuestAddress(border), 0x80_0000)])
            .unwrap();
    memory
}

fn at(offset: u64) -> u64 {
    LINUX_MAP + BASE + offset
}

fn found(table: &[u8]) -> Option<Table> {
    Table::find(&table, 0, table.len() as u64).unwrap()
}

#[test]
fn the_number_of_zero_words_tells_the_groups() {
    let three = found(&relocation_table(&[&[at(0)], &[], &[at(8)]])).unwrap();
    assert!(three.inverse && three.words == 5);
    assert!(!found(&relocation_table(&[&[at(0)], &[at(8)]])).unwrap().inverse);
}

#[test]
fn other_bytes_are_no_table() {
    assert_eq!(found(&[]), None);
    assert_eq!(found(&[0; 4]), None, "one group");
    assert_eq!(found(&[0; 16]), None, "four groups");
    assert_eq!(found(&[0; 9]), None, "not words");
    assert_eq!(Table::find(&[0u8; 12].as_slice(), 0, 1 << 40).unwrap(), None, "not even read");
    assert_eq!(found(b"SIGN\0\0\0\0\0\0\0\0"), None, "does not start with a group");
}

proptest! {
    #[test]
    fn sites_change_by_the_shift_and_nothing_else_changes(
        slots in prop::collection::btree_map(0..SIZE / 8 - 1, 0..3usize, 0..60),
        shift in 0..500u32, physical in 0..2u64, misalign in 0..5u64, inverse: bool,
    ) {
        let (shift, physical) = (shift << 21, physical << 21);
        let memory = memory();
        let start = GuestAddress(BASE + physical);
        let mut content: Vec<u8> = (0..SIZE).map(|i| (i * 7) as u8).collect();
        memory.write_slice(&content, start).unwrap();

        let mut groups: [Vec<u64>; 3] = Default::default();
        for (slot, group) in slots {
            let group = if inverse || group != 1 { group } else { 2 };
            // No site may straddle the two segments.
            let offset = slot * 8 + misalign;
            if (offset..offset + 8).contains(&HALF) {
                continue;
            }
            groups[group].push(at(offset));
            let site = usize::try_from(offset).unwrap();
            if group == 0 {
                let site = &mut content[site..site + 8];
                let value = u64::from_le_bytes((&*site).try_into().unwrap());
                site.copy_from_slice(&value.wrapping_add(shift.into()).to_le_bytes());
            } else {
                let site = &mut content[site..site + 4];
                let value = u32::from_le_bytes((&*site).try_into().unwrap());
                let change = if group == 1 { shift.wrapping_neg() } else { shift };
                site.copy_from_slice(&value.wrapping_add(change).to_le_bytes());
            }
        }
        let [abs64, inverse32, abs32] = &groups;
        let bytes = if inverse {
            relocation_table(&[abs64, inverse32, abs32])
        } else {
            relocation_table(&[abs64, abs32])
        };
        let table = found(&bytes).unwrap();
        let count = table.apply(&bytes.as_slice(), &layout(), &memory, physical, shift).unwrap();
        prop_assert_eq!(count, groups.iter().map(Vec::len).sum::<usize>());
        let mut patched = vec![0; content.len()];
        memory.read_slice(&mut patched, start).unwrap();
        prop_assert!(patched == content);
    }

    #[test]
    fn no_table_patches_outside_the_kernel(words in prop::collection::vec(any::<u32>(), 1..40)) {
        let memory = memory();
        let mut bytes = vec![0; 8];
        bytes.extend(words.into_iter().map(|word| word.max(1)).flat_map(u32::to_le_bytes));
        let table = Table {
            offset: 0,
            words: (bytes.len() / 4) as u32,
            inverse: false,
            checksum: None,
        };
        let _ = table.apply(&bytes.as_slice(), &layout(), &memory, 0, 0xDEAD_BEEF);
        let mut below = vec![0; 0x10_0000];
        memory.read_slice(&mut below, GuestAddress(BASE - 0x10_0000)).unwrap();
        prop_assert!(below.iter().all(|byte| *byte == 0));
        memory.read_slice(&mut below, GuestAddress(BASE + SIZE)).unwrap();
        prop_assert!(below.iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_site_at_the_edge_must_fit_whole() {
    let refuse = |group: usize, offset: u64| {
        let mut groups: [&[u64]; 3] = [&[], &[], &[]];
        let site = [at(offset)];
        groups[group] = &site;
        let bytes = relocation_table(&groups);
        let table = found(&bytes).unwrap();
        match table.apply(&bytes.as_slice(), &layout(), &memory(), 0, 1 << 21) {
            Ok(_) => false,
            Err(Error::Site(refused)) => refused == at(offset),
            Err(error) => panic!("{error}"),
        }
    };
    assert!(!refuse(0, SIZE - 8) && refuse(0, SIZE - 7));
    assert!(!refuse(1, SIZE - 4) && refuse(1, SIZE - 3));
    assert!(!refuse(2, SIZE - 4) && refuse(2, SIZE - 3));
    assert!(refuse(0, HALF - 4), "across two segments");
}

#[test]
fn a_damaged_table_is_noticed() {
    let bytes = relocation_table(&[&[at(0)], &[], &[]]);
    let table = Table { checksum: Some(1), ..found(&bytes).unwrap() };
    let error = table.apply(&bytes.as_slice(), &layout(), &memory(), 0, 1 << 21).unwrap_err();
    assert!(matches!(error, Error::Table(image::Error::Checksum { .. })));
}
