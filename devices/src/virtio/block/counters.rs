//! What a disk has done: counted for each queue by the one thread that serves it, without locks and
//! without allocation, and read by whoever likes.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::MAX_QUEUES;
use super::request::Request;
use crate::count::Count;

/// Parts of a latency histogram. Each but the last has a [bound](latency_bound).
pub const LATENCIES: usize = 20;
/// The bound of the first part; each following one is twice as long.
const SHORTEST: Duration = Duration::from_micros(16);

/// The longest time that counts for part `index` of a latency histogram; none for the last part, which
/// has all longer ones.
pub fn latency_bound(index: usize) -> Option<Duration> {
    let doublings = u32::try_from(index).ok()?;
    (index + 1 < LATENCIES).then(|| SHORTEST * (1 << doublings))
}

/// The part that `time` belongs to.
fn part(time: Duration) -> usize {
    let shortest = SHORTEST.as_nanos();
    let times = time.as_nanos().saturating_sub(1) / shortest;
    let doublings = u128::BITS - times.leading_zeros();
    usize::try_from(doublings).unwrap_or(LATENCIES).min(LATENCIES - 1)
}

/// Counts of one queue, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct QueueCounters {
    reads: Count,
    read_bytes: Count,
    writes: Count,
    written_bytes: Count,
    flushes: Count,
    others: Count,
    errors: Count,
    no_room: Count,
    nanoseconds: Count,
    latency: [Count; LATENCIES],
    in_flight: AtomicU64,
}

impl QueueCounters {
    /// Bytes that were read or written.
    pub(super) fn bytes(&self) -> u64 {
        self.read_bytes.get().wrapping_add(self.written_bytes.get())
    }

    /// A request was answered `latency` after it was taken.
    pub(super) fn answered(&self, request: &Request, ok: bool, latency: Duration) {
        let (count, bytes) = match request {
            Request::Read { .. } => (&self.reads, Some(&self.read_bytes)),
            Request::Write { .. } => (&self.writes, Some(&self.written_bytes)),
            Request::Flush => (&self.flushes, None),
            Request::Discard | Request::WriteZeroes { .. } | Request::GetId => (&self.others, None),
        };
        count.add(1);
        match bytes {
            Some(bytes) if ok => bytes.add(request.bytes()),
            _ => {}
        }
        if !ok {
            self.errors.add(1);
        }
        self.nanoseconds.add(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
        self.latency[part(latency)].add(1);
    }

    /// A request was answered that is none the device knows.
    pub(super) fn refused(&self) {
        self.others.add(1);
        self.errors.add(1);
    }

    /// A request that [failed](Self::answered) did so because the host had no room for it.
    pub(super) fn found_no_room(&self) {
        self.no_room.add(1);
    }

    /// So many requests are with the host now.
    pub(super) fn set_in_flight(&self, count: usize) {
        self.in_flight.store(count as u64, Relaxed);
    }

    fn get(&self) -> Requests {
        Requests {
            reads: self.reads.get(),
            read_bytes: self.read_bytes.get(),
            writes: self.writes.get(),
            written_bytes: self.written_bytes.get(),
            flushes: self.flushes.get(),
            others: self.others.get(),
            errors: self.errors.get(),
            no_room: self.no_room.get(),
            time: Duration::from_nanos(self.nanoseconds.get()),
            latency: std::array::from_fn(|part| self.latency[part].get()),
        }
    }
}

/// Requests of a queue that were answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// To read.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// To write.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// To flush.
    pub flushes: u64,
    /// To discard, to write zeroes, for the serial id, and those that are none.
    pub others: u64,
    /// All that failed.
    pub errors: u64,
    /// Those of them that failed because the host had no room left for what they write.
    pub no_room: u64,
    /// From taking them off the queue to their answers, altogether; those that are none left out.
    pub time: Duration,
    /// How many took how long; see [`latency_bound`].
    pub latency: [u64; LATENCIES],
}

/// Counts of all queues of a disk. They may be shared by devices that follow one another.
pub struct Counters([QueueCounters; MAX_QUEUES as usize]);

impl Counters {
    /// Nothing counted yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Default::default()))
    }

    /// What queue `index` has done; nothing if there is no such queue.
    pub fn queue(&self, index: u16) -> Requests {
        self.0.get(usize::from(index)).map(QueueCounters::get).unwrap_or_default()
    }

    /// Requests that the host has not carried out yet.
    pub fn in_flight(&self) -> u64 {
        self.0.iter().map(|queue| queue.in_flight.load(Relaxed)).sum()
    }

    /// Where the thread of queue `index` counts.
    pub(super) fn of(&self, index: u16) -> &QueueCounters {
        &self.0[usize::from(index.min(MAX_QUEUES - 1))]
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counters").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod counters_test {
    use super::*;

    #[test]
    fn every_time_belongs_to_the_first_part_that_has_room_for_it() {
        let bounds: Vec<_> = (0..LATENCIES).filter_map(latency_bound).collect();
        assert_eq!(bounds.len(), LATENCIES - 1);
        for (index, bound) in bounds.iter().enumerate() {
            assert_eq!(part(*bound), index);
            assert_eq!(part(*bound + Duration::from_nanos(1)), index + 1);
        }
        assert_eq!((part(Duration::ZERO), part(Duration::MAX)), (0, LATENCIES - 1));
    }

    #[test]
    fn requests_are_counted_by_kind_and_failed_ones_move_no_bytes() {
        let counters = Counters::new();
        let queue = counters.of(1);
        queue.answered(&Request::Read { offset: 0, len: 512 }, true, SHORTEST);
        queue.answered(&Request::Write { offset: 0, len: 4096 }, false, SHORTEST * 3);
        queue.found_no_room();
        queue.refused();
        let done = counters.queue(1);
        assert_eq!((done.reads, done.read_bytes), (1, 512));
        assert_eq!((done.writes, done.written_bytes), (1, 0));
        assert_eq!((done.others, done.errors, done.no_room), (1, 2, 1));
        assert_eq!((done.time, done.latency[0], done.latency[2]), (SHORTEST * 4, 1, 1));
        assert_eq!(counters.queue(0), Requests::default());
    }
}
