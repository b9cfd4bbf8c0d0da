//! What a network device has passed on: counted for each pair of queues by the one thread that serves it, and read by
//! whoever likes. Kept by the host over resets of the machine.

use std::fmt;

use crate::count::Count;

/// Pairs of queues that are counted for themselves; any others count as the last one.
const PAIRS: usize = 16;

/// Counts of one pair, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct PairCounters {
    pub received_frames: Count,
    pub received_bytes: Count,
    pub receive_dropped: Count,
    pub filtered: Count,
    pub sent_frames: Count,
    pub sent_bytes: Count,
    pub send_dropped: Count,
    pub malformed: Count,
}

/// Frames and bytes of one pair of queues that passed, and those that did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Frames that the driver got.
    pub received_frames: u64,
    /// Bytes of them.
    pub received_bytes: u64,
    /// Frames for the driver that it had no room for, or that broke off.
    pub receive_dropped: u64,
    /// Frames the driver does not want.
    pub filtered: u64,
    /// Frames of the driver's that the host took.
    pub sent_frames: u64,
    /// Bytes of them.
    pub sent_bytes: u64,
    /// Frames that the host did not take.
    pub send_dropped: u64,
    /// Frames of the driver's that are none.
    pub malformed: u64,
}

/// Counts of all pairs of a device. They may be shared by devices that follow one another.
#[derive(Default)]
pub struct Counters([PairCounters; PAIRS]);

impl Counters {
    /// What pair `index` has passed on; nothing if there is no such pair.
    pub fn pair(&self, index: u16) -> Passed {
        self.0.get(usize::from(index)).map(PairCounters::get).unwrap_or_default()
    }

    /// Where the thread of pair `index` counts.
    pub(super) fn of(&self, index: u16) -> &PairCounters {
        &self.0[usize::from(index).min(PAIRS - 1)]
    }
}

impl PairCounters {
    /// Bytes that passed, either way.
    pub fn bytes(&self) -> u64 {
        self.received_bytes.get().wrapping_add(self.sent_bytes.get())
    }

    fn get(&self) -> Passed {
        Passed {
            received_frames: self.received_frames.get(),
            received_bytes: self.received_bytes.get(),
            receive_dropped: self.receive_dropped.get(),
            filtered: self.filtered.get(),
            sent_frames: self.sent_frames.get(),
            sent_bytes: self.sent_bytes.get(),
            send_dropped: self.send_dropped.get(),
            malformed: self.malformed.get(),
        }
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counters").finish_non_exhaustive()
    }
}
