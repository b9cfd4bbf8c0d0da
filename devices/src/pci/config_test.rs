use proptest::prelude::*;

use super::*;

fn space() -> ConfigSpace {
    let identity = Identity {
        vendor: 0x1af4,
        device: 0x1044,
        revision: 1,
        class: 0x01_02_03,
        subsystem_vendor: 0x1111,
        subsystem: 0x2222,
    };
    let mut space = ConfigSpace::new(identity);
    space.add_bar(0x1_0000, 0x12_3456_0000);
    space
}

#[test]
fn the_header_names_the_function_and_has_no_interrupt_pin() {
    let space = space();
    assert_eq!(space.get(0), [0xf4, 0x1a, 0x44, 0x10]);
    assert_eq!(space.get(8), [1, 3, 2, 1]);
    assert_eq!(space.get(0x2c), [0x11, 0x11, 0x22, 0x22]);
    // Header type: a single function, type 0.
    assert_eq!(space.get(0x0e), [0]);
    assert_eq!(space.get(offset::INTERRUPT_PIN), [0]);
}

#[test]
fn a_bar_is_sized_by_writing_all_ones() {
    let mut space = space();
    assert_eq!(u64::from_le_bytes(space.get(0x10)), 0x12_3456_0004);
    space.write(0x10, &[0xff; 4]);
    space.write(0x14, &[0xff; 4]);
    assert_eq!(u64::from_le_bytes(space.get(0x10)), 0xffff_ffff_ffff_0004);
    // The others do not exist.
    space.write(0x18, &[0xff; 16]);
    assert_eq!(space.get(0x18), [0; 16]);
    space.write(0x30, &[0xff; 4]);
    assert_eq!(space.get(0x30), [0; 4]);
}

#[test]
fn memory_answers_where_the_bar_says_once_decoding_is_enabled() {
    let mut space = space();
    assert_eq!(space.memory_base(), None);
    space.write(offset::COMMAND, &[0xff, 0xff]);
    assert_eq!(space.get(offset::COMMAND), [0x46, 5]);
    assert_eq!(space.memory_base(), Some(0x12_3456_0000));
    space.write(0x14, &[0, 0, 0, 0x80]);
    assert_eq!(space.memory_base(), Some(0x8000_0000_3456_0000));
}

#[test]
fn capabilities_are_found_by_following_the_list() {
    let mut space = space();
    assert_eq!(space.get(offset::STATUS), [0, 0]);
    assert_eq!(space.get(offset::CAPABILITIES), [0]);
    let first = space.add_capability(9, &[1, 2, 3]);
    let second = space.add_capability(17, &[4; 10]);
    assert_eq!(space.get(offset::STATUS), [0x10, 0]);
    let [at] = space.get(offset::CAPABILITIES);
    assert_eq!(u16::from(at), first);
    let [id, next, a, b, c] = space.get(first);
    assert_eq!((id, u16::from(next), [a, b, c]), (9, second, [1, 2, 3]));
    assert_eq!(space.get(second), [17, 0, 4, 4]);
    assert_eq!(second % 4, 0);
}

#[test]
fn what_lies_behind_the_space_reads_all_ones() {
    let space = space();
    assert_eq!(space.get(254), [0, 0, 0xff, 0xff]);
    assert_eq!(space.get(0xffc), [0xff; 4]);
}

proptest! {
    #[test]
    fn only_writable_bits_change(writes in prop::collection::vec((0u16..4096, prop::collection::vec(any::<u8>(), 0..16)), 0..50)) {
        let fresh = space();
        let mut space = space();
        for (at, data) in writes {
            space.write(at, &data);
        }
        for ((now, then), writable) in space.bytes.iter().zip(fresh.bytes).zip(fresh.writable) {
            prop_assert_eq!((now ^ then) & !writable, 0);
        }
    }
}
