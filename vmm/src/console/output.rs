//! The guest's console output: a bounded buffer between vCPUs and whoever reads.
//!
//! vCPUs append and go on; one thread, started at the first byte, passes the bytes on: to the [`Ring`], always, and
//! to a descriptor if there is one. A reader that is slow slows the guest down once the buffer is full (nothing is
//! lost), and never the main loop.

use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use devices::thread::{Role, Start};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use vmm_sys_util::eventfd::EventFd;

use super::ring::Ring;

/// Bytes that wait for the reader before the guest has to.
const CAPACITY: usize = 64 << 10;
/// Bytes taken from a pipe at a time.
const PIPE_CHUNK: usize = 16 << 10;
/// How long the first bytes after a silence wait for more. A UART hands over single bytes; without
/// this each would cost two context switches and a system call. Too short to be noticed by a user.
const LINGER: Duration = Duration::from_millis(1);

/// The console's output side. Clones are handles on the same output.
#[derive(Debug, Clone)]
pub struct Output(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    target: Option<OwnedFd>,
    ring: Ring,
    state: Mutex<State>,
    /// There are bytes to write, or the end has come.
    filled: Condvar,
    /// Waiting for more bytes makes no sense any more: the buffer is full, or the end has come.
    urgent: Condvar,
    /// There is room again.
    emptied: Condvar,
    /// Fires when everything is passed on after [`Output::finish`], or when writing failed.
    event: EventFd,
}

#[derive(Debug, Default)]
struct State {
    buffer: Vec<u8>,
    writer: Option<JoinHandle<()>>,
    writing: bool,
    unbounded: bool,
    finishing: bool,
    /// A [pipe](Output::carry) may have more bytes; tells who reads it that the end has come.
    carrying: Option<Arc<OwnedFd>>,
    error: Option<io::Error>,
}

impl Output {
    /// Output to `target`, if there is one, and to `ring`; no thread runs until the first byte.
    ///
    /// # Errors
    ///
    /// The kernel's answer when it gives no eventfd.
    pub fn new(target: Option<OwnedFd>, ring: Ring) -> io::Result<Self> {
        Ok(Self(Arc::new(Shared {
            target,
            ring,
            state: Mutex::default(),
            filled: Condvar::new(),
            urgent: Condvar::new(),
            emptied: Condvar::new(),
            event: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
        })))
    }

    /// Fires when everything is passed on after [`Self::finish`], or when writing failed.
    pub fn event(&self) -> &EventFd {
        &self.0.event
    }

    /// While set, writers never wait for room, so that a vCPU can always be stopped. At most one
    /// access of each vCPU is added meanwhile.
    pub fn set_unbounded(&self, unbounded: bool) {
        self.0.lock().unbounded = unbounded;
        self.0.emptied.notify_all();
    }

    /// The first error of writing to the descriptor, once. What it did not take is lost.
    pub fn take_error(&self) -> Option<io::Error> {
        self.0.lock().error.take()
    }

    /// No more bytes come, but those that are in a [pipe](Self::carry). Returns whether all are passed on already; if
    /// not, [`Self::event`] tells.
    pub fn finish(&self) -> bool {
        let mut state = self.0.lock();
        state.finishing = true;
        if let Some(carrying) = &state.carrying {
            let _ = rustix::io::write(carrying, &1u64.to_ne_bytes());
        }
        self.0.filled.notify_all();
        self.0.urgent.notify_all();
        let drained = self.0.is_drained(&state);
        drop(state);
        if drained {
            self.0.ring.close();
        }
        drained
    }

    /// Whether nothing is left to pass on.
    pub fn is_drained(&self) -> bool {
        self.0.is_drained(&self.0.lock())
    }

    /// After [`finish`](Self::finish), gives those who keep what the guest says a moment to take what is left.
    pub fn settle(&self, patience: Duration) {
        let began = Instant::now();
        while self.0.ring.has_keeper() && !self.is_drained() && began.elapsed() < patience {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Passes on what comes through `pipe` (O_NONBLOCK) too, from a thread that ends after [`finish`](Self::finish),
    /// once the pipe is empty.
    ///
    /// # Errors
    ///
    /// The kernel's answer when it gives no eventfd or no thread.
    pub fn carry(&self, pipe: OwnedFd) -> io::Result<()> {
        let end = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        self.0.lock().carrying = Some(Arc::clone(&end));
        let output = self.clone();
        let body = move || output.carry_all(&pipe, &end);
        Start::new(Role::Console, "console-port").run(body).map(drop)
    }

    fn carry_all(&self, pipe: &OwnedFd, end: &OwnedFd) {
        let mut bytes = vec![0; PIPE_CHUNK];
        loop {
            // Asked before the pipe is looked at: what was written before the end is in it then.
            let finishing = self.0.lock().finishing;
            match rustix::io::read(pipe, &mut bytes) {
                // What a device can put into the pipe has no bound: this waits for room in any case.
                Ok(count @ 1..) if self.append(&bytes[..count], true).is_ok() => {}
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) if !finishing => {
                    let watch = |fd| PollFd::new(fd, PollFlags::IN);
                    let _ = poll(&mut [watch(pipe), watch(end)], None);
                }
                _ => break,
            }
        }
        let mut state = self.0.lock();
        state.carrying = None;
        let nobody_else = state.writer.is_none();
        drop(state);
        self.0.filled.notify_all();
        if nobody_else {
            self.0.end();
        }
    }

    /// Adds bytes once there is room; `always`: even while others need not wait for it.
    fn append(&self, bytes: &[u8], always: bool) -> io::Result<()> {
        let mut state = self.0.lock();
        while state.buffer.len() >= CAPACITY && (always || !state.unbounded) {
            self.0.urgent.notify_all();
            state = self.0.emptied.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        // A writer that has not taken the bytes before these yet needs no second call.
        let wake = state.buffer.is_empty();
        state.buffer.extend_from_slice(bytes);
        if state.writer.is_none() {
            let shared = Arc::clone(&self.0);
            let writer = Start::new(Role::Console, "console").run(move || shared.run())?;
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
        self.append(bytes, false).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_drained(&self, state: &State) -> bool {
        let passing = !state.buffer.is_empty() || state.writing || state.carrying.is_some();
        !passing && self.ring.is_kept()
    }

    fn run(&self) {
        let mut bytes = Vec::with_capacity(CAPACITY);
        let mut told = false;
        loop {
            let mut state = self.next_bytes();
            if state.buffer.is_empty() {
                drop(state);
                return self.end();
            }
            mem::swap(&mut bytes, &mut state.buffer);
            state.writing = true;
            drop(state);
            self.emptied.notify_all();
            self.ring.push(&bytes);
            let failed = self.target.as_ref().and_then(|target| write_all(target, &bytes).err());
            bytes.clear();
            let mut state = self.lock();
            state.writing = false;
            // A disk that is full may have room for what comes later, so that is tried.
            if let Some(error) = failed.filter(|_| !mem::replace(&mut told, true)) {
                state.error = Some(error);
                drop(state);
                self.notify();
            }
        }
    }

    /// Waits for bytes, and a little for more. There are none at the end.
    fn next_bytes(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        while state.buffer.is_empty() && !(state.finishing && state.carrying.is_none()) {
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.finishing {
            return state;
        }
        let early = |state: &mut State| !state.finishing && state.buffer.len() < CAPACITY;
        let waited = self.urgent.wait_timeout_while(state, LINGER, early);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn end(&self) {
        self.ring.close();
        self.notify();
    }

    fn notify(&self) {
        if let Err(error) = self.event.write(1) {
            tracing::error!("the end of console output cannot be signalled: {error}");
        }
    }
}

fn write_all(target: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(target, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(rustix::io::Errno::INTR) => {}
            // The descriptor is shared with other processes, one of which made it non-blocking.
            Err(rustix::io::Errno::AGAIN) => {
                poll(&mut [PollFd::new(target, PollFlags::OUT)], None)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "output_test.rs"]
mod output_test;
