//! Decompressing what distributions compress: kernel modules and the kernel inside a bzImage. For files of packages we
//! fetched ourselves; the reader of untrusted kernels is the crate `boot`.

use std::io::{self, Read};

/// Decompresses the first stream in `bytes`, told by its magic number; `None` where there is none known.
pub fn decompress(bytes: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut out = Vec::new();
    match bytes {
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            lzma_rust2::XzReader::new(bytes, false).read_to_end(&mut out)?;
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(bytes);
            decoder.map_err(io::Error::other)?.read_to_end(&mut out)?;
        }
        [0x1f, 0x8b, ..] => {
            flate2::read::GzDecoder::new(bytes).read_to_end(&mut out)?;
        }
        _ => return Ok(None),
    }
    Ok(Some(out))
}

/// The ELF kernel inside a bzImage, where it is of a form known here. Booting that spares the emulated processor the
/// decompression, which takes it longer than the rest of the boot. Documentation/arch/x86/boot.rst.
pub fn vmlinux(bzimage: &[u8]) -> Option<Vec<u8>> {
    const SETUP_SECTORS: usize = 0x1f1;
    const PAYLOAD_OFFSET: usize = 0x248;
    const PAYLOAD_LENGTH: usize = 0x24c;
    let word = |offset: usize| -> Option<usize> {
        let bytes = bzimage.get(offset..offset + 4)?;
        usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
    };
    let sectors = usize::from(*bzimage.get(SETUP_SECTORS)?);
    let start = (sectors + 1) * 512 + word(PAYLOAD_OFFSET)?;
    let payload = bzimage.get(start..start.checked_add(word(PAYLOAD_LENGTH)?)?)?;
    let kernel = decompress(payload).ok()??;
    kernel.starts_with(b"\x7fELF").then_some(kernel)
}

#[cfg(test)]
#[path = "decompress_test.rs"]
mod decompress_test;
