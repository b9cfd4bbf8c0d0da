use proptest::prelude::*;
use vm_memory::GuestMemoryMmap;

use super::*;

const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;

/// Walks the tables as the processor does.
fn translate(memory: &GuestMemoryMmap, linear: u64) -> Option<u64> {
    let entry = |table: u64, shift: u32| -> Option<u64> {
        let index = linear >> shift & 0x1FF;
        let entry: u64 = memory.read_obj(GuestAddress(table + index * 8)).unwrap();
        (entry & 1 == 1).then_some(entry)
    };
    let pdpt = entry(PAGE_TABLES, 39)?;
    let directory = entry(pdpt & ADDRESS, 30)?;
    let leaf = entry(directory & ADDRESS, 21)?;
    assert_ne!(leaf & LARGE_PAGE, 0);
    Some((leaf & ADDRESS) + (linear & (LARGE_PAGE_SIZE - 1)))
}

proptest! {
    #[test]
    fn maps_exactly_the_first_four_gib_to_themselves(linear in 0u64..1 << 48, low in 0u64..1 << 32) {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
        write(&memory).unwrap();
        prop_assert_eq!(translate(&memory, low), Some(low));
        prop_assert_eq!(translate(&memory, linear), (linear < 1 << 32).then_some(linear));
    }
}
