//! The guest's console output: a bounded buffer between vCPUs and whoever reads.
//!
//! vCPUs append and go on; one thread, started at the first byte, writes. A reader that is slow
//! slows the guest down once the buffer is full (nothing is lost), and never the main loop.

use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use vmm_sys_util::eventfd::EventFd;

/// Bytes that wait for the reader before the guest has to.
const CAPACITY: usize = 64 << 10;
/// How long the first bytes after a silence wait for more. A UART hands over single bytes; without
/// this each would cost two context switches and a system call. Too short to be noticed by a user.
const LINGER: Duration = Duration::from_millis(1);

/// The console's output side. Clones are handles on the same output.
#[derive(Debug, Clone)]
pub struct Output(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    target: OwnedFd,
    state: Mutex<State>,
    /// There are bytes to write, or the end has come.
    filled: Condvar,
    /// Waiting for more bytes makes no sense any more: the buffer is full, or the end has come.
    urgent: Condvar,
    /// There is room again.
    emptied: Condvar,
    /// Fires when everything is written after [`Output::finish`], or when writing failed.
    event: EventFd,
}

#[derive(Debug, Default)]
struct State {
    buffer: Vec<u8>,
    writer: Option<JoinHandle<()>>,
    writing: bool,
    unbounded: bool,
    finishing: bool,
    error: Option<io::Error>,
    broken: bool,
}

impl Output {
    /// Output to `target`; no thread runs until the first byte.
    ///
    /// # Errors
    ///
    /// The kernel's answer when it gives no eventfd.
    pub fn new(target: OwnedFd) -> io::Result<Self> {
        Ok(Self(Arc::new(Shared {
            target,
            state: Mutex::default(),
            filled: Condvar::new(),
            urgent: Condvar::new(),
            emptied: Condvar::new(),
            event: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
        })))
    }

    /// Fires when everything is written after [`Self::finish`], or when writing failed.
    pub fn event(&self) -> &EventFd {
        &self.0.event
    }

    /// While set, writers never wait for room, so that a vCPU can always be stopped. At most one
    /// access of each vCPU is added meanwhile.
    pub fn set_unbounded(&self, unbounded: bool) {
        self.0.lock().unbounded = unbounded;
        self.0.emptied.notify_all();
    }

    /// The error that ended writing, once.
    pub fn take_error(&self) -> Option<io::Error> {
        self.0.lock().error.take()
    }

    /// No more bytes come. Returns whether all are written already; if not, [`Self::event`] tells.
    pub fn finish(&self) -> bool {
        let mut state = self.0.lock();
        state.finishing = true;
        self.0.filled.notify_all();
        self.0.urgent.notify_all();
        state.drained()
    }

    /// Whether nothing is left to write.
    pub fn is_drained(&self) -> bool {
        self.0.lock().drained()
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        while state.buffer.len() >= CAPACITY && !state.unbounded && !state.broken {
            self.0.urgent.notify_all();
            state = self.0.emptied.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.broken {
            return Ok(());
        }
        // A writer that has not taken the bytes before these yet needs no second call.
        let wake = state.buffer.is_empty();
        state.buffer.extend_from_slice(bytes);
        if state.writer.is_none() {
            let shared = Arc::clone(&self.0);
            let writer =
                thread::Builder::new().name("console".into()).spawn(move || shared.run())?;
            state.writer = Some(writer);
        }
        drop(state);
        if wake {
            self.0.filled.notify_one();
        }
        Ok(())
    }
}

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl State {
    fn drained(&self) -> bool {
        self.broken || (self.buffer.is_empty() && !self.writing)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut bytes = Vec::with_capacity(CAPACITY);
        let mut state = self.lock();
        loop {
            while state.buffer.is_empty() && !state.finishing {
                state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if !state.finishing {
                let urgent = |state: &mut State| !state.finishing && state.buffer.len() < CAPACITY;
                let waited = self.urgent.wait_timeout_while(state, LINGER, urgent);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            if state.buffer.is_empty() {
                drop(state);
                return self.notify();
            }
            mem::swap(&mut bytes, &mut state.buffer);
            state.writing = true;
            drop(state);
            self.emptied.notify_all();
            let written = self.write_all(&bytes);
            bytes.clear();
            state = self.lock();
            state.writing = false;
            if let Err(error) = written {
                state.broken = true;
                state.error = Some(error);
                state.buffer = Vec::new();
                drop(state);
                self.emptied.notify_all();
                return self.notify();
            }
        }
    }

    fn notify(&self) {
        if let Err(error) = self.event.write(1) {
            tracing::error!("the end of console output cannot be signalled: {error}");
        }
    }

    fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::io::write(&self.target, bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => bytes = &bytes[written..],
                Err(rustix::io::Errno::INTR) => {}
                // The descriptor is shared with other processes, one of which made it non-blocking.
                Err(rustix::io::Errno::AGAIN) => {
                    poll(&mut [PollFd::new(&self.target, PollFlags::OUT)], None)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "output_test.rs"]
mod output_test;
