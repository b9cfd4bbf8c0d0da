use proptest::prelude::*;

use super::super::fixture;
use super::*;

fn parsed(file: &[u8]) -> Result<Header, Error> {
    Header::parse(file, file.len() as u64)
}

fn adjusted(at: usize, bytes: &[u8]) -> Result<Header, Error> {
    parsed(&fixture::bzimage(b"payload", 0, |file| {
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }))
}

#[test]
fn payload_and_code_are_where_the_protocol_says() {
    let file = fixture::bzimage(b"payload", 99, |_| ());
    let header = parsed(&file).unwrap();
    assert_eq!(header.code(), 5 * 512..file.len() as u64);
    let payload = header.payload();
    let payload = &file[payload.start as usize..payload.end as usize];
    assert_eq!(payload, [b"payload".as_slice(), &99u32.to_le_bytes()].concat());
    assert_eq!(header.init_size(), 0x40_0000);
    assert_eq!(header.alignment(), 0x20_0000);
    assert_eq!(header.preferred_address(), Ok(0x100_0000));
    assert_eq!(header.initrd_ceiling(), 0x8000_0000);
    assert_eq!(header.command_line_limit(), 2047);
    assert!(header.has_entry_64() && header.is_relocatable());
    assert_eq!(Header::from_bytes(&header.to_bytes()), Some(header));
}

#[test]
fn every_truncation_is_an_error() {
    let file = fixture::bzimage(b"payload", 0, |_| ());
    for length in 0..file.len() {
        match parsed(&file[..length]) {
            Err(Error::NoHeader) => assert!(length < HEADER_OFFSET + HEADER_LENGTH),
            Err(Error::Truncated { have, need }) => {
                assert_eq!((have, need), (length as u64, file.len() as u64));
            }
            other => panic!("{length}: {other:?}"),
        }
    }
}

#[test]
fn kernels_that_cannot_run_here_are_refused() {
    assert_eq!(adjusted(0x236, &[0, 0]), Err(Error::ThirtyTwoBit));
    assert_eq!(adjusted(0x206, &[7, 2]), Err(Error::TooOld(0x207)));
    assert_eq!(adjusted(0x211, &[0]), Err(Error::ZImage));
    assert_eq!(adjusted(0x202, b"XdrS"), Err(Error::NoHeader));
    let huge = adjusted(0x260, &[0xFF; 4]);
    assert_eq!(huge, Err(Error::Field { field: "init_size", value: 0xFFFF_FFFF }));
    assert!(Error::TooOld(0x207).to_string().contains("2.07"));
}

#[test]
fn impossible_values_are_replaced_or_refused_when_used() {
    assert_eq!(adjusted(0x230, &[3, 0, 0, 0]).unwrap().alignment(), MAX_ALIGNMENT);
    assert_eq!(adjusted(0x230, &[0, 0, 0, 0x80]).unwrap().alignment(), MAX_ALIGNMENT);
    let low = adjusted(0x258, &[0; 8]).unwrap().preferred_address();
    assert_eq!(low, Err(Error::Field { field: "pref_address", value: 0 }));
}

#[test]
fn code_behind_a_short_header_is_not_taken_for_fields() {
    // An older header that ends before init_size.
    let header = adjusted(0x201, &[0x50]).unwrap();
    assert_eq!(header.command_line_limit(), 2047);
    assert_eq!(header.init_size(), 0);
}

proptest! {
    #[test]
    fn ranges_of_any_header_lie_within_the_file(
        head in prop::collection::vec(any::<u8>(), 4096), length in 0u64..1 << 34,
    ) {
        let mut head = head;
        head[0x1FE..0x200].copy_from_slice(&[0x55, 0xAA]);
        head[0x202..0x208].copy_from_slice(b"HdrS\x0F\x02");
        head[0x211] |= 1;
        head[0x236] |= 1;
        head[0x263] = 0;
        if let Ok(header) = Header::parse(&head, length) {
            prop_assert!(header.code().end <= length && header.payload().end <= length);
            prop_assert!(header.alignment().is_power_of_two());
            prop_assert!(header.init_size() <= MAX_INIT_SIZE);
        }
    }
}
