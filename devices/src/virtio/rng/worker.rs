//! Fills the driver's buffers with random bytes.

use rustix::rand::{GetRandomFlags, getrandom};
use vmm_sys_util::eventfd::EventFd;

use crate::virtio::chain::Chain;
use crate::virtio::queue::{Broken, Queue};
use crate::virtio::worker::{self, Handler};

/// Most bytes given for one request, so that none keeps the host's kernel busy for long. Drivers ask
/// again for what is missing.
const MOST: usize = 4096;

/// The handler of the request queue.
#[derive(Debug)]
pub(super) struct Entropy {
    queue: Queue,
    chain: Chain,
}

impl Entropy {
    pub(super) fn new(queue: Queue) -> Self {
        let chain = queue.chain();
        Self { queue, chain }
    }

    pub(super) fn into_queue(self) -> Queue {
        self.queue
    }

    /// Answers a ring full of requests, or as many as there are.
    fn serve(&mut self) -> Result<(), Broken> {
        self.queue.disable_doorbell();
        for _ in 0..self.queue.size() {
            if !self.queue.pop(&mut self.chain)? {
                break;
            }
            let given = self.fill()?;
            self.queue.push(self.chain.head(), given);
        }
        self.queue.signal();
        if self.queue.enable_doorbell()? {
            self.queue.ring_doorbell();
        }
        Ok(())
    }

    /// Fills the writable part of the chain; how many bytes of it.
    fn fill(&self) -> Result<u32, Broken> {
        let mut bytes = [0; MOST];
        let bytes = &mut bytes[..self.chain.writable_len().min(MOST)];
        // Requests of this size are answered whole (getrandom(2)), once the host has booted.
        let count = getrandom(&mut *bytes, GetRandomFlags::empty()).unwrap_or(0);
        if count == 0 {
            return Err(Broken::Request);
        }
        self.chain.write(0, &bytes[..count]).map_err(|_| Broken::Request)?;
        u32::try_from(count).map_err(|_| Broken::Request)
    }
}

impl Handler for Entropy {
    fn run(&mut self, stop: &EventFd) {
        worker::serve_until(stop, &mut *self, |this| &this.queue, Self::serve);
    }
}
