//! What a guest tells about its memory (virtio 1.3, 5.5.6.3 and 5.5.6.4).

use std::time::Instant;

use crate::virtio::chain::Chain;

/// Bytes of one entry: a tag of 16 bits and a value of 64, packed.
const ENTRY: usize = 10;
/// Most entries looked at: more than there are tags, so that unknown ones hide no known one.
const MOST: usize = 64;
const TAGS: usize = 16;

/// A statistic, by its tag. All are the guest's word, which may be anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Statistic {
    /// Bytes swapped in.
    SwapIn = 0,
    /// Bytes swapped out.
    SwapOut = 1,
    /// Page faults that needed I/O.
    MajorFaults = 2,
    /// Page faults that did not.
    MinorFaults = 3,
    /// Bytes used for nothing.
    Free = 4,
    /// Bytes of memory there are.
    Total = 5,
    /// Bytes that programs could have without swapping.
    Available = 6,
    /// Bytes of caches that could be dropped.
    Caches = 7,
    /// Huge pages allocated.
    HugetlbAllocations = 8,
    /// Huge pages asked for in vain.
    HugetlbFailures = 9,
    /// Processes killed for want of memory.
    OomKills = 10,
    /// Allocations that had to wait for memory to be reclaimed.
    AllocationStalls = 11,
    /// Pages scanned in the background.
    AsyncScans = 12,
    /// Pages scanned by who needed memory.
    DirectScans = 13,
    /// Pages reclaimed in the background.
    AsyncReclaims = 14,
    /// Pages reclaimed by who needed memory.
    DirectReclaims = 15,
}

/// One report of a guest's memory.
#[derive(Clone, Copy, Debug)]
pub struct Statistics {
    values: [Option<u64>; TAGS],
    received: Instant,
}

impl Statistics {
    /// The value of `which`, if the driver sent it.
    pub fn get(&self, which: Statistic) -> Option<u64> {
        self.values[which as usize]
    }

    /// When it arrived.
    pub fn received(&self) -> Instant {
        self.received
    }

    /// Reads the entries of a chain. Unknown tags are ignored, as is a ragged end.
    pub(super) fn read(chain: &Chain) -> Self {
        let mut bytes = [0; ENTRY * MOST];
        let len = chain.readable_len().min(bytes.len());
        let mut values = [None; TAGS];
        if chain.read(0, &mut bytes[..len]).is_ok() {
            for &[low, high, ref value @ ..] in bytes[..len].as_chunks::<ENTRY>().0 {
                let tag = u16::from_le_bytes([low, high]);
                if let Some(slot) = values.get_mut(usize::from(tag)) {
                    *slot = value.first_chunk().map(|value| u64::from_le_bytes(*value));
                }
            }
        }
        Self { values, received: Instant::now() }
    }
}
