//! One client's connection: from bytes to requests, from responses to bytes, without ever waiting.
//!
//! One request at a time is worked on. Those that a client sends meanwhile wait in the socket, so that
//! a connection never holds more than one request and one response.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use vmm_sys_util::eventfd::EventFd;

use super::http::{self, Parsed, Request, Response};
use super::problem::{Kind, Problem};
use super::server::{Awaited, Handled, Limits, Service};
use super::stream::Flow;
use crate::command::Refusal;

mod streaming;

use self::streaming::Streaming;

/// How much is read at once.
const CHUNK: usize = 4096;

/// Most bytes thrown away of a client that goes on sending after it was refused.
const MOST_DRAINED: usize = 1 << 20;

/// What a connection waits for.
#[derive(Debug)]
enum State {
    /// A request.
    Reading,
    /// The answer to one.
    Waiting(Awaited),
    /// The client, to take the response.
    Writing,
    /// Either side, to go on.
    Streaming(Streaming),
    /// The client, to close: its request was refused half-way. Closing at once would take the response
    /// away from it along with what it still sends.
    Draining(usize),
}

/// Whether a connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It waits for its socket, an answer or its deadline.
    Keep,
    /// It is over.
    Close,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    socket: UnixStream,
    state: State,
    limits: Limits,
    input: Vec<u8>,
    /// With fewer bytes than these it is not worth looking at the input.
    needed: usize,
    output: Vec<u8>,
    sent: usize,
    /// When the client or the answer has had its time.
    deadline: Instant,
    /// Whether a response was sent: nobody loses a request if it is closed now.
    served: bool,
    continued: bool,
    keep_alive: bool,
    head_only: bool,
}

impl Connection {
    /// A connection on a socket that does not block.
    pub fn new(socket: UnixStream, limits: Limits, now: Instant) -> Self {
        Self {
            socket,
            state: State::Reading,
            limits,
            input: Vec::new(),
            needed: 1,
            output: Vec::new(),
            sent: 0,
            deadline: now + limits.request,
            served: false,
            continued: false,
            keep_alive: true,
            head_only: false,
        }
    }

    /// Refuses whoever is there before hearing them.
    pub fn refuse(&mut self, problem: Problem, now: Instant) {
        self.keep_alive = false;
        self.respond(&problem.response(), now);
    }

    /// What of its socket it waits for.
    pub fn interest(&self) -> PollFlags {
        match &self.state {
            State::Reading | State::Draining(_) => PollFlags::IN,
            // The end of the client is always told.
            State::Waiting(_) => PollFlags::empty(),
            State::Writing => PollFlags::OUT,
            State::Streaming(streaming) => {
                let heard = streaming.hears() && self.input.is_empty();
                let input = if heard { PollFlags::IN } else { PollFlags::empty() };
                let output = if self.has_output() { PollFlags::OUT } else { PollFlags::empty() };
                input | output
            }
        }
    }

    fn has_output(&self) -> bool {
        self.sent < self.output.len()
    }

    /// When it needs a look even if nothing happens; never while a stream pauses.
    pub fn deadline(&self) -> Option<Instant> {
        let pauses = matches!(self.state, State::Streaming(_)) && !self.has_output();
        (!pauses && !self.is_patient()).then_some(self.deadline)
    }

    fn is_patient(&self) -> bool {
        matches!(&self.state, State::Streaming(streaming) if streaming.stream.is_patient())
    }

    /// Whether there is something to do without waiting: a request that came along with the one before, or
    /// more of a stream.
    pub fn has_work(&self) -> bool {
        match &self.state {
            State::Reading => self.input.len() >= self.needed,
            State::Streaming(streaming) => streaming.flow == Flow::More && !self.has_output(),
            _ => false,
        }
    }

    /// Whether it may go on when the server is woken.
    pub fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting(_) | State::Streaming(_))
    }

    /// Whether it waits for a next request that has not begun.
    pub fn is_idle(&self) -> bool {
        self.served && matches!(self.state, State::Reading) && self.input.is_empty()
    }

    /// Whether it has a response that the client has not taken.
    pub fn owes(&self) -> bool {
        matches!(self.state, State::Waiting(_) | State::Writing | State::Streaming(_))
    }

    /// Does what can be done now. `ready` is what poll(2) said of the socket.
    pub fn step(
        &mut self,
        ready: PollFlags,
        now: Instant,
        service: &mut dyn Service,
        wake: &Arc<EventFd>,
    ) -> Fate {
        let gone = ready.intersects(PollFlags::HUP | PollFlags::ERR);
        if gone && self.is_waiting() {
            self.hear_last_words();
            return Fate::Close;
        }
        loop {
            let next = match &mut self.state {
                State::Reading => self.read(now, service, wake),
                State::Waiting(awaited) => match awaited.take() {
                    Some(response) => {
                        self.respond(&response, now);
                        Ok(None)
                    }
                    None if now >= self.deadline => {
                        let patience = awaited.patience.unwrap_or(self.limits.answer).as_secs();
                        let problem = Problem::from(Refusal::Timeout(patience));
                        self.respond(&problem.response(), now);
                        Ok(None)
                    }
                    None => Ok(Some(Fate::Keep)),
                },
                State::Writing => self.write(now),
                State::Streaming(_) => self.stream(now),
                State::Draining(_) => self.drain(now),
            };
            match next {
                Ok(None) => {}
                Ok(Some(fate)) => return fate,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Fate::Keep,
                Err(_) => return Fate::Close,
            }
        }
    }

    /// Takes a request, as far as it has come.
    fn read(
        &mut self,
        now: Instant,
        service: &mut dyn Service,
        wake: &Arc<EventFd>,
    ) -> rustix::io::Result<Option<Fate>> {
        if self.input.len() >= self.needed {
            match http::parse(&self.input, self.limits.bounds) {
                Ok(Parsed::Request(request, length)) => {
                    self.input.drain(..length);
                    self.handle(&request, now, service, wake);
                    return Ok(None);
                }
                Ok(Parsed::Partial { needed, expects_continue }) => {
                    self.needed = needed;
                    if expects_continue && !self.continued {
                        self.continued = true;
                        // Nothing else is on its way, so there is room for these bytes.
                        self.send(b"HTTP/1.1 100 Continue\r\n\r\n")?;
                    }
                }
                Err(problem) => {
                    self.refuse(problem, now);
                    return Ok(None);
                }
            }
        }
        if now >= self.deadline {
            return Ok(self.late(now));
        }
        let before = self.input.len();
        self.input.resize(before + CHUNK, 0);
        let received = recv(&self.socket, &mut self.input[before..], RecvFlags::empty());
        let count = received.as_ref().map_or(0, |received| received.0);
        self.input.truncate(before + count);
        if self.input.is_empty() {
            self.input = Vec::new();
        } else if before == 0 {
            self.deadline = now + self.limits.request;
        }
        received?;
        Ok(if count == 0 { Some(Fate::Close) } else { None })
    }

    /// What becomes of a client whose request has not come in time.
    fn late(&mut self, now: Instant) -> Option<Fate> {
        if self.input.is_empty() {
            return Some(Fate::Close);
        }
        let seconds = self.limits.request.as_secs();
        let detail = format!("a request must come whole within {seconds} seconds");
        self.refuse(Problem::new(Kind::Slow, detail), now);
        None
    }

    fn handle(
        &mut self,
        request: &Request,
        now: Instant,
        service: &mut dyn Service,
        wake: &Arc<EventFd>,
    ) {
        (self.needed, self.continued) = (1, false);
        self.keep_alive = request.keep_alive;
        self.head_only = request.method == http::Method::Head;
        match service.handle(request, wake) {
            Ok(Handled::Now(response)) => self.respond(&response, now),
            Ok(Handled::Later(awaited)) => {
                self.deadline = now + awaited.patience.unwrap_or(self.limits.answer);
                self.state = State::Waiting(awaited);
            }
            Ok(Handled::Stream(response, stream)) => {
                // It ends with the connection.
                self.keep_alive = false;
                self.put_out(response.encode_head(), now);
                if !self.head_only {
                    let (flow, deaf) = (Flow::More, false);
                    self.state = State::Streaming(Streaming { stream, flow, deaf });
                }
            }
            Err(problem) => self.respond(&problem.response(), now),
        }
    }

    fn respond(&mut self, response: &Response, now: Instant) {
        self.put_out(response.encode(self.head_only, self.keep_alive), now);
    }

    fn put_out(&mut self, bytes: Vec<u8>, now: Instant) {
        (self.output, self.sent) = (bytes, 0);
        self.deadline = now + self.limits.request;
        self.state = State::Writing;
    }

    /// Sends what there is to send, as much as the socket takes; how much, and nothing once all is sent.
    fn send_output(&mut self, now: Instant) -> rustix::io::Result<ControlFlow<Fate, usize>> {
        if !self.has_output() {
            return Ok(ControlFlow::Continue(0));
        }
        match self.send(&self.output[self.sent..]) {
            Ok(count) => {
                self.sent += count;
                Ok(ControlFlow::Continue(count))
            }
            Err(Errno::AGAIN) if now >= self.deadline && !self.is_patient() => {
                Ok(ControlFlow::Break(Fate::Close))
            }
            Err(error) => Err(error),
        }
    }

    fn write(&mut self, now: Instant) -> rustix::io::Result<Option<Fate>> {
        match self.send_output(now)? {
            ControlFlow::Break(fate) => return Ok(Some(fate)),
            ControlFlow::Continue(0) => {}
            ControlFlow::Continue(_) => return Ok(None),
        }
        // An idle connection holds no memory.
        (self.output, self.sent, self.served) = (Vec::new(), 0, true);
        self.head_only = false;
        if !self.keep_alive {
            return Ok(self.bid_farewell(now));
        }
        self.state = State::Reading;
        if self.input.is_empty() {
            self.input = Vec::new();
            self.deadline = now + self.limits.idle;
            return Ok(None);
        }
        self.deadline = now + self.limits.request;
        // The others have their turn first.
        Ok(Some(Fate::Keep))
    }

    /// Sends nothing more, and waits for the client to have read everything.
    fn bid_farewell(&mut self, now: Instant) -> Option<Fate> {
        let _ = shutdown(&self.socket, Shutdown::Write);
        (self.input, self.output, self.sent) = (Vec::new(), Vec::new(), 0);
        self.state = State::Draining(MOST_DRAINED);
        self.deadline = now + self.limits.farewell;
        None
    }

    fn drain(&mut self, now: Instant) -> rustix::io::Result<Option<Fate>> {
        let State::Draining(left) = &mut self.state else { return Ok(Some(Fate::Close)) };
        if now >= self.deadline || *left == 0 {
            return Ok(Some(Fate::Close));
        }
        let mut discarded = [0; CHUNK];
        let (count, _) = recv(&self.socket, &mut discarded[..], RecvFlags::empty())?;
        *left = left.saturating_sub(count);
        Ok(if count == 0 { Some(Fate::Close) } else { None })
    }

    /// A client that has gone is an error, not a signal.
    fn send(&self, bytes: &[u8]) -> rustix::io::Result<usize> {
        send(&self.socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
