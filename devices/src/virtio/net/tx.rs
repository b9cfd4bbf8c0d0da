//! Sending: frames from the chains of a transmit queue to the back end, straight from guest buffers.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::backend::Port;
use super::header;
use super::state::{Shared, count};
use super::worker::{BATCH, Wait};
use crate::token_bucket::RECHECK;
use crate::virtio::chain::Chain;
use crate::virtio::queue::{Broken, Queue};

/// Serves one transmit queue.
pub(super) struct Transmitter {
    queue: Queue,
    pair: u16,
    chain: Chain,
    /// The next frame has been let through by the rate limit.
    admitted: bool,
    shared: Arc<Shared>,
}

impl Transmitter {
    pub(super) fn new(queue: Queue, pair: u16, shared: Arc<Shared>) -> Self {
        Self { pair, chain: queue.chain(), admitted: false, shared, queue }
    }

    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Gives the queue back; nothing is in flight between two calls of [`serve`](Self::serve).
    pub(super) fn into_queue(self) -> Queue {
        if let Some(limit) = &self.shared.send_limit {
            limit.leave(self.pair);
        }
        self.queue
    }

    /// Sends some frames; what to wait for before the next.
    pub(super) fn serve(&mut self, port: &mut dyn Port) -> Result<Wait, Broken> {
        self.queue.disable_doorbell();
        let mut done = 0;
        let wait = self.send_batch(port, &mut done);
        // Before a broken chain may have come good ones.
        self.queue.publish(done);
        self.queue.signal();
        wait
    }

    fn send_batch(&mut self, port: &mut dyn Port, done: &mut u16) -> Result<Wait, Broken> {
        let most = self.queue.size().min(BATCH);
        while *done < most {
            if !self.queue.pop(&mut self.chain)? {
                let more = self.queue.enable_doorbell()?;
                return Ok(if more { Wait::Nothing } else { Wait::Doorbell });
            }
            match self.send(port) {
                Ok(()) => {}
                Err(Wait::Gone(error)) => {
                    self.queue.stage(*done, self.chain.head(), 0);
                    *done += 1;
                    return Ok(Wait::Gone(error));
                }
                Err(wait) => {
                    self.queue.undo_pop();
                    return Ok(wait);
                }
            }
            self.admitted = false;
            self.queue.stage(*done, self.chain.head(), 0);
            *done += 1;
        }
        Ok(Wait::Nothing)
    }

    /// Sends the frame of the chain, or drops it; an error if it has to wait or the back end is gone.
    fn send(&mut self, port: &mut dyn Port) -> Result<(), Wait> {
        let counters = &self.shared.counters;
        let len = self.chain.readable_len().saturating_sub(header::LEN);
        if !(header::ETHERNET..=header::MAX_FRAME).contains(&len) {
            count(&counters.malformed, 1);
            if let Some(suppressed) = self.shared.log.admit() {
                tracing::warn!(suppressed, "net: the guest sent a frame of {len} bytes; dropped");
            }
            return Ok(());
        }
        if !self.shared.link.is_up() {
            count(&counters.send_dropped, 1);
            return Ok(());
        }
        if !self.admitted
            && let Some(limit) = &self.shared.send_limit
        {
            limit
                .take(self.pair, Instant::now(), len as u64)
                .map_err(|wait| Wait::Limit(wait.min(RECHECK)))?;
        }
        self.admitted = true;
        match port.send(&self.chain) {
            Ok(()) => {
                count(&counters.sent_frames, 1);
                count(&counters.sent_bytes, len);
                Ok(())
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => Err(Wait::Port),
                io::ErrorKind::Interrupted => Err(Wait::Nothing),
                kind => {
                    count(&counters.send_dropped, 1);
                    if is_gone(kind) { Err(Wait::Gone(error)) } else { Ok(()) }
                }
            },
        }
    }
}

/// Whether the other side will take no frame any more. Others may be refused for what they are, or
/// because the interface is down for now.
pub(super) fn is_gone(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    matches!(kind, BrokenPipe | ConnectionReset | NotConnected)
}
