//! Streams made here, bare and inside a made-up bzImage.

use std::io::Write;

use super::*;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_stream_with_an_unknown_magic_number_is_left_alone() {
    assert!(decompress(b"\x7fELF plain").unwrap().is_none());
    assert_eq!(decompress(&gzip(b"text")).unwrap().unwrap(), b"text");
    assert!(decompress(&gzip(b"text")[..12]).is_err());
}

#[test]
fn the_kernel_is_found_where_the_setup_header_says() {
    let mut payload = gzip(b"\x7fELF kernel");
    payload.extend_from_slice(&11_u32.to_le_bytes());
    let mut image = vec![0; 3 * 512 + 16];
    image[0x1f1] = 2;
    image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    image.extend_from_slice(&payload);
    assert_eq!(vmlinux(&image).unwrap(), b"\x7fELF kernel");
    image.truncate(image.len() - 5);
    assert_eq!(vmlinux(&image), None);
    assert_eq!(vmlinux(b"MZ"), None);
}
