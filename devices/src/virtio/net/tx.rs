//! Sending: frames from the chains of a transmit queue to the back end, straight from guest buffers.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::backend::Port;
use super::header;
use super::moderation::Moderation;
use super::state::Shared;
use super::worker::{BATCH, Wait};
use crate::token_bucket::RECHECK;
use crate::virtio::chain::Chain;
use crate::virtio::queue::{Broken, Queue};

/// Frames handed to the back end at once, which some send by one call.
const AHEAD: usize = 32;
/// Bytes after which the driver gets back what was sent, while the rest is sent: copying them takes longer than that.
const PIECE: usize = 64 << 10;

/// Serves one transmit queue.
pub(super) struct Transmitter {
    queue: Queue,
    pair: u16,
    /// Chains taken off the queue come first, in their order. They are kept while they wait: read again,
    /// they might be longer than what the rate limit let through.
    chains: Box<[Chain]>,
    /// How many those are, and how many of them the rate limit has let through.
    popped: usize,
    admitted: usize,
    /// Used entries that the driver cannot see yet.
    staged: u16,
    moderation: Moderation,
    shared: Arc<Shared>,
}

impl Transmitter {
    pub(super) fn new(queue: Queue, pair: u16, shared: Arc<Shared>) -> Self {
        let chains = (0..AHEAD).map(|_| queue.chain()).collect();
        let moderation = Moderation::new();
        Self { pair, chains, popped: 0, admitted: 0, staged: 0, moderation, shared, queue }
    }

    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    pub(super) fn queue_mut(&mut self) -> &mut Queue {
        &mut self.queue
    }

    /// Gives the queue back as if the chains that wait had never been taken.
    pub(super) fn into_queue(mut self) -> Queue {
        self.settle();
        self.queue
    }

    /// Makes the queue what [`into_queue`](Self::into_queue) gives back.
    pub(super) fn settle(&mut self) {
        if let Some(limit) = &self.shared.send_limit {
            limit.leave(self.pair);
        }
        for _ in 0..self.popped {
            self.queue.undo_pop();
        }
        (self.popped, self.admitted) = (0, 0);
    }

    /// Sends some frames; what to wait for before the next.
    pub(super) fn serve(&mut self, port: &mut dyn Port) -> Result<Wait, Broken> {
        if let Some(time) = self.moderation.early() {
            return Ok(Wait::Time(time));
        }
        self.queue.disable_doorbell();
        let mut done = 0;
        let wait = self.send_batch(port, &mut done);
        // Before a broken chain may have come good ones.
        self.publish();
        self.queue.signal();
        wait
    }

    fn publish(&mut self) {
        self.queue.publish(std::mem::take(&mut self.staged));
    }

    fn send_batch(&mut self, port: &mut dyn Port, done: &mut u16) -> Result<Wait, Broken> {
        let most = self.queue.size().min(BATCH);
        while *done < most {
            let next = self.take(usize::from(most - *done));
            // What came before a broken chain, or one that has to wait, goes first.
            if let Err(wait) = self.send(port, done) {
                return Ok(wait);
            }
            match next? {
                Wait::Nothing => {}
                Wait::Doorbell if let Some(time) = self.moderation.emptied(*done) => {
                    return Ok(Wait::Time(time));
                }
                Wait::Doorbell if self.queue.enable_doorbell()? => return Ok(Wait::Nothing),
                wait => return Ok(wait),
            }
        }
        self.moderation.sent(*done);
        Ok(Wait::Nothing)
    }

    /// Takes up to `most` chains that may go; what to wait for if there are fewer.
    fn take(&mut self, most: usize) -> Result<Wait, Broken> {
        loop {
            if self.admitted == self.popped {
                if self.popped >= most.min(AHEAD) {
                    return Ok(Wait::Nothing);
                }
                if !self.queue.pop(&mut self.chains[self.popped])? {
                    return Ok(Wait::Doorbell);
                }
                self.popped += 1;
            }
            let frame = &self.chains[self.admitted];
            if frame_len(frame).is_ok_and(|_| self.shared.link.is_up())
                && let Some(limit) = &self.shared.send_limit
            {
                let len = (frame.readable_len() - header::LEN) as u64;
                if let Err(wait) = limit.take(self.pair, Instant::now(), len) {
                    return Ok(Wait::Time(wait.min(RECHECK)));
                }
            }
            self.admitted += 1;
        }
    }

    /// Sends the admitted frames or drops them; an error if they have to wait or the back end is gone.
    fn send(&mut self, port: &mut dyn Port, done: &mut u16) -> Result<(), Wait> {
        let mut sent = 0;
        let mut result = Ok(());
        while sent < self.admitted && result.is_ok() {
            let from = sent;
            match self.send_some(port, piece(&self.chains[sent..self.admitted])) {
                Ok(count) => sent += count,
                // The frame goes with the back end.
                Err(wait @ Wait::Gone(_)) => (sent, result) = (sent + 1, Err(wait)),
                Err(wait) => result = Err(wait),
            }
            for chain in &self.chains[from..sent] {
                self.queue.stage(self.staged, chain.head(), 0);
                self.staged += 1;
                *done += 1;
            }
            if sent < self.admitted {
                self.publish();
            }
        }
        if sent < self.popped {
            self.chains[..self.popped].rotate_left(sent);
        }
        self.popped -= sent;
        self.admitted -= sent;
        result
    }

    /// Sends or drops the first frames; how many, one at least.
    fn send_some(&self, port: &mut dyn Port, frames: &[Chain]) -> Result<usize, Wait> {
        let counters = self.shared.counters.of(self.pair);
        if let Some(Err(len)) = frames.first().map(frame_len) {
            counters.malformed.add(1);
            if let Some(suppressed) = self.shared.log.admit() {
                tracing::warn!(suppressed, "net: the guest sent a frame of {len} bytes; dropped");
            }
            return Ok(1);
        }
        if !self.shared.link.is_up() {
            counters.send_dropped.add(1);
            return Ok(1);
        }
        let good = frames.iter().take_while(|frame| frame_len(frame).is_ok()).count();
        match port.send(&frames[..good]) {
            Ok(sent) => {
                let sent = sent.clamp(1, good);
                counters.sent_frames.add(sent as u64);
                let bytes = frames[..sent].iter().map(|frame| frame.readable_len() - header::LEN);
                counters.sent_bytes.add(bytes.sum::<usize>() as u64);
                Ok(sent)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => Err(Wait::Port),
                io::ErrorKind::Interrupted => Err(Wait::Nothing),
                kind => {
                    counters.send_dropped.add(1);
                    if is_gone(kind) { Err(Wait::Gone(error)) } else { Ok(1) }
                }
            },
        }
    }
}

/// The first of `frames`: as many as are a [`PIECE`], one at least.
fn piece(frames: &[Chain]) -> &[Chain] {
    let mut bytes = 0;
    let count = frames.iter().take_while(|frame| {
        let before = bytes;
        bytes += frame.readable_len();
        before < PIECE
    });
    &frames[..count.count()]
}

/// Bytes of the frame in a chain; in an error, of what is none.
fn frame_len(chain: &Chain) -> Result<usize, usize> {
    let len = chain.readable_len().saturating_sub(header::LEN);
    if (header::ETHERNET..=header::MAX_FRAME).contains(&len) { Ok(len) } else { Err(len) }
}

/// Whether the other side will take no frame any more. Others may be refused for what they are, or
/// because the interface is down for now.
pub(super) fn is_gone(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    matches!(kind, BrokenPipe | ConnectionReset | NotConnected)
}

#[cfg(test)]
#[path = "tx_test.rs"]
mod tx_test;
