//! The format of a cache entry: an extracted kernel, cut down to the bytes that are not zero, with
//! everything about it that a boot needs to know before it copies them.
//!
//! All numbers are little-endian. A file holds
//!
//! ```text
//! magic  version  table length  table CRC-32      4 × u32
//! table: bzImage header, segments, pieces, relocation table
//! body, from the next multiple of 4096 on: the pieces' bytes, then the relocation table
//! ```
//!
//! The table has its own checksum; each piece and the relocation table carry theirs within it.

use std::io::{self, Write};

use super::super::bzimage::{HEADER_LENGTH, Header};
use super::super::image::{Image, Layout, MAX_RANGES, Piece, is_zero};
use super::super::read_at::ReadAt;
use super::super::relocations;

const MAGIC: u32 = u32::from_le_bytes(*b"CrvK");
/// Raised whenever the format changes: entries of other versions are not read.
const VERSION: u32 = 1;
const PREFIX: usize = 16;
/// Bounds what is read of a damaged entry; enough for a piece in every 64 KiB of a large kernel.
const MAX_TABLE: usize = 1 << 20;
/// Zeros are left out in blocks of this size.
const BLOCK: usize = 64 << 10;
const ALIGNMENT: usize = 4096;

/// A body about to be written: which parts of the extracted kernel follow each other.
pub(super) struct Plan<'a> {
    pub image: Image,
    table: Vec<u8>,
    parts: Vec<&'a [u8]>,
}

impl<'a> Plan<'a> {
    /// Arranges the extracted kernel `bytes`, described by `image`, for writing. `None` if `image`
    /// does not describe these bytes or is too fragmented.
    pub(super) fn new(header: &Header, image: &Image, bytes: &'a [u8]) -> Option<Self> {
        let slice = |offset: u64, length: u64| {
            let start = usize::try_from(offset).ok()?;
            bytes.get(start..)?.get(..usize::try_from(length).ok()?)
        };
        let mut parts = Vec::new();
        let mut pieces = Vec::new();
        let mut length = 0u64;
        let mut add = |part: &'a [u8], parts: &mut Vec<&'a [u8]>| {
            let offset = length;
            length += part.len() as u64;
            parts.push(part);
            (offset, Some(crc32fast::hash(part)))
        };
        for piece in &image.pieces {
            let content = slice(piece.offset, piece.length)?;
            for (start, part) in without_zeros(content) {
                let (offset, checksum) = add(part, &mut parts);
                let (address, length) = (piece.address + start as u64, part.len() as u64);
                pieces.push(Piece { address, offset, length, checksum });
            }
        }
        let relocations = match &image.relocations {
            Some(table) => {
                let (offset, checksum) = add(slice(table.offset, table.size())?, &mut parts);
                Some(relocations::Table { offset, checksum, ..table.clone() })
            }
            None => None,
        };
        let mut image = Image { layout: image.layout.clone(), pieces, relocations };
        // The table's length does not depend on the offsets in it.
        let body = body_start(encode(header, &image).len());
        image.pieces.iter_mut().for_each(|piece| piece.offset += body);
        image.relocations.iter_mut().for_each(|table| table.offset += body);
        let table = encode(header, &image);
        (table.len() <= MAX_TABLE).then_some(Self { image, table, parts })
    }

    /// Size of the file.
    pub(super) fn size(&self) -> u64 {
        let body: usize = self.parts.iter().map(|part| part.len()).sum();
        body_start(self.table.len()) + body as u64
    }

    pub(super) fn write(&self, mut file: impl Write) -> io::Result<()> {
        let length = u32::try_from(self.table.len()).map_err(io::Error::other)?;
        let mut head = Vec::new();
        for number in [MAGIC, VERSION, length, crc32fast::hash(&self.table)] {
            head.extend(number.to_le_bytes());
        }
        head.extend(&self.table);
        head.resize(head.len().next_multiple_of(ALIGNMENT), 0);
        file.write_all(&head)?;
        self.parts.iter().try_for_each(|part| file.write_all(part))
    }
}

/// Reads the table of an entry of `length` bytes. `None` for a damaged entry or another format.
pub(super) fn read(source: &dyn ReadAt, length: u64) -> Option<(Header, Image)> {
    let mut head = [0; ALIGNMENT];
    let head_length = head.len().min(usize::try_from(length).ok()?);
    let head = &mut head[..head_length];
    source.read_exact_at(head, 0).ok()?;
    let (prefix, rest) = head.split_at_checked(PREFIX)?;
    let (numbers, _) = prefix.as_chunks::<4>();
    let [magic, version, size, checksum] = [0, 1, 2, 3].map(|i| u32::from_le_bytes(numbers[i]));
    let size = usize::try_from(size).ok()?;
    if magic != MAGIC || version != VERSION || size > MAX_TABLE {
        return None;
    }
    let mut long = Vec::new();
    let table = match rest.get(..size) {
        Some(table) => table,
        None => {
            long.resize(size, 0);
            source.read_exact_at(&mut long, PREFIX as u64).ok()?;
            &long
        }
    };
    if crc32fast::hash(table) != checksum {
        return None;
    }
    decode(table).filter(|(_, image)| image.is_sound(length))
}

fn body_start(table: usize) -> u64 {
    (PREFIX + table).next_multiple_of(ALIGNMENT) as u64
}

/// The stretches of `content` between blocks of zeros, and where they start.
fn without_zeros(content: &[u8]) -> Vec<(usize, &[u8])> {
    let mut stretches: Vec<std::ops::Range<usize>> = Vec::new();
    for (i, block) in content.chunks(BLOCK).enumerate().filter(|(_, block)| !is_zero(block)) {
        let start = i * BLOCK;
        let end = start + block.len();
        match stretches.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => stretches.push(start..end),
        }
    }
    stretches.into_iter().map(|stretch| (stretch.start, &content[stretch])).collect()
}

const HAS_PVH: u64 = 1;
const IS_LINUX: u64 = 2;
const HAS_RELOCATIONS: u64 = 4;
const HAS_INVERSE: u64 = 8;

fn encode(header: &Header, image: &Image) -> Vec<u8> {
    let layout = &image.layout;
    let table = image.relocations.as_ref();
    let mut flags = 0;
    for (flag, set) in [
        (HAS_PVH, layout.pvh_entry.is_some()),
        (IS_LINUX, layout.linux),
        (HAS_RELOCATIONS, table.is_some()),
        (HAS_INVERSE, table.is_some_and(|table| table.inverse)),
    ] {
        flags |= if set { flag } else { 0 };
    }
    let checksum = |checksum: Option<u32>| u64::from(checksum.unwrap_or(0));
    let mut numbers = vec![flags, layout.entry, u64::from(layout.pvh_entry.unwrap_or(0))];
    let (offset, words) = table.map_or((0, 0), |table| (table.offset, table.words));
    numbers.extend([offset, words.into(), checksum(table.and_then(|table| table.checksum))]);
    numbers.push(layout.ranges.len() as u64);
    numbers.extend(layout.ranges.iter().flat_map(|range| [range.start, range.end]));
    numbers.push(image.pieces.len() as u64);
    for piece in &image.pieces {
        numbers.extend([piece.address, piece.offset, piece.length, checksum(piece.checksum)]);
    }
    let mut table = header.to_bytes();
    table.extend(numbers.into_iter().flat_map(u64::to_le_bytes));
    table
}

fn decode(table: &[u8]) -> Option<(Header, Image)> {
    let (header, numbers) = table.split_at_checked(HEADER_LENGTH)?;
    let header = Header::from_bytes(header)?;
    let mut numbers = numbers.as_chunks::<8>().0.iter().map(|number| u64::from_le_bytes(*number));
    let mut next = || numbers.next();
    let flags = next()?;
    let entry = next()?;
    let pvh_entry = u32::try_from(next()?).ok()?;
    let (offset, words) = (next()?, u32::try_from(next()?).ok()?);
    let checksum = Some(u32::try_from(next()?).ok()?);
    let has = |flag| flags & flag != 0;
    let mut layout = Layout {
        ranges: Vec::new(),
        entry,
        pvh_entry: has(HAS_PVH).then_some(pvh_entry),
        linux: has(IS_LINUX),
    };
    let inverse = has(HAS_INVERSE);
    let relocations =
        has(HAS_RELOCATIONS).then_some(relocations::Table { offset, words, inverse, checksum });
    let ranges = next()?;
    if ranges > MAX_RANGES as u64 {
        return None;
    }
    for _ in 0..ranges {
        layout.ranges.push(next()?..next()?);
    }
    let mut pieces = Vec::new();
    for _ in 0..next()? {
        let (address, offset, length) = (next()?, next()?, next()?);
        let checksum = Some(u32::try_from(next()?).ok()?);
        pieces.push(Piece { address, offset, length, checksum });
    }
    Some((header, Image { layout, pieces, relocations }))
}

#[cfg(test)]
#[path = "entry_test.rs"]
mod entry_test;
