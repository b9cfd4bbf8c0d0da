use proptest::prelude::*;
use vm_memory::GuestMemoryMmap;

use super::*;

const BASE: u64 = 0x10_0000;

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x40_0000)]).unwrap()
}

fn image(pieces: Vec<Piece>) -> Image {
    let ranges = Vec::from([(BASE, BASE + 0x4_0000)].map(|(start, end)| start..end));
    let layout = Layout { ranges, entry: BASE, pvh_entry: None, linux: false };
    Image { layout, pieces, relocations: None }
}

fn piece(offset: u64, length: u64, checksum: Option<u32>) -> Piece {
    Piece { address: BASE + 0x100, offset, length, checksum }
}

proptest! {
    #[test]
    fn bytes_arrive_shifted(content in prop::collection::vec(any::<u8>(), 1..200_000), shift in 0..16u64) {
        let shift = shift << 17;
        let memory = memory();
        let checksum = Some(crc32fast::hash(&content[1..]));
        let image = image(vec![piece(1, content.len() as u64 - 1, checksum)]);
        image.load(&content.as_slice(), &memory, shift).unwrap();
        let mut found = vec![0; content.len() - 1];
        memory.read_slice(&mut found, GuestAddress(BASE + 0x100 + shift)).unwrap();
        prop_assert_eq!(&found, &content[1..]);
    }

    #[test]
    fn layout_contains_agrees_with_a_search(
        edges in prop::collection::btree_set(0x10_0000u64..0x10_0100, 0..12), start in 0x0F_FFF0u64..0x10_0110, size in 0u64..32,
    ) {
        let edges: Vec<_> = edges.into_iter().collect();
        let ranges: Vec<_> = edges.as_chunks::<2>().0.iter().map(|[a, b]| *a..*b).collect();
        let expected = ranges.iter().any(|r| r.start <= start && start + size <= r.end);
        let layout = Layout { ranges, entry: 0, pvh_entry: None, linux: false };
        prop_assert_eq!(layout.contains(&(start..start + size)), expected);
    }
}

#[test]
fn a_wrong_checksum_is_noticed_and_the_load_can_be_undone() {
    let memory = memory();
    let image = image(vec![piece(0, 5, Some(1))]);
    let error = image.load(&b"hello".as_slice(), &memory, 0).unwrap_err();
    assert!(matches!(error, Error::Checksum { offset: 0 }));
    image.clear(&memory, 0).unwrap();
    let left: [u8; 5] = memory.read_obj(GuestAddress(BASE + 0x100)).unwrap();
    assert_eq!(left, [0; 5]);
}

#[test]
fn a_short_source_and_missing_memory_are_errors() {
    let short = image(vec![piece(0, 6, None)]).load(&b"hello".as_slice(), &memory(), 0);
    assert!(matches!(short, Err(Error::Read { length: 6, .. })));
    let outside = image(vec![piece(0, 5, None)]).load(&b"hello".as_slice(), &memory(), 1 << 40);
    assert!(matches!(outside, Err(Error::Write { .. })));
}

#[test]
fn unsound_images_are_told() {
    let sound = image(vec![piece(0, 0x100, None)]);
    assert!(sound.is_sound(0x100));
    assert!(!sound.is_sound(0xFF), "piece ends after the source");
    let wrapping = image(vec![Piece { address: u64::MAX, ..piece(0, 2, None) }]);
    assert!(!wrapping.is_sound(0x100));
    let far = image(vec![piece(u64::MAX, 2, None)]);
    assert!(!far.is_sound(u64::MAX));
    let mut low = sound.clone();
    low.layout.ranges[0].start = 0x1000;
    assert!(!low.is_sound(0x100), "below 1 MiB");
    let mut overlapping = sound.clone();
    overlapping.layout.ranges.push(BASE + 0x3_FFFF..BASE + 0x5_0000);
    assert!(!overlapping.is_sound(0x100));
    let mut entry = sound;
    entry.layout.entry = BASE + 0x4_0000;
    assert!(!entry.is_sound(0x100));
}
