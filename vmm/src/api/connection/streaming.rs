//! Responses that go on: a chunk at a time to the client, and what it sends meanwhile to their source.

use std::ops::ControlFlow;
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::{CHUNK, Connection, Fate, State};
use crate::api::stream::{Flow, Stream};

/// A response that goes on.
#[derive(Debug)]
pub(super) struct Streaming {
    pub(super) stream: Box<dyn Stream>,
    /// What comes after the output there is.
    pub(super) flow: Flow,
    /// The client sends nothing any more.
    pub(super) deaf: bool,
}

impl Streaming {
    /// Whether the client may have something to say.
    pub(super) fn hears(&self) -> bool {
        self.stream.has_input() && !self.deaf
    }
}

impl Connection {
    /// Goes on with a stream: a chunk at a time, and a client has as long for each as for a response.
    pub(super) fn stream(&mut self, now: Instant) -> rustix::io::Result<Option<Fate>> {
        self.hear()?;
        match self.send_output(now)? {
            ControlFlow::Break(fate) => return Ok(Some(fate)),
            ControlFlow::Continue(0) => {}
            ControlFlow::Continue(_) => {
                // The others have their turn before the next chunk.
                return Ok(if self.has_work() { Some(Fate::Keep) } else { None });
            }
        }
        let State::Streaming(streaming) = &mut self.state else { return Ok(None) };
        if streaming.flow == Flow::End {
            return Ok(self.bid_farewell(now));
        }
        (self.output, self.sent) = (Vec::new(), 0);
        streaming.flow = streaming.stream.next(&mut self.output);
        self.deadline = now + self.limits.request;
        Ok(match streaming.flow {
            Flow::Lost => Some(Fate::Close),
            Flow::Pause if self.output.is_empty() => Some(Fate::Keep),
            _ => None,
        })
    }

    /// Passes on what the client of a stream sends.
    fn hear(&mut self) -> rustix::io::Result<()> {
        let State::Streaming(streaming) = &mut self.state else { return Ok(()) };
        if streaming.hears() && self.input.is_empty() {
            self.input.resize(CHUNK, 0);
            let received = recv(&self.socket, &mut self.input[..], RecvFlags::empty());
            let count = received.as_ref().map_or(0, |received| received.0);
            self.input.truncate(count);
            match received {
                Ok(_) => streaming.deaf = count == 0,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        let count = streaming.stream.feed(&self.input).min(self.input.len());
        self.input.drain(..count);
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        Ok(())
    }

    /// Passes on what a client sent before it went away, as far as there is room for it.
    pub(super) fn hear_last_words(&mut self) {
        while self.hear().is_ok() {
            let State::Streaming(streaming) = &self.state else { return };
            if !streaming.hears() || !self.input.is_empty() {
                return;
            }
        }
    }
}
