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
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: VecDeque<u8>,
    /// Who was refused some since there was room last.
    refused: Vec<Arc<EventFd>>,
}

impl RemoteInput {
    /// Room for input, empty.
    ///
    /// # Errors
    ///
    /// The kernel's answer when it gives no eventfd.
    pub fn new() -> io::Result<Self> {
        let filled = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(Self(Arc::new(Shared { waiting: Mutex::default(), filled })))
    }

    /// Hands over the first of `bytes`, as many as there is room for; how many. They reach the guest as they are: no
    /// escape keys. Fewer than all: `wake` is written to when it makes sense to come back with the rest. A guest that
    /// reads nothing may never make room.
    pub fn send(&self, bytes: &[u8], wake: &Arc<EventFd>) -> usize {
        let mut waiting = lock(&self.0.waiting);
        let count = bytes.len().min(CAPACITY - waiting.bytes.len());
        waiting.bytes.extend(&bytes[..count]);
        let known = waiting.refused.iter().any(|refused| Arc::ptr_eq(refused, wake));
        if count < bytes.len() && !known {
            waiting.refused.push(Arc::clone(wake));
        }
        drop(waiting);
        let _ = self.0.filled.write(1);
        count
    }

    /// Fires when there may be something to [`take`](Self::take).
    pub(super) fn filled(&self) -> &EventFd {
        &self.0.filled
    }

    /// Everything that waits.
    pub(crate) fn take(&self) -> VecDeque<u8> {
        let mut waiting = lock(&self.0.waiting);
        for wake in waiting.refused.drain(..) {
            let _ = wake.write(1);
        }
        mem::take(&mut waiting.bytes)
    }
}
