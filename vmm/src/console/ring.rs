//! The last bytes of a guest's console output, and those who follow it.
//!
//! Bytes are counted from the start of the run: the offset of a byte never changes, and a follower that comes back
//! goes on from where it was. One follower does not disturb another, and none makes the ring larger. A plain one that
//! is slow loses what is overwritten, and is told how much. A keeper (who writes the log) is waited for instead, in
//! the thread that writes console output and never in a vCPU's: [`Output`](super::output::Output)'s buffer then fills
//! up, and only that slows the guest down. There is one at most, and the patience with one that keeps nothing is
//! bounded.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use devices::mutex::lock;
use vmm_sys_util::eventfd::EventFd;

/// Bytes of output that are kept.
pub const CAPACITY: usize = 64 << 10;
/// How far behind the keeper may be before it is waited for. With this much appended at a time, it loses nothing.
const ROOM: usize = CAPACITY / 2;
/// How long a keeper may keep nothing before it is left behind.
const PATIENCE: Duration = Duration::from_secs(5);

/// The last [`CAPACITY`] bytes of output. Clones are handles on the same ring.
#[derive(Debug, Clone, Default)]
pub struct Ring(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// The keeper has kept something, or has gone.
    kept: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// No memory until the first byte.
    bytes: VecDeque<u8>,
    /// Offset of the byte after the last.
    end: u64,
    closed: bool,
    followers: Vec<Place>,
    keeper: Option<Keeper>,
    next_id: u64,
}

/// A follower, for the ring.
#[derive(Debug)]
struct Place {
    id: u64,
    /// It has been told that there is nothing, and wants to know when there is.
    idle: bool,
    wake: Arc<EventFd>,
}

/// Who keeps what the guest says.
#[derive(Debug)]
struct Keeper {
    /// Which follower that is; none if it has still to come.
    id: Option<u64>,
    /// Everything before this offset is kept.
    kept: u64,
    /// The last sign of life.
    progress: Instant,
    /// It is not waited for until it has caught up.
    left_behind: bool,
}

impl Keeper {
    fn new(id: Option<u64>, kept: u64) -> Self {
        Self { id, kept, progress: Instant::now(), left_behind: false }
    }
}

/// What a follower finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// So many bytes were copied.
    Bytes(usize),
    /// Nothing yet; the follower is woken when that changes.
    Nothing,
    /// So many bytes were overwritten before they were read. The follower is past them now.
    Lost(u64),
    /// The run is over, and everything is read; or another keeper has come in place of this one.
    Ended,
}

impl Ring {
    /// Follows the output from offset `from` on, or from what comes next. What is kept no more, or not written yet,
    /// is passed over: [`Follower::position`] says where it begins. `wake` is written to when there is something again
    /// after [`Found::Nothing`].
    ///
    /// A `keeper` is waited for, and takes the place of the keeper before it, for whom this is the end.
    pub fn follow(&self, from: Option<u64>, keeper: bool, wake: Arc<EventFd>) -> Follower {
        let mut state = lock(&self.0.state);
        let id = state.next_id;
        state.next_id += 1;
        let next = from.unwrap_or(state.end).clamp(state.start(), state.end);
        if keeper && let Some(before) = state.keeper.replace(Keeper::new(Some(id), next)) {
            state.wake();
            state.followers.retain(|place| Some(place.id) != before.id);
            self.0.kept.notify_all();
        }
        state.followers.push(Place { id, idle: false, wake });
        drop(state);
        Follower { ring: self.clone(), id, next }
    }

    /// A keeper comes soon: it is waited for from the first byte on, as if it were there.
    pub fn expect_keeper(&self) {
        let mut state = lock(&self.0.state);
        if state.keeper.is_none() {
            state.keeper = Some(Keeper::new(None, 0));
        }
    }

    /// The last bytes, at most `max`; whole lines if any line is whole.
    pub fn tail(&self, max: usize) -> Vec<u8> {
        let state = lock(&self.0.state);
        let cut = state.bytes.len().saturating_sub(max);
        let mut tail: Vec<u8> = state.bytes.range(cut..).copied().collect();
        let middle_of_line = cut > 0 && state.bytes.get(cut - 1) != Some(&b'\n');
        if middle_of_line && let Some(newline) = tail.iter().position(|&byte| byte == b'\n') {
            tail.drain(..=newline);
        }
        tail
    }

    /// Offset of the byte after the last.
    pub fn end(&self) -> u64 {
        lock(&self.0.state).end
    }

    /// Adds bytes, once a keeper that lives has kept enough of those before.
    pub(super) fn push(&self, bytes: &[u8]) {
        for chunk in bytes.chunks(ROOM) {
            self.wait_for_keeper(ROOM).append(chunk);
        }
    }

    /// No more bytes come. Waits until the keeper has everything, as long as it goes on.
    pub(super) fn close(&self) {
        let mut state = lock(&self.0.state);
        state.closed = true;
        state.wake();
        drop(state);
        drop(self.wait_for_keeper(0));
    }

    /// Whether anyone keeps what the guest says.
    pub(super) fn has_keeper(&self) -> bool {
        lock(&self.0.state).keeper.is_some()
    }

    /// Whether there is nothing that the keeper has still to keep. One that was left behind does not count.
    pub(super) fn is_kept(&self) -> bool {
        lock(&self.0.state).awaited(0).is_none()
    }

    /// Waits until the keeper has all but `behind` bytes, but not for one that does nothing.
    fn wait_for_keeper(&self, behind: usize) -> MutexGuard<'_, State> {
        let began = Instant::now();
        let mut state = lock(&self.0.state);
        while let Some(patience) = state.patience(behind, began) {
            let waited = self.0.kept.wait_timeout(state, patience);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }
}

impl State {
    /// Offset of the first byte that is kept.
    fn start(&self) -> u64 {
        self.end - self.bytes.len() as u64
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.bytes.capacity() == 0 {
            self.bytes.reserve_exact(CAPACITY);
        }
        let excess = (self.bytes.len() + bytes.len()).saturating_sub(CAPACITY);
        self.bytes.drain(..excess);
        self.bytes.extend(bytes);
        self.end += bytes.len() as u64;
        self.wake();
    }

    fn wake(&mut self) {
        for place in self.followers.iter_mut().filter(|place| place.idle) {
            place.idle = false;
            // An eventfd that is already signalled needs no second signal.
            let _ = place.wake.write(1);
        }
    }

    /// The keeper, if it has more than `behind` bytes to keep and is waited for.
    fn awaited(&self, behind: usize) -> Option<&Keeper> {
        let late = |keeper: &&Keeper| self.end.saturating_sub(keeper.kept) > behind as u64;
        self.keeper.as_ref().filter(|keeper| !keeper.left_behind).filter(late)
    }

    /// How long to wait, at most, for a keeper that is more than `behind` bytes behind, if there is one. `began`: when
    /// the wait began. One that has done nothing for too long is left behind.
    fn patience(&mut self, behind: usize, began: Instant) -> Option<Duration> {
        let until = self.awaited(behind)?.progress.max(began) + PATIENCE;
        let left = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
        if left.is_none()
            && let Some(keeper) = &mut self.keeper
        {
            tracing::warn!("the console log does not follow: the guest goes on without it");
            keeper.left_behind = true;
        }
        left
    }
}

/// Someone who follows the output.
#[derive(Debug)]
pub struct Follower {
    ring: Ring,
    id: u64,
    /// Offset of the next byte.
    next: u64,
}

impl Follower {
    /// Offset of the next byte.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// Copies the next bytes into `buffer`.
    pub fn read(&mut self, buffer: &mut [u8]) -> Found {
        let mut state = lock(&self.ring.0.state);
        let (start, end, closed) = (state.start(), state.end, state.closed);
        let Some(place) = state.followers.iter_mut().find(|place| place.id == self.id) else {
            return Found::Ended;
        };
        if self.next < start {
            let lost = start - self.next;
            self.next = start;
            return Found::Lost(lost);
        }
        if self.next == end {
            place.idle = !closed;
            return if closed { Found::Ended } else { Found::Nothing };
        }
        let skip = usize::try_from(self.next - start).unwrap_or(CAPACITY);
        let (head, tail) = state.bytes.as_slices();
        let from = if skip < head.len() { &head[skip..] } else { &tail[skip - head.len()..] };
        let count = from.len().min(buffer.len());
        buffer[..count].copy_from_slice(&from[..count]);
        self.next += count as u64;
        Found::Bytes(count)
    }

    /// A keeper has everything before the offset `kept` where it belongs.
    pub fn confirm(&self, kept: u64) {
        let mut state = lock(&self.ring.0.state);
        let end = state.end;
        let Some(keeper) = state.keeper.as_mut().filter(|keeper| keeper.id == Some(self.id)) else {
            return;
        };
        keeper.kept = kept.clamp(keeper.kept, end);
        keeper.progress = Instant::now();
        keeper.left_behind &= end - keeper.kept > ROOM as u64;
        self.ring.0.kept.notify_all();
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut state = lock(&self.ring.0.state);
        state.followers.retain(|place| place.id != self.id);
        state.keeper.take_if(|keeper| keeper.id == Some(self.id));
        self.ring.0.kept.notify_all();
    }
}

#[cfg(test)]
#[path = "ring_test.rs"]
mod ring_test;
