//! Telling what kind of file a user passed as the kernel, from its first bytes.

/// Kinds of kernel files that can be booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `vmlinux` or another ELF executable.
    Elf,
    /// A Linux bzImage.
    BzImage,
}

/// What a file is instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A kernel image for another processor.
    #[error("it is a {0} kernel image; an x86-64 kernel is needed")]
    Architecture(&'static str),
    /// A compressed file.
    #[error("it is compressed with {0}; unpack it first")]
    Compressed(&'static str),
    /// Another part of an operating system.
    #[error("it is {0}; a bzImage (vmlinuz) or an ELF kernel (vmlinux) is needed")]
    Other(&'static str),
}

/// Bytes needed to recognise a file.
pub const HEAD: usize = 4096;

/// Recognises a file by its first [`HEAD`] bytes, or all of it if it is shorter.
pub fn recognise(head: &[u8]) -> Result<Format, Error> {
    let at = |offset: usize, magic: &[u8]| {
        head.get(offset..).is_some_and(|rest| rest.starts_with(magic))
    };
    if at(0, b"\x7fELF") {
        return Ok(Format::Elf);
    }
    if at(0x202, b"HdrS") {
        return Ok(Format::BzImage);
    }
    Err(if at(0x38, b"ARM\x64") {
        Error::Architecture("64-bit Arm")
    } else if at(0x38, b"RSC\x05") {
        Error::Architecture("RISC-V")
    } else if at(0, b"\x1f\x8b") {
        Error::Compressed("gzip")
    } else if at(0, b"\xfd7zXZ\0") {
        Error::Compressed("xz")
    } else if at(0, b"\x28\xb5\x2f\xfd") {
        Error::Compressed("zstd")
    } else if at(0, b"BZh") {
        Error::Compressed("bzip2")
    } else if at(0, b"\x02\x21\x4c\x18") || at(0, b"\x04\x22\x4d\x18") {
        Error::Compressed("lz4")
    } else if at(0, b"070701") || at(0, b"070702") {
        Error::Other("an initial RAM disk")
    } else if at(0, b"QFI\xfb") {
        Error::Other("a qcow2 disk image")
    } else if at(0, b"MZ") {
        Error::Other("an EFI program without Linux boot header")
    } else if at(510, b"\x55\xaa") {
        Error::Other("a boot sector or disk image")
    } else {
        Error::Other("not a kernel")
    })
}

#[cfg(test)]
#[path = "recognise_test.rs"]
mod recognise_test;
