//! Console input from other threads: what clients of the control interface type.
//!
//! It waits here, bounded, until [`Input`](super::input::Input) takes it on the main thread.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::sync::{Arc, Mutex};

use devices::mutex::lock;
use vmm_sys_util::eventfd::EventFd;

/// Bytes that wait for the main thread.
const CAPACITY: usize = 4096;

/// Where other threads put what they have for the guest to read. Clones are handles on the same place.
#[derive(Debug, Clone)]
pub struct RemoteInput(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// There may be bytes.
    filled: EventFd,
    /// There is room again.
    room: EventFd,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: VecDeque<u8>,
    /// Some were refused since there was room last.
    refused: bool,
}

impl RemoteInput {
    pub(super) fn new() -> io::Result<Self> {
        let event = || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        let shared = Shared { waiting: Mutex::default(), filled: event()?, room: event()? };
        Ok(Self(Arc::new(shared)))
    }

    /// Hands over the first of `bytes`, as many as there is room for; how many. They reach the guest as they are: no
    /// escape keys. Fewer than all: [`room`](Self::room) tells when to come back with the rest. A guest that reads
    /// nothing may never make room.
    pub fn send(&self, bytes: &[u8]) -> usize {
        let mut waiting = lock(&self.0.waiting);
        let count = bytes.len().min(CAPACITY - waiting.bytes.len());
        waiting.bytes.extend(&bytes[..count]);
        waiting.refused |= count < bytes.len();
        drop(waiting);
        let _ = self.0.filled.write(1);
        count
    }

    /// Fires when there is room again after [`send`](Self::send) has refused something. It is one for all handles:
    /// one thread is to read it, and to try again for whoever was refused.
    pub fn room(&self) -> &EventFd {
        &self.0.room
    }

    /// Fires when there may be something to [`take`](Self::take).
    pub(super) fn filled(&self) -> &EventFd {
        &self.0.filled
    }

    /// Everything that waits.
    pub(super) fn take(&self) -> VecDeque<u8> {
        let mut waiting = lock(&self.0.waiting);
        if mem::take(&mut waiting.refused) {
            let _ = self.0.room.write(1);
        }
        mem::take(&mut waiting.bytes)
    }
}
