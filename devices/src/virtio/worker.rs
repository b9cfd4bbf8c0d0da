//! A thread that owns a device's data path: its handler, with queues and whatever they are served
//! from, goes in when the device is activated and comes back when it is stopped.

#![allow(unsafe_code)] // Borrows descriptors of a library's type.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use vmm_sys_util::eventfd::EventFd;

use super::queue::{Broken, Queue};
use crate::thread::{Role, Start};

/// What a worker thread does.
pub trait Handler: Send + 'static {
    /// Serves until `stop` becomes readable, then returns once nothing is in flight any more, or
    /// after a bounded time. Must look at its queues once before it first waits. What a guest does
    /// must not make it return early: a handler whose queue broke waits for `stop`.
    fn run(&mut self, stop: &EventFd);
}

/// A running thread with its handler. Dropped, it stops the thread as [`stop`](Self::stop) does.
#[derive(Debug)]
pub struct Worker<H> {
    /// None once stopped.
    thread: Option<JoinHandle<H>>,
    stop: Arc<EventFd>,
}

impl<H: Handler> Worker<H> {
    /// Starts a thread called `name` (at most 15 bytes show in the host's tools).
    ///
    /// # Errors
    ///
    /// The host has no more threads or descriptors; the handler is lost.
    pub fn start(role: Role, name: String, handler: H) -> io::Result<Self> {
        Self::start_with(role, name, || Ok(handler))
    }

    /// The same of a handler that `make` makes on the thread, before it is confined to what its role
    /// needs.
    ///
    /// # Errors
    ///
    /// Also those of `make`.
    pub fn start_with(
        role: Role,
        name: String,
        make: impl FnOnce() -> io::Result<H> + Send + 'static,
    ) -> io::Result<Self> {
        let stop = Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
        let until = Arc::clone(&stop);
        let body = move |mut handler: H| {
            handler.run(&until);
            handler
        };
        let thread = Start::new(role, name).run_with(make, body)?;
        Ok(Self { thread: Some(thread), stop })
    }
}

impl<H> Worker<H> {
    /// Stops the thread and takes its handler back; none if it panicked, which is reported. The
    /// driver has been told to reset the device by then, as the handler's [`Queue`]s were dropped.
    pub fn stop(mut self) -> Option<H> {
        self.join()
    }

    fn join(&mut self) -> Option<H> {
        let thread = self.thread.take()?;
        // The counter cannot overflow by one write.
        let _ = self.stop.write(1);
        let name = thread.thread().name().unwrap_or_default().to_owned();
        let handler = thread.join();
        if handler.is_err() {
            tracing::error!("the thread {name} panicked: this is a bug in Carve, please report it");
        }
        handler.ok()
    }
}

impl<H> Drop for Worker<H> {
    fn drop(&mut self) {
        self.join();
    }
}

/// The loop of a handler with a single queue: calls `serve` once at first and then whenever the
/// queue's doorbell rings, until `stop`. After `serve` found the queue broken it is not called again.
///
/// `serve` must return after a bounded number of requests, or a driver that never runs out of them
/// keeps the thread from being stopped: see [`Queue::ring_doorbell`].
pub fn serve_until<T>(
    stop: &EventFd,
    handler: &mut T,
    queue: fn(&T) -> &Queue,
    mut serve: impl FnMut(&mut T) -> Result<(), Broken>,
) {
    let mut broken = false;
    loop {
        if !broken && let Err(why) = serve(handler) {
            queue(handler).fail(why);
            broken = true;
        }
        let doorbell = queue(handler).doorbell();
        let [stopped, _] = wait_readable([stop, doorbell]);
        if stopped {
            return;
        }
        let _ = doorbell.read();
    }
}

/// Waits until at least one of the counters is not zero, and tells which are.
pub fn wait_readable<const N: usize>(events: [&EventFd; N]) -> [bool; N] {
    let mut fds = events.map(|event| {
        // SAFETY: the descriptor is open as long as `event` is borrowed.
        let fd = unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) };
        PollFd::from_borrowed_fd(fd, PollFlags::IN)
    });
    // Interrupted by a signal, or out of kernel memory: looked at again by the caller's loop.
    let _ = poll(&mut fds, None);
    fds.map(|fd| !fd.revents().is_empty())
}

#[cfg(test)]
#[path = "worker_test.rs"]
mod worker_test;
