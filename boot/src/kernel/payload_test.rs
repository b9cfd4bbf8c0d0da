use std::io::Write;

use proptest::prelude::*;

use super::super::fixture;
use super::*;

/// Machine code with relative calls, which the x86 branch filter changes.
fn content() -> Vec<u8> {
    let mut content = fixture::linux();
    for i in 0..2000u32 {
        content.push(0xE8);
        content.extend((i * 5).wrapping_neg().to_le_bytes());
    }
    content
}

fn compress(format: Format, content: &[u8]) -> Vec<u8> {
    match format {
        Format::Elf => content.to_vec(),
        Format::Gzip => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        }
        Format::Bzip2 => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        }
        Format::Lzma => {
            let options = lzma_rust2::LzmaOptions::with_preset(6);
            let mut encoder =
                lzma_rust2::LzmaWriter::new_use_header(Vec::new(), &options, None).unwrap();
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        }
        Format::Xz => {
            let mut options = lzma_rust2::XzOptions::with_preset(6);
            options.set_check_sum_type(lzma_rust2::CheckType::Crc32);
            options.prepend_pre_filter(lzma_rust2::FilterType::BcjX86, 0);
            let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        }
        Format::Lz4 => fixture::lz4(content),
        Format::Zstd => {
            ruzstd::encoding::compress_to_vec(content, ruzstd::encoding::CompressionLevel::Fastest)
        }
    }
}

/// Compresses as the kernel's build does: with the size behind all but gzip.
fn payload(format: Format, content: &[u8]) -> Vec<u8> {
    let mut payload = compress(format, content);
    if format != Format::Gzip {
        payload.extend((content.len() as u32).to_le_bytes());
    }
    payload
}

const ALL: [Format; 7] =
    [Format::Elf, Format::Gzip, Format::Bzip2, Format::Lzma, Format::Xz, Format::Lz4, Format::Zstd];

#[test]
fn every_format_the_kernel_build_offers_is_unpacked() {
    let content = content();
    for format in ALL {
        let payload = payload(format, &content);
        assert_eq!(Format::detect(&payload), Some(format));
        let output = extract(&payload, content.len());
        assert!(
            output.unwrap_or_else(|error| panic!("{format}: {error:?}")) == content,
            "{format}"
        );
    }
}

#[test]
fn output_is_bounded() {
    let content = content();
    for format in ALL {
        let error = extract(&payload(format, &content), content.len() - 1).unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{format}: {error:?}");
    }
}

#[test]
fn the_size_behind_the_payload_is_not_trusted() {
    let content = content();
    for format in ALL.into_iter().filter(|format| *format != Format::Gzip) {
        for size in [0, u32::MAX] {
            let mut payload = compress(format, &content);
            payload.extend(size.to_le_bytes());
            assert!(extract(&payload, MAX_OUTPUT).unwrap() == content, "{format} {size}");
        }
    }
}

#[test]
fn lzo_and_garbage_are_unsupported() {
    for payload in [&b"\x89LZO\0\r\n\x1a\n"[..], b"", b"\0\0\0\0\0\0\0\0"] {
        assert!(matches!(extract(payload, 100), Err(Error::Unsupported(_))));
    }
}

#[test]
fn lz4_streams_of_several_blocks_and_magic_numbers_are_unpacked() {
    let content = vec![5; 9 << 20];
    let mut payload = fixture::lz4(&content);
    payload.extend(fixture::lz4(b"tail"));
    payload.extend([0; 4]);
    let output = extract(&payload, MAX_OUTPUT).unwrap();
    assert_eq!(output.len(), content.len() + 4);
    assert!(output.ends_with(b"\x05tail"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn damaged_payloads_never_panic_and_stay_within_the_limit(
        format in prop::sample::select(&ALL[..]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut payload = payload(format, &fixture::linux()[..4000]);
        for (at, byte) in changes {
            let at = at.index(payload.len());
            payload[at] = byte;
        }
        payload.truncate(cut.index(payload.len() * 2).max(8).min(payload.len()));
        if let Ok(output) = extract(&payload, 5000) {
            prop_assert!(output.len() <= 5000);
        }
    }
}
