//! The last bytes of a guest's console output, and those who follow it.
//!
//! Bytes are counted from the start of the run: the offset of a byte never changes, and a follower that comes back
//! goes on from where it was. One follower does not disturb another, and none makes the ring larger. A plain one that
//! is slow loses what is overwritten, and is told how much. A keeper (who writes the log) is waited for instead, in
//! the thread that writes console output and never in a vCPU's: [`Output`](super::output::Output)'s buffer then fills
//! up, and only that slows the guest down. The patience with a keeper that reads nothing is bounded.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use devices::mutex::lock;
use vmm_sys_util::eventfd::EventFd;

/// Bytes of output that are kept.
pub const CAPACITY: usize = 64 << 10;
/// How far behind a keeper may be before it is waited for. With this much appended at a time, it loses nothing.
const ROOM: usize = CAPACITY / 2;
/// How long a keeper may read nothing before it is left behind.
const PATIENCE: Duration = Duration::from_secs(5);

/// The last [`CAPACITY`] bytes of output. Clones are handles on the same ring.
#[derive(Debug, Clone, Default)]
pub struct Ring(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// A keeper has read something, or has gone.
    read: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// No memory until the first byte.
    bytes: VecDeque<u8>,
    /// Offset of the byte after the last.
    end: u64,
    closed: bool,
    followers: Vec<Place>,
    next_id: u64,
}

/// Where a follower is.
#[derive(Debug)]
struct Place {
    id: u64,
    position: u64,
    keeper: bool,
    /// A keeper's last sign of life.
    progress: Instant,
    /// A keeper that is not waited for until it has caught up.
    left_behind: bool,
    /// It has been told that there is nothing, and wants to know when there is.
    idle: bool,
    event: Arc<EventFd>,
}

/// What a follower finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// So many bytes were copied.
    Bytes(usize),
    /// Nothing yet; [`Follower::event`] fires when that changes.
    Nothing,
    /// So many bytes were overwritten before they were read. The follower is past them now.
    Lost(u64),
    /// The run is over, and everything is read.
    Ended,
}

impl Ring {
    /// Follows the output from offset `from` on, or from what comes next. What is kept no more, or not written yet,
    /// is passed over: [`Follower::position`] says where it begins. A `keeper` is waited for.
    ///
    /// # Errors
    ///
    /// The kernel's answer when it gives no eventfd.
    pub fn follow(&self, from: Option<u64>, keeper: bool) -> io::Result<Follower> {
        let event = Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
        let mut state = lock(&self.0.state);
        let id = state.next_id;
        state.next_id += 1;
        let position = from.unwrap_or(state.end).clamp(state.start(), state.end);
        state.followers.push(Place {
            id,
            position,
            keeper,
            progress: Instant::now(),
            left_behind: false,
            idle: false,
            event: Arc::clone(&event),
        });
        drop(state);
        Ok(Follower { ring: self.clone(), id, event })
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

    /// Adds bytes, once every keeper that lives has read enough of those before.
    pub(super) fn push(&self, bytes: &[u8]) {
        for chunk in bytes.chunks(ROOM) {
            self.wait_for_keepers(ROOM).append(chunk);
        }
    }

    /// No more bytes come. Waits until keepers have read everything, as long as they read.
    pub(super) fn close(&self) {
        let mut state = lock(&self.0.state);
        state.closed = true;
        state.wake();
        drop(state);
        drop(self.wait_for_keepers(0));
    }

    /// Whether anyone keeps what the guest says.
    pub(super) fn has_keeper(&self) -> bool {
        lock(&self.0.state).followers.iter().any(|place| place.keeper)
    }

    /// Whether no keeper has anything to read yet. One that was left behind does not count.
    pub(super) fn is_kept(&self) -> bool {
        let state = lock(&self.0.state);
        state.awaited(0).next().is_none()
    }

    /// Waits until no keeper has more than `behind` bytes to read, but not for those that do nothing.
    fn wait_for_keepers(&self, behind: usize) -> MutexGuard<'_, State> {
        let began = Instant::now();
        let mut state = lock(&self.0.state);
        while let Some(patience) = state.patience(behind, began) {
            let waited = self.0.read.wait_timeout(state, patience);
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
            let _ = place.event.write(1);
        }
    }

    /// Keepers that have more than `behind` bytes to read and are waited for.
    fn awaited(&self, behind: usize) -> impl Iterator<Item = &Place> {
        let late = move |place: &&Place| self.end.saturating_sub(place.position) > behind as u64;
        self.followers.iter().filter(|place| place.keeper && !place.left_behind).filter(late)
    }

    /// How long to wait, at most, for one of the keepers that is more than `behind` bytes behind, if there is one.
    /// `began`: when the wait began. Those who have done nothing for too long are left behind.
    fn patience(&mut self, behind: usize, began: Instant) -> Option<Duration> {
        let now = Instant::now();
        let over = |place: &Place| now >= place.progress.max(began) + PATIENCE;
        let lost: Vec<u64> =
            self.awaited(behind).filter(|place| over(place)).map(|place| place.id).collect();
        for place in self.followers.iter_mut().filter(|place| lost.contains(&place.id)) {
            tracing::warn!(
                "the console log does not follow any more: the guest goes on without it"
            );
            place.left_behind = true;
        }
        let left = |place: &Place| (place.progress.max(began) + PATIENCE).duration_since(now);
        self.awaited(behind).map(left).min()
    }
}

/// Someone who follows the output.
#[derive(Debug)]
pub struct Follower {
    ring: Ring,
    id: u64,
    event: Arc<EventFd>,
}

impl Follower {
    /// Fires when there is something again after [`Found::Nothing`]. To be read (emptied) before the next look.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// Offset of the next byte.
    pub fn position(&self) -> u64 {
        let state = lock(&self.ring.0.state);
        state.followers.iter().find(|place| place.id == self.id).map_or(state.end, |p| p.position)
    }

    /// Copies the next bytes into `buffer` and stays where it is: see [`advance`](Self::advance).
    pub fn peek(&self, buffer: &mut [u8]) -> Found {
        let mut state = lock(&self.ring.0.state);
        let (start, end, closed) = (state.start(), state.end, state.closed);
        let Some(place) = state.followers.iter_mut().find(|place| place.id == self.id) else {
            return Found::Ended;
        };
        if place.position < start {
            let lost = start - place.position;
            place.position = start;
            return Found::Lost(lost);
        }
        if place.position == end {
            place.idle = !closed;
            return if closed { Found::Ended } else { Found::Nothing };
        }
        let skip = usize::try_from(place.position - start).unwrap_or(CAPACITY);
        let (head, tail) = state.bytes.as_slices();
        let from = if skip < head.len() { &head[skip..] } else { &tail[skip - head.len()..] };
        let count = from.len().min(buffer.len());
        buffer[..count].copy_from_slice(&from[..count]);
        Found::Bytes(count)
    }

    /// Goes on by `count` bytes that [`peek`](Self::peek) gave and that have arrived where they belong.
    pub fn advance(&self, count: usize) {
        let mut state = lock(&self.ring.0.state);
        let end = state.end;
        let Some(place) = state.followers.iter_mut().find(|place| place.id == self.id) else {
            return;
        };
        place.position = end.min(place.position + count as u64);
        if place.keeper {
            place.progress = Instant::now();
            place.left_behind &= end - place.position > ROOM as u64;
            self.ring.0.read.notify_all();
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        lock(&self.ring.0.state).followers.retain(|place| place.id != self.id);
        self.ring.0.read.notify_all();
    }
}

#[cfg(test)]
#[path = "ring_test.rs"]
mod ring_test;
