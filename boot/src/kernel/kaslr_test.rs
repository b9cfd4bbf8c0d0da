use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

proptest! {
    #[test]
    fn the_moved_kernel_stays_within_its_room_and_aligned(
        size in 1..900 * MIB, spare in 0..4096 * MIB, alignment in 21u32..25, random: [u64; 2],
        fixed: bool, pvh: bool,
    ) {
        let room = Room {
            base: 16 * MIB,
            size,
            alignment: 1 << alignment,
            ceiling: 16 * MIB + size + spare,
            fixed,
        };
        let protocol = if pvh { Protocol::Pvh } else { Protocol::Linux64 };
        let shift = choose(protocol, &room, random);
        let virtual_shift = u64::from(shift.virtual_shift);
        prop_assert_eq!(shift.physical % room.alignment, 0);
        prop_assert_eq!(virtual_shift % room.alignment, 0);
        prop_assert!(room.base + shift.physical + size <= room.ceiling.min(MMIO_HOLE.start));
        prop_assert!(room.base + virtual_shift + size <= 1 << 30);
        if pvh {
            prop_assert_eq!(virtual_shift, shift.physical);
        }
        if fixed {
            prop_assert_eq!(shift.physical, 0);
        }
    }
}

#[test]
fn first_and_last_slot_are_both_reached() {
    let room = Room {
        base: 16 * MIB,
        size: 64 * MIB,
        alignment: 2 * MIB,
        ceiling: 512 * MIB,
        fixed: false,
    };
    let lowest = choose(Protocol::Linux64, &room, [0, 0]);
    assert_eq!(lowest, Shift::default());
    let highest = choose(Protocol::Linux64, &room, [u64::MAX, u64::MAX]);
    assert_eq!(u64::from(highest.virtual_shift), (1024 - 16 - 64) * MIB);
    assert_eq!(highest.physical, (512 - 16 - 64) * MIB);
}

#[test]
fn no_room_means_no_shift() {
    let room =
        Room { base: 16 * MIB, size: 64 * MIB, alignment: MIB * 2, ceiling: 0, fixed: false };
    assert_eq!(choose(Protocol::Linux64, &room, [u64::MAX; 2]).physical, 0);
}
