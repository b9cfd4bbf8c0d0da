//! Unpacking the compressed kernel inside a bzImage.
//!
//! The format is recognised by its first bytes, as the kernel's own scripts do. The payload is
//! untrusted: output and decoder memory are bounded, and a decoder's failure of any kind is an
//! error, never the end of the VMM.

use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Most bytes a kernel may unpack to. Stops decompression bombs; half of the virtual address range
/// a kernel can have, and eight times what distributions ship.
pub const MAX_OUTPUT: usize = 512 << 20;

/// Most memory a decoder may take for its dictionary, in KiB. Kernels use up to 128 MiB (zstd -22).
const MAX_DICTIONARY_KIB: u32 = 160 << 10;

/// Largest block of the legacy LZ4 format.
const LZ4_BLOCK: usize = 8 << 20;

/// Why a payload cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// LZO, for which no maintained decoder exists, or something unknown.
    #[error("the payload's compression is not supported (it starts with {0:02x?})")]
    Unsupported(Vec<u8>),
    /// The decoder gave up.
    #[error("the {format} payload cannot be unpacked")]
    Decode {
        /// Name of the compression.
        format: Format,
        /// What the decoder said.
        #[source]
        source: io::Error,
    },
    /// More output than a kernel can have.
    #[error("the {format} payload unpacks to more than {limit} bytes")]
    TooLarge {
        /// Name of the compression.
        format: Format,
        /// The bound.
        limit: usize,
    },
}

/// Compression of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Not compressed.
    Elf,
    /// RFC 1952.
    Gzip,
    /// bzip2.
    Bzip2,
    /// The .lzma format of LZMA Utils.
    Lzma,
    /// .xz, with the x86 branch filter.
    Xz,
    /// LZ4's legacy frame format, as written by `lz4 -l`.
    Lz4,
    /// RFC 8878.
    Zstd,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Elf => "uncompressed",
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Lzma => "lzma",
            Self::Xz => "xz",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

impl Format {
    /// Recognises a payload by its first bytes.
    pub fn detect(payload: &[u8]) -> Option<Self> {
        const MAGIC: [(&[u8], Format); 7] = [
            (b"\x7fELF", Format::Elf),
            (b"\x1f\x8b", Format::Gzip),
            (b"BZh", Format::Bzip2),
            (b"\x5d\0\0", Format::Lzma),
            (b"\xfd7zXZ\0", Format::Xz),
            (b"\x02\x21\x4c\x18", Format::Lz4),
            (b"\x28\xb5\x2f\xfd", Format::Zstd),
        ];
        MAGIC.iter().find(|(magic, _)| payload.starts_with(magic)).map(|(_, format)| *format)
    }
}

/// Unpacks `payload` to at most `limit` bytes.
///
/// The kernel's build appends the uncompressed size to every format but gzip, which ends with it
/// anyway. It is used only to reserve memory.
pub fn extract(payload: &[u8], limit: usize) -> Result<Vec<u8>, Error> {
    let unsupported = || Error::Unsupported(payload.iter().copied().take(4).collect());
    let format = Format::detect(payload).ok_or_else(unsupported)?;
    let (stream, size) = payload.split_last_chunk::<4>().ok_or_else(unsupported)?;
    let mut output = Vec::new();
    let expected = usize::try_from(u32::from_le_bytes(*size)).unwrap_or(limit);
    // Without memory to spare the decoder reports the failure itself.
    let _ = output.try_reserve_exact(expected.min(limit) + LZ4_BLOCK);
    let decoded = catch_unwind(AssertUnwindSafe(|| match format {
        Format::Elf => drain(stream, &mut output, limit),
        Format::Gzip => drain(flate2::read::GzDecoder::new(payload), &mut output, limit),
        Format::Bzip2 => drain(bzip2::read::BzDecoder::new(stream), &mut output, limit),
        Format::Lzma => lzma_rust2::LzmaReader::new_mem_limit(stream, MAX_DICTIONARY_KIB, None)
            .and_then(|reader| drain(reader, &mut output, limit)),
        Format::Xz => {
            let reader = lzma_rust2::XzReader::new_mem_limit(stream, false, MAX_DICTIONARY_KIB);
            drain(reader, &mut output, limit)
        }
        Format::Lz4 => lz4_legacy(stream, &mut output, limit),
        Format::Zstd => ruzstd::decoding::StreamingDecoder::new(stream)
            .map_err(io::Error::other)
            .and_then(|reader| drain(reader, &mut output, limit)),
    }));
    match decoded.unwrap_or_else(|_| Err(io::Error::other("the decoder failed"))) {
        Ok(()) if output.len() > limit => Err(Error::TooLarge { format, limit }),
        Ok(()) => Ok(output),
        Err(source) => Err(Error::Decode { format, source }),
    }
}

/// Reads all of `reader`, but no more than one byte above `limit`.
fn drain(reader: impl Read, output: &mut Vec<u8>, limit: usize) -> io::Result<()> {
    reader.take(limit as u64 + 1).read_to_end(output).map(drop)
}

/// Blocks of a 32-bit length and that many bytes, behind a magic number; each unpacks to up to
/// 8 MiB (`lib/decompress_unlz4.c`).
fn lz4_legacy(stream: &[u8], output: &mut Vec<u8>, limit: usize) -> io::Result<()> {
    let truncated = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let (magic, mut rest) = stream.split_first_chunk::<4>().ok_or_else(truncated)?;
    while let Some((length, blocks)) = rest.split_first_chunk::<4>() {
        rest = blocks;
        // Streams may be concatenated, magic number included.
        if length == magic {
            continue;
        }
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(io::Error::other)?;
        let block = rest.split_at_checked(length).ok_or_else(truncated)?;
        rest = block.1;
        let start = output.len();
        if start > limit {
            break;
        }
        output.try_reserve(LZ4_BLOCK).map_err(io::Error::other)?;
        output.resize(start + LZ4_BLOCK, 0);
        let size = lz4_flex::block::decompress_into(block.0, &mut output[start..])
            .map_err(io::Error::other)?;
        output.truncate(start + size);
    }
    Ok(())
}

#[cfg(test)]
#[path = "payload_test.rs"]
mod payload_test;
