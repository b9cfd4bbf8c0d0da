//! What a driver can ask for (virtio 1.3, 5.2.6), taken from a chain and checked whole before
//! anything is done about it.

use super::backend::Range;
use super::config::{
    MAX_DISCARD_SECTORS, MAX_DISCARD_SEGMENTS, MAX_WRITE_ZEROES_SECTORS, MAX_WRITE_ZEROES_SEGMENTS,
    feature,
};
use crate::virtio::chain::Chain;

/// Length of the header in bytes: type, reserved, sector.
pub(super) const HEADER: usize = 16;
/// Length of the answer to GET_ID in bytes.
pub(super) const ID_LEN: usize = 20;

const SECTOR: u64 = 512;
const SEGMENT: usize = 16;
const UNMAP: u32 = 1;

const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_GET_ID: u32 = 8;
const T_DISCARD: u32 = 11;
const T_WRITE_ZEROES: u32 = 13;

/// The status byte at the end of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    Ok = 0,
    IoErr = 1,
    Unsupported = 2,
}

/// A request that can be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Read {
        offset: u64,
        len: usize,
    },
    Write {
        offset: u64,
        len: usize,
    },
    Flush,
    GetId,
    /// Of ranges that are kept elsewhere, for there may be many.
    Discard,
    WriteZeroes {
        range: Range,
        unmap: bool,
    },
}

/// What requests are checked against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Size of the disk in bytes.
    pub(super) capacity: u64,
    pub(super) read_only: bool,
    /// Features both sides agreed on.
    pub(super) features: u64,
}

impl Bounds {
    /// What the chain asks for; `chain` has a writable byte at least, for the status. `ranges` are
    /// replaced by those of a discard.
    ///
    /// # Errors
    ///
    /// The status to answer it with.
    pub(super) fn parse(&self, chain: &Chain, ranges: &mut Vec<Range>) -> Result<Request, Status> {
        // The driver may change these bytes at any time: they are read once.
        let mut header = [0; HEADER];
        chain.read(0, &mut header).map_err(|_| Status::IoErr)?;
        let [a, b, c, d, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);
        match u32::from_le_bytes([a, b, c, d]) {
            T_IN => {
                let len = chain.writable_len() - 1;
                let offset = self.transfer(sector, len)?;
                Ok(Request::Read { offset, len })
            }
            T_OUT => {
                self.writable()?;
                let len = chain.readable_len() - HEADER;
                let offset = self.transfer(sector, len)?;
                Ok(Request::Write { offset, len })
            }
            T_FLUSH => Ok(Request::Flush),
            T_GET_ID if chain.writable_len() <= ID_LEN => Err(Status::IoErr),
            T_GET_ID => Ok(Request::GetId),
            T_DISCARD if self.features & feature::DISCARD != 0 => self.discard(chain, ranges),
            T_WRITE_ZEROES if self.features & feature::WRITE_ZEROES != 0 => {
                self.write_zeroes(chain)
            }
            _ => Err(Status::Unsupported),
        }
    }

    fn writable(&self) -> Result<(), Status> {
        if self.read_only { Err(Status::IoErr) } else { Ok(()) }
    }

    /// Checks `len` bytes of data from `sector` on; where they begin.
    fn transfer(&self, sector: u64, len: usize) -> Result<u64, Status> {
        let sectors = len as u64 / SECTOR;
        if sectors == 0 || !(len as u64).is_multiple_of(SECTOR) {
            return Err(Status::IoErr);
        }
        self.range(sector, sectors).map(|range| range.offset)
    }

    /// Checks `sectors` from `sector` on.
    fn range(&self, sector: u64, sectors: u64) -> Result<Range, Status> {
        let end = sector.checked_add(sectors).ok_or(Status::IoErr)?;
        if sectors == 0 || end > self.capacity / SECTOR {
            return Err(Status::IoErr);
        }
        Ok(Range { offset: sector * SECTOR, len: sectors * SECTOR })
    }

    fn discard(&self, chain: &Chain, ranges: &mut Vec<Range>) -> Result<Request, Status> {
        self.writable()?;
        ranges.clear();
        for index in 0..segment_count(chain, MAX_DISCARD_SEGMENTS)? {
            let (sector, sectors, flags) = segment(chain, index)?;
            // A discard has no flags (5.2.6.2).
            if flags != 0 {
                return Err(Status::Unsupported);
            }
            if sectors > MAX_DISCARD_SECTORS {
                return Err(Status::IoErr);
            }
            ranges.push(self.range(sector, sectors.into())?);
        }
        Ok(Request::Discard)
    }

    fn write_zeroes(&self, chain: &Chain) -> Result<Request, Status> {
        self.writable()?;
        segment_count(chain, MAX_WRITE_ZEROES_SEGMENTS)?;
        let (sector, sectors, flags) = segment(chain, 0)?;
        if flags & !UNMAP != 0 {
            return Err(Status::Unsupported);
        }
        if sectors > MAX_WRITE_ZEROES_SECTORS {
            return Err(Status::IoErr);
        }
        let range = self.range(sector, sectors.into())?;
        Ok(Request::WriteZeroes { range, unmap: flags & UNMAP != 0 })
    }
}

/// How many ranges follow the header.
fn segment_count(chain: &Chain, most: u32) -> Result<usize, Status> {
    let len = chain.readable_len() - HEADER;
    let count = len / SEGMENT;
    if !len.is_multiple_of(SEGMENT) || count == 0 || count > most as usize {
        return Err(Status::IoErr);
    }
    Ok(count)
}

/// Range number `index`: sector, number of sectors, flags.
fn segment(chain: &Chain, index: usize) -> Result<(u64, u32, u32), Status> {
    let mut bytes = [0; SEGMENT];
    chain.read(HEADER + index * SEGMENT, &mut bytes).map_err(|_| Status::IoErr)?;
    let [sector @ .., a, b, c, d, e, f, g, h] = bytes;
    let sectors = u32::from_le_bytes([a, b, c, d]);
    Ok((u64::from_le_bytes(sector), sectors, u32::from_le_bytes([e, f, g, h])))
}

impl Request {
    /// Bytes that count against a limit of bandwidth: data, and zeros, for they may have to be written.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Read { len, .. } | Self::Write { len, .. } => *len as u64,
            Self::WriteZeroes { range, .. } => range.len,
            Self::Flush | Self::GetId | Self::Discard => 0,
        }
    }

    /// Whether it changes what is on the disk.
    pub(super) fn modifies(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Discard | Self::WriteZeroes { .. })
    }
}
