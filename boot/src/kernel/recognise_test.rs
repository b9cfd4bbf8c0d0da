use super::*;

fn file(offset: usize, magic: &[u8]) -> Vec<u8> {
    let mut file = vec![0; HEAD];
    file[offset..offset + magic.len()].copy_from_slice(magic);
    file
}

#[test]
fn kernels_are_recognised() {
    assert_eq!(recognise(&file(0, b"\x7fELF")), Ok(Format::Elf));
    let mut bzimage = file(0x202, b"HdrS");
    bzimage[..2].copy_from_slice(b"MZ");
    assert_eq!(recognise(&bzimage), Ok(Format::BzImage));
}

#[test]
fn other_files_are_named() {
    let arm = recognise(&file(0x38, b"ARM\x64")).unwrap_err();
    assert!(arm.to_string().contains("64-bit Arm"));
    let gzip = recognise(&file(0, b"\x1f\x8b\x08")).unwrap_err();
    assert_eq!(gzip, Error::Compressed("gzip"));
    let initrd = recognise(b"070701").unwrap_err();
    assert!(initrd.to_string().contains("initial RAM disk"));
    assert!(matches!(recognise(b"#!/bin/sh"), Err(Error::Other(_))));
    assert!(matches!(recognise(b""), Err(Error::Other(_))));
}
