//! Receiving: frames from the back end into the chains of a receive queue.
//!
//! A frame is read straight into guest buffers, as many as the longest frame needs; what one leaves
//! over stays gathered for the next. What does not fit spills into a buffer of ours and follows when the
//! driver has made more room, so that a driver with few buffers loses no long frames.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::backend::Port;
use super::buffers::Room;
use super::counters::PairCounters;
use super::filter::{Filter, PEEK};
use super::header;
use super::state::Shared;
use super::worker::{BATCH, Wait};
use crate::token_bucket::RECHECK;
use crate::virtio::chain::Chain;
use crate::virtio::queue::{Broken, Queue};

/// Room that any frame fits in.
const LONGEST: usize = header::LEN + header::MAX_FRAME;

/// A frame that has been read and not yet given to the driver.
#[derive(Clone, Copy, Debug)]
struct Pending {
    len: usize,
    /// Bytes of it in guest buffers; the others are spilled.
    in_room: usize,
}

/// Serves one receive queue.
pub(super) struct Receiver {
    queue: Queue,
    pair: u16,
    chain: Chain,
    room: Room,
    spill: Box<[u8]>,
    pending: Option<Pending>,
    /// A frame may fill several chains (VIRTIO_NET_F_MRG_RXBUF).
    mergeable: bool,
    filter: Filter,
    generation: u32,
    shared: Arc<Shared>,
}

impl Receiver {
    pub(super) fn new(queue: Queue, pair: u16, mergeable: bool, shared: Arc<Shared>) -> Self {
        let generation = shared.generation();
        let filter = shared.settings().filter.clone();
        Self {
            pair,
            chain: queue.chain(),
            room: Room::new(Arc::clone(queue.memory())),
            spill: vec![0; LONGEST].into(),
            pending: None,
            mergeable,
            filter,
            generation,
            shared,
            queue,
        }
    }

    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    pub(super) fn queue_mut(&mut self) -> &mut Queue {
        &mut self.queue
    }

    /// Gives the queue back as if the chains without a frame had never been taken.
    pub(super) fn into_queue(mut self) -> Queue {
        self.settle();
        self.queue
    }

    /// Makes the queue what [`into_queue`](Self::into_queue) gives back.
    pub(super) fn settle(&mut self) {
        if let Some(limit) = &self.shared.receive_limit {
            limit.leave(self.pair);
        }
        // A frame that only waited for its limit arrives a little early; one that waits for room is
        // lost, as frames are.
        match self.pending.take() {
            Some(frame) if frame.len <= self.room.len() => {
                self.deliver(frame);
                self.queue.signal();
            }
            Some(_) => self.counters().receive_dropped.add(1),
            None => {}
        }
        for _ in 0..self.room.chains() {
            self.queue.undo_pop();
        }
        self.room.remove(self.room.chains());
    }

    /// Receives some frames; what to wait for before the next.
    pub(super) fn serve(&mut self, port: &mut dyn Port) -> Result<Wait, Broken> {
        let generation = self.shared.generation();
        if generation != self.generation {
            self.filter = self.shared.settings().filter.clone();
            self.generation = generation;
        }
        self.queue.disable_doorbell();
        let wait = self.receive(port);
        self.queue.signal();
        wait
    }

    fn receive(&mut self, port: &mut dyn Port) -> Result<Wait, Broken> {
        for _ in 0..BATCH {
            let frame = match self.pending {
                Some(frame) => frame,
                None => match self.next_frame(port)? {
                    Ok(frame) => frame,
                    Err(wait) => return Ok(wait),
                },
            };
            if !self.wants(frame) {
                continue;
            }
            self.pending = Some(frame);
            if let Err(wait) = self.make_room(frame)? {
                return Ok(wait);
            }
            if self.pending.is_none() {
                continue;
            }
            if let Some(limit) = &self.shared.receive_limit
                && let Err(wait) = limit.take(self.pair, Instant::now(), bytes(frame))
            {
                return Ok(Wait::Time(wait.min(RECHECK)));
            }
            self.pending = None;
            self.deliver(frame);
        }
        Ok(Wait::Nothing)
    }

    /// Reads the next frame, once there is some room.
    fn next_frame(&mut self, port: &mut dyn Port) -> Result<Result<Pending, Wait>, Broken> {
        self.gather(LONGEST)?;
        if self.room.is_empty() {
            return self.wait_for_room().map(Err);
        }
        Ok(match port.receive(&mut self.room, &mut self.spill) {
            Ok(len) => Ok(Pending { len, in_room: len.min(self.room.len()) }),
            Err(error) => Err(match error.kind() {
                io::ErrorKind::WouldBlock => Wait::Port,
                io::ErrorKind::Interrupted => Wait::Nothing,
                _ => Wait::Gone(error),
            }),
        })
    }

    /// Takes chains until `len` bytes fit, or there are no more; without mergeable buffers, one chain.
    fn gather(&mut self, len: usize) -> Result<(), Broken> {
        let chains = if self.mergeable { usize::from(self.queue.size()) } else { 1 };
        while self.room.len() < len && self.room.chains() < chains {
            if !self.queue.pop(&mut self.chain)? {
                break;
            }
            // Each has room for the header at least (5.1.6.3.1).
            if self.chain.readable_len() > 0 || self.chain.writable_len() < header::LEN {
                return Err(Broken::Request);
            }
            if !self.room.append(&self.chain) {
                self.queue.undo_pop();
                break;
            }
        }
        Ok(())
    }

    fn wait_for_room(&mut self) -> Result<Wait, Broken> {
        Ok(if self.queue.enable_doorbell()? { Wait::Nothing } else { Wait::Doorbell })
    }

    fn counters(&self) -> &PairCounters {
        self.shared.counters.of(self.pair)
    }

    /// Sees to it that `frame` fits, or drops it when it never will.
    fn make_room(&mut self, frame: Pending) -> Result<Result<(), Wait>, Broken> {
        if frame.len <= self.room.len() {
            return Ok(Ok(()));
        }
        let before = self.room.chains();
        if self.mergeable {
            self.gather(frame.len)?;
        }
        if frame.len <= self.room.len() {
            return Ok(Ok(()));
        }
        let full = self.room.chains() == usize::from(self.queue.size());
        let stuck = self.room.chains() == before && self.queue.available()? > 0;
        if !self.mergeable || full || stuck {
            self.pending = None;
            self.counters().receive_dropped.add(1);
            return Ok(Ok(()));
        }
        self.wait_for_room().map(Err)
    }

    /// Whether the driver gets this frame.
    fn wants(&mut self, frame: Pending) -> bool {
        if frame.len < header::LEN + header::ETHERNET || frame.len > LONGEST {
            self.counters().receive_dropped.add(1);
            self.pending = None;
            return false;
        }
        let mut start = [0; PEEK];
        let start = &mut start[..PEEK.min(frame.len - header::LEN)];
        let wanted = self.shared.link.is_up()
            && (self.filter.promiscuous || {
                let there = start.len().min(frame.in_room - header::LEN);
                self.room.copy_out(header::LEN, &mut start[..there]);
                let spilled = start.len() - there;
                start[there..].copy_from_slice(&self.spill[..spilled]);
                self.filter.wants(start)
            });
        if !wanted {
            self.counters().filtered.add(1);
            self.pending = None;
        }
        wanted
    }

    /// Hands a frame that fits to the driver: all its chains at once.
    fn deliver(&mut self, frame: Pending) {
        let Pending { len, in_room } = frame;
        self.room.copy_in(in_room, &self.spill[..len - in_room]);
        let mut left = len;
        let mut chains = 0;
        while left > 0
            && let Some(chain) = self.room.chain(usize::from(chains))
        {
            let filled = left.min(chain.len);
            // At most `LONGEST`.
            self.queue.stage(chains, chain.head, u32::try_from(filled).unwrap_or(u32::MAX));
            left -= filled;
            chains += 1;
        }
        self.room.copy_in(header::NUM_BUFFERS, &chains.to_le_bytes());
        self.room.remove(usize::from(chains));
        self.queue.publish(chains);
        self.counters().received_frames.add(1);
        self.counters().received_bytes.add((len - header::LEN) as u64);
    }
}

fn bytes(frame: Pending) -> u64 {
    (frame.len - header::LEN) as u64
}
