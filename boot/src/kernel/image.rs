//! A kernel ready to be copied into guest memory: which guest-physical ranges it occupies, which
//! bytes go where, and where it is entered.
//!
//! An image does not own its bytes. They come from a [`ReadAt`]: the ELF file, its extracted form
//! in memory, or a cache entry.

use std::io;
use std::ops::Range;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

use super::read_at::ReadAt;
use super::relocations;
use crate::layout;

/// Most loadable segments accepted; Linux has five.
pub(crate) const MAX_RANGES: usize = 64;

/// Bytes copied at a time: stays in the processor's second-level cache.
const CHUNK: usize = 64 << 10;

/// Why an image cannot be copied to guest memory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source ended early or could not be read.
    #[error("cannot read {length} bytes at offset {offset:#x} of the kernel")]
    Read {
        /// Offset in the source.
        offset: u64,
        /// Bytes wanted.
        length: usize,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The guest has no memory there.
    #[error("cannot write the kernel to guest-physical address {address:#x}")]
    Write {
        /// Guest-physical address.
        address: u64,
        /// What the guest memory said.
        #[source]
        source: GuestMemoryError,
    },
    /// The bytes are not those that were stored.
    #[error("wrong checksum of the bytes at offset {offset:#x}")]
    Checksum {
        /// Offset in the source.
        offset: u64,
    },
}

/// What an image needs of the guest, independent of where its bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Guest-physical ranges of the loadable segments as linked, ascending, disjoint, none empty.
    pub ranges: Vec<Range<u64>>,
    /// Guest-physical address of the 64-bit entry point as linked.
    pub entry: u64,
    /// Guest-physical address of the 32-bit PVH entry point as linked.
    pub pvh_entry: Option<u32>,
    /// Whether it is linked where Linux is: in the topmost 2 GiB of the virtual address space.
    pub linux: bool,
}

impl Layout {
    /// First address occupied, as linked.
    pub fn start(&self) -> u64 {
        self.ranges.first().map_or(0, |range| range.start)
    }

    /// First address after the image, as linked.
    pub fn end(&self) -> u64 {
        self.ranges.last().map_or(0, |range| range.end)
    }

    /// Whether `range` lies within one segment.
    pub fn contains(&self, range: &Range<u64>) -> bool {
        let next = self.ranges.partition_point(|segment| segment.start <= range.start);
        next.checked_sub(1).is_some_and(|i| range.end <= self.ranges[i].end)
    }

    /// Whether `address` lies within a segment.
    pub fn contains_address(&self, address: u64) -> bool {
        address.checked_add(1).is_some_and(|end| self.contains(&(address..end)))
    }

    /// Whether the fields are what the documentation of this type promises and lie in RAM that a
    /// kernel may occupy.
    pub(crate) fn is_sound(&self) -> bool {
        !self.ranges.is_empty()
            && self.ranges.len() <= MAX_RANGES
            && self.start() >= layout::HIGH_RAM_START
            && self.end() <= layout::MMIO_HOLE.start
            && self.ranges.iter().all(|range| range.start < range.end)
            && self.ranges.windows(2).all(|pair| pair[0].end <= pair[1].start)
            && self.contains_address(self.entry)
            && self.pvh_entry.is_none_or(|entry| self.contains_address(entry.into()))
    }
}

/// Bytes that go to one place in guest memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Guest-physical address as linked.
    pub address: u64,
    /// Offset in the source.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// CRC-32 of the bytes, where the source may be damaged.
    pub checksum: Option<u32>,
}

/// A loadable kernel. Memory within the layout that no piece covers is expected to be zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What it needs.
    pub layout: Layout,
    /// Where its bytes come from and go.
    pub pieces: Vec<Piece>,
    /// The relocation table, if the kernel has one.
    pub relocations: Option<relocations::Table>,
}

impl Image {
    /// Copies the image to guest memory, `shift` bytes above where it is linked. Stretches of
    /// zeros are left out: guest memory is zero, and untouched memory costs nothing.
    pub fn load<M: GuestMemoryBackend>(
        &self,
        source: &dyn ReadAt,
        memory: &M,
        shift: u64,
    ) -> Result<(), Error> {
        let mut buffer = vec![0; CHUNK];
        for piece in &self.pieces {
            let mut checksum = crc32fast::Hasher::new();
            for_each_chunk(source, piece.offset, piece.length, &mut buffer, |at, bytes| {
                if piece.checksum.is_some() {
                    checksum.update(bytes);
                }
                if is_zero(bytes) {
                    return Ok(());
                }
                let address = piece.address + shift + at;
                memory
                    .write_slice(bytes, GuestAddress(address))
                    .map_err(|source| Error::Write { address, source })
            })?;
            if piece.checksum.is_some_and(|expected| expected != checksum.finalize()) {
                return Err(Error::Checksum { offset: piece.offset });
            }
        }
        Ok(())
    }

    /// Zeroes what a failed load has written.
    pub fn clear<M: GuestMemoryBackend>(&self, memory: &M, shift: u64) -> Result<(), Error> {
        let zeros = vec![0; CHUNK];
        for range in &self.layout.ranges {
            let mut address = range.start + shift;
            let end = range.end + shift;
            while address < end {
                let length = zeros.len().min(usize::try_from(end - address).unwrap_or(usize::MAX));
                memory
                    .write_slice(&zeros[..length], GuestAddress(address))
                    .map_err(|source| Error::Write { address, source })?;
                address += length as u64;
            }
        }
        Ok(())
    }

    /// Whether all pieces and the relocation table lie within `length` bytes of source, and all
    /// pieces within the layout.
    pub(crate) fn is_sound(&self, length: u64) -> bool {
        let within = |offset: u64, size: u64| offset.checked_add(size).is_some_and(|e| e <= length);
        self.layout.is_sound()
            && self.pieces.iter().all(|piece| {
                let end = piece.address.checked_add(piece.length);
                within(piece.offset, piece.length)
                    && end.is_some_and(|end| self.layout.contains(&(piece.address..end)))
            })
            && self.relocations.as_ref().is_none_or(|table| within(table.offset, table.size()))
    }
}

/// Reads `length` bytes from `offset` on through `buffer`; `f` gets each chunk and its position.
pub(crate) fn for_each_chunk<E: From<Error>>(
    source: &dyn ReadAt,
    offset: u64,
    length: u64,
    buffer: &mut [u8],
    mut f: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut at = 0;
    while at < length {
        let size = buffer.len().min(usize::try_from(length - at).unwrap_or(usize::MAX));
        let chunk = &mut buffer[..size];
        source.read_exact_at(chunk, offset + at).map_err(|source| Error::Read {
            offset: offset + at,
            length: size,
            source,
        })?;
        f(at, chunk)?;
        at += size as u64;
    }
    Ok(())
}

/// Whether all bytes are zero; stops at the first page that is not.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(4096).all(|page| page.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
#[path = "image_test.rs"]
mod image_test;
