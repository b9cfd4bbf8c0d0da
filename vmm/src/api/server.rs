//! The thread that serves a control interface: accepts, polls, and gives every connection its turn.
//!
//! It waits for nothing but its poll(2). What there is to serve is a [`Service`]'s; one connection is in
//! `connection`.

use std::fmt;
use std::io;
use std::mem;
use std::os::fd::BorrowedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use devices::thread::{Role, Start};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use vmm_sys_util::eventfd::EventFd;

use super::connection::{Connection, Fate};
use super::http::{Bounds, Request, Response};
use super::problem::Problem;
use super::socket::check_peer;
use super::stream::Stream;
use crate::command::{Pending, Reply};
use crate::descriptor::descriptor;

/// Stack of the thread in bytes. JSON of a hostile client nests at most 128 deep (serde_json).
const STACK: usize = 128 << 10;

/// How long nobody is accepted when the host has no descriptor or memory for one.
const SHORTAGE: Duration = Duration::from_millis(100);

/// How long clients have to take their last response when the server ends.
const LAST_RESPONSES: Duration = Duration::from_millis(100);

/// What is served.
pub trait Service: Send {
    /// Answers a request without waiting for anything. An answer that comes later writes to `wake`.
    ///
    /// # Errors
    ///
    /// Why it is refused.
    fn handle(&mut self, request: &Request, wake: &Arc<EventFd>) -> Result<Handled, Problem>;

    /// Whether it still works on something that a client asked for, even if that client is gone.
    fn is_busy(&self) -> bool {
        false
    }
}

/// How a request is answered.
#[derive(Debug)]
pub enum Handled {
    /// At once.
    Now(Response),
    /// When it is there.
    Later(Awaited),
    /// With a response whose body is the stream; its own is left out.
    Stream(Response, Box<dyn Stream>),
}

/// A response that is not there yet.
pub struct Awaited {
    take: Box<dyn FnMut() -> Option<Response> + Send>,
    /// How long it is waited for, if not as long as [`Limits::answer`].
    pub(super) patience: Option<Duration>,
}

impl Awaited {
    /// What `take` gives once it gives something. It does not wait, and is asked again when the server is woken.
    pub fn new(take: impl FnMut() -> Option<Response> + Send + 'static) -> Self {
        Self { take: Box::new(take), patience: None }
    }

    /// What `respond` makes of the main loop's replies to `pending`, in their order.
    pub fn replies(pending: Vec<Pending>, respond: fn(Vec<Reply>) -> Response) -> Self {
        let mut replies = Vec::new();
        Self::new(move || {
            while let Some(next) = pending.get(replies.len()) {
                replies.push(next.take()?);
            }
            Some(respond(mem::take(&mut replies)))
        })
    }

    /// The same, waited for so long.
    #[must_use]
    pub fn within(self, patience: Duration) -> Self {
        Self { patience: Some(patience), ..self }
    }

    /// The response, if it is there.
    pub(super) fn take(&mut self) -> Option<Response> {
        (self.take)()
    }
}

impl fmt::Debug for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Awaited").field("patience", &self.patience).finish_non_exhaustive()
    }
}

/// What clients can take of the server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a request.
    pub bounds: Bounds,
    /// Connections; further ones wait in the socket's backlog.
    pub connections: usize,
    /// For a request to come whole, and for a response to be taken.
    pub request: Duration,
    /// For the next request to begin.
    pub idle: Duration,
    /// For an answer that comes later.
    pub answer: Duration,
    /// For a refused client to stop sending.
    pub farewell: Duration,
    /// Without clients and work for so long, the server ends; never if there is nothing here.
    pub alone: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bounds: Bounds { head: 8 << 10, body: 64 << 10 },
            connections: 64,
            request: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            answer: Duration::from_secs(10),
            farewell: Duration::from_secs(2),
            alone: None,
        }
    }
}

/// A control interface being served. Ends with this value.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    wake: Arc<EventFd>,
    over: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves `service` to whoever connects to `listener`, on a thread of its own.
    ///
    /// # Errors
    ///
    /// The host has no more threads or descriptors.
    pub fn start(
        listener: UnixListener,
        service: impl Service + 'static,
        limits: Limits,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let wake = Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
        let stop = Arc::new(AtomicBool::new(false));
        let mut serving = Serving {
            listener,
            service: Box::new(service),
            limits,
            connections: Vec::new(),
            wake: Arc::clone(&wake),
            accept_again: None,
            alone_since: Instant::now(),
        };
        let over = Arc::new(EventFd::new(libc::EFD_CLOEXEC)?);
        let (stopped, ended) = (Arc::clone(&stop), End(Arc::clone(&over)));
        let body = move || {
            let _ended = ended;
            serving.run(&stopped);
        };
        let thread = Start::new(Role::Api, "api").stack(STACK).run(body)?;
        Ok(Self { stop, wake, over, thread: Some(thread) })
    }

    /// Readable once nothing is served any more.
    pub fn over(&self) -> BorrowedFd<'_> {
        descriptor(&self.over)
    }
}

/// Tells of the thread's end, however it comes.
struct End(Arc<EventFd>);

impl Drop for End {
    fn drop(&mut self) {
        let _ = self.0.write(1);
    }
}

impl Drop for Server {
    /// Ends the thread once clients have taken the responses that are due, or had a moment to.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.wake.write(1);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(
                "the control interface panicked: this is a bug in Carve, please report it"
            );
        }
    }
}

/// The thread's own.
struct Serving {
    listener: UnixListener,
    service: Box<dyn Service>,
    limits: Limits,
    connections: Vec<Connection>,
    wake: Arc<EventFd>,
    /// Until then nobody is accepted, for want of descriptors.
    accept_again: Option<Instant>,
    /// When there last was a client or work.
    alone_since: Instant,
}

impl Serving {
    fn run(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            let Some(ready) = self.poll(self.patience()) else { return };
            if !self.connections.is_empty() || self.service.is_busy() {
                self.alone_since = Instant::now();
            }
            self.turn(&ready);
            self.accept(&ready);
            if self.has_been_alone_for_long() {
                return;
            }
        }
        let until = Instant::now() + LAST_RESPONSES;
        self.accept_again = Some(until + LAST_RESPONSES);
        loop {
            // First a look without waiting: most responses fit into the socket.
            self.turn(&[]);
            self.connections.retain(Connection::owes);
            let left = until.saturating_duration_since(Instant::now());
            if self.connections.is_empty() || left.is_zero() || self.poll(Some(left)).is_none() {
                return;
            }
        }
    }

    /// How long nothing has to be done unless something happens; none for ever.
    fn patience(&self) -> Option<Duration> {
        if self.connections.iter().any(Connection::has_work) {
            return Some(Duration::ZERO);
        }
        let deadlines = self.connections.iter().filter_map(Connection::deadline);
        let alone = self.limits.alone.filter(|_| self.connections.is_empty());
        let alone = alone.map(|alone| self.alone_since + alone);
        let first = deadlines.chain(self.accept_again).chain(alone).min()?;
        Some(first.saturating_duration_since(Instant::now()))
    }

    /// Whether neither clients nor work have been there for as long as the server lives without them.
    fn has_been_alone_for_long(&self) -> bool {
        let long = self.limits.alone.is_some_and(|alone| self.alone_since.elapsed() >= alone);
        long && self.connections.is_empty()
    }

    /// Waits, and says what each connection's socket is ready for, and the listener's at the end.
    /// None if the kernel cannot.
    fn poll(&self, patience: Option<Duration>) -> Option<Vec<PollFlags>> {
        let accepting = match self.accept_again {
            None if self.has_room() => PollFlags::IN,
            _ => PollFlags::empty(),
        };
        let mut fds: Vec<_> = self
            .connections
            .iter()
            .map(|connection| PollFd::new(connection, connection.interest()))
            .chain([
                PollFd::new(&self.listener, accepting),
                PollFd::from_borrowed_fd(descriptor(&self.wake), PollFlags::IN),
            ])
            .collect();
        let timeout = patience.and_then(|patience| Timespec::try_from(patience).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                tracing::error!("the control interface ends, as it cannot wait: {error}");
                return None;
            }
        }
        let _ = self.wake.read();
        fds.pop();
        Some(fds.iter().map(PollFd::revents).collect())
    }

    /// Gives every connection that can do something its turn. Without `ready` all are tried.
    fn turn(&mut self, ready: &[PollFlags]) {
        let now = Instant::now();
        let (service, wake) = (&mut *self.service, &self.wake);
        let mut at = 0;
        self.connections.retain_mut(|connection| {
            let ready = ready.get(at).copied().unwrap_or(connection.interest());
            at += 1;
            let due = connection.is_waiting() || connection.has_work();
            let due =
                due || !ready.is_empty() || connection.deadline().is_some_and(|end| end <= now);
            !due || connection.step(ready, now, service, wake) == Fate::Keep
        });
    }

    /// Whether one more can be accepted: there is room, or can be made.
    fn has_room(&self) -> bool {
        self.connections.len() < self.limits.connections
            || self.connections.iter().any(Connection::is_idle)
    }

    /// Accepts whoever waits. `ready` ends with the listener.
    fn accept(&mut self, ready: &[PollFlags]) {
        let now = Instant::now();
        if self.accept_again.is_some_and(|time| time <= now) {
            self.accept_again = None;
        }
        if !ready.last().is_some_and(|listener| listener.contains(PollFlags::IN)) {
            return;
        }
        while self.has_room() {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match accept_with(&self.listener, flags) {
                Ok(socket) => self.welcome(socket.into(), now),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => return,
                Err(error) => {
                    tracing::warn!("a client of the control interface has to wait: {error}");
                    self.accept_again = Some(now + SHORTAGE);
                    return;
                }
            }
        }
    }

    fn welcome(&mut self, socket: UnixStream, now: Instant) {
        if self.connections.len() >= self.limits.connections {
            // The one that has been idle for longest goes; its client expects that sooner or later.
            let idle = self.connections.iter().enumerate().filter(|(_, one)| one.is_idle());
            let Some((oldest, _)) = idle.min_by_key(|(_, one)| one.deadline()) else { return };
            self.connections.swap_remove(oldest);
        }
        let peer = check_peer(&socket);
        let mut connection = Connection::new(socket, self.limits, now);
        if let Err(problem) = peer {
            connection.refuse(problem, now);
        }
        self.connections.push(connection);
    }
}

#[cfg(test)]
#[path = "server_test.rs"]
mod server_test;
