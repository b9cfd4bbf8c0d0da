//! The thread of a socket device: carries packets between its queues and its streams, and sleeps
//! in between.
#![allow(unsafe_code)] // Borrows descriptors of a library's type.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, Event};
use vmm_sys_util::eventfd::EventFd;

use super::packet::{self, Header, Packet, op};
use super::streams::{self, Streams, Wake};
use crate::virtio::chain::Chain;
use crate::virtio::preemption::Preemption;
use crate::virtio::queue::{Broken, Queue};
use crate::virtio::worker::{self, Handler};

/// Packets carried in one direction before the other one, and sockets, are looked at.
const PACKETS_PER_TURN: usize = 256;
/// Packets filled, or sent on, by one system call: with Linux's buffers of 4 KiB, 64 KiB.
const PACKETS_AT_ONCE: usize = 16;
/// Happenings taken notice of at once.
const EVENTS: usize = 128;
/// The event that all connections are gone (5.10.6.7).
const TRANSPORT_RESET: u32 = 0;

/// A queue and its chain in use.
#[derive(Debug)]
struct Lane {
    queue: Queue,
    chain: Chain,
}

/// The queue of packets sent, and room for some of them.
#[derive(Debug)]
struct Sender {
    queue: Queue,
    packets: Vec<Packet>,
}

impl Sender {
    fn new(queue: Queue) -> Self {
        let packet = |_| Packet { header: Header::default(), chain: queue.chain() };
        let packets = (0..PACKETS_AT_ONCE).map(packet).collect();
        Self { queue, packets }
    }
}

/// The handler of all three queues, of which a driver may have enabled any.
#[derive(Debug)]
pub(super) struct Exchange {
    streams: Streams,
    rx: Option<Lane>,
    tx: Option<Sender>,
    event: Option<Lane>,
    /// For packets filled at once.
    more: Vec<Chain>,
    /// The driver has yet to be told that all connections are gone.
    transport_reset: bool,
    /// Bytes of streams that were carried, either way.
    carried: u64,
}

impl Exchange {
    pub(super) fn new(
        streams: Streams,
        queues: [Option<Queue>; 3],
        transport_reset: bool,
    ) -> io::Result<Self> {
        let [rx, tx, event] = queues;
        let [rx, event] = [rx, event].map(|queue| {
            queue.map(|queue| {
                let chain = queue.chain();
                Lane { queue, chain }
            })
        });
        let tx = tx.map(Sender::new);
        let new_chains = |lane: &Lane| (0..PACKETS_AT_ONCE).map(|_| lane.queue.chain()).collect();
        let more = rx.as_ref().map(new_chains).unwrap_or_default();
        let exchange = Self { streams, rx, tx, event, more, transport_reset, carried: 0 };
        for queue in exchange.queues() {
            exchange.streams.watch(borrow(queue.doorbell()), streams::DOORBELL)?;
        }
        Ok(exchange)
    }

    /// Its queues, its streams, and whether the driver has yet to be told of a transport reset.
    pub(super) fn into_parts(self) -> (Vec<Queue>, Streams, bool) {
        for queue in self.queues() {
            self.streams.unwatch(borrow(queue.doorbell()));
        }
        let lanes = [self.rx, self.event].into_iter().flatten().map(|lane| lane.queue);
        let queues = lanes.chain(self.tx.map(|sender| sender.queue)).collect();
        (queues, self.streams, self.transport_reset)
    }

    fn queues(&self) -> impl Iterator<Item = &Queue> {
        let lanes = [&self.rx, &self.event].into_iter().flatten().map(|lane| &lane.queue);
        lanes.chain(self.tx.as_ref().map(|sender| &sender.queue))
    }

    /// Does what there is to do, up to a bound; whether there is more.
    fn turn(&mut self) -> Result<bool, Broken> {
        self.announce()?;
        self.streams.accept();
        let clogged = self.streams.is_clogged();
        let more = self.take()? | self.give()?;
        Ok(more || clogged && !self.streams.is_clogged())
    }

    /// Tells the driver that its connections are gone.
    fn announce(&mut self) -> Result<(), Broken> {
        let Some(Lane { queue, chain }) = &mut self.event else { return Ok(()) };
        while self.transport_reset {
            if queue.pop(chain)? {
                let event = TRANSPORT_RESET.to_le_bytes();
                chain.write(0, &event).map_err(|_| Broken::Request)?;
                queue.push(chain.head(), 4);
                queue.signal();
                self.transport_reset = false;
            } else if !queue.enable_doorbell()? {
                break;
            }
        }
        Ok(())
    }

    /// Takes packets from the guest; whether there are more to take now.
    fn take(&mut self) -> Result<bool, Broken> {
        let Some(Sender { queue, packets }) = &mut self.tx else { return Ok(false) };
        queue.disable_doorbell();
        let mut taken = 0;
        while taken < PACKETS_PER_TURN {
            if self.streams.is_clogged() {
                queue.signal();
                return Ok(false);
            }
            let mut popped = 0;
            for Packet { header, chain } in &mut *packets {
                if !queue.pop(chain)? {
                    break;
                }
                let mut bytes = [0; packet::LEN];
                chain.read(0, &mut bytes).map_err(|_| Broken::Request)?;
                *header = Header::decode(&bytes);
                popped += 1;
            }
            if popped == 0 {
                queue.signal();
                return queue.enable_doorbell();
            }
            self.streams.deliver(&packets[..popped]);
            for Packet { header, chain } in &packets[..popped] {
                queue.push(chain.head(), 0);
                self.carried = self.carried.wrapping_add(header.len.into());
            }
            taken += popped;
        }
        queue.signal();
        Ok(true)
    }

    /// Gives packets to the guest, and reads no socket unless it has room; whether there are more
    /// to give now.
    fn give(&mut self) -> Result<bool, Broken> {
        let Some(Lane { queue, chain }) = &mut self.rx else { return Ok(false) };
        queue.disable_doorbell();
        let mut given = 0;
        while given < PACKETS_PER_TURN {
            given += 1;
            if !self.streams.has_packet() {
                queue.signal();
                return Ok(false);
            }
            if !pop(queue, chain)? {
                queue.signal();
                return queue.enable_doorbell();
            }
            let Some(header) = self.streams.next_packet(chain) else {
                queue.undo_pop();
                continue;
            };
            chain.write(0, &header.encode()).map_err(|_| Broken::Request)?;
            queue.push(chain.head(), header.total());
            self.carried = self.carried.wrapping_add(header.len.into());
            // Who sends as much as fits sends more.
            if header.op == op::RW && header.total() as usize == chain.writable_len() {
                let (packets, bytes) = give_more(queue, &mut self.more, &mut self.streams)?;
                given += packets;
                self.carried = self.carried.wrapping_add(bytes.into());
            }
        }
        queue.signal();
        Ok(self.streams.has_packet())
    }

    fn serve(&mut self, stop: &EventFd) {
        let mut events = [MaybeUninit::<Event>::uninit(); EVENTS];
        let mut preemption = Preemption::new();
        loop {
            self.streams.tick();
            let patience = match self.turn() {
                Ok(true) => Some(Duration::ZERO),
                Ok(false) => self.streams.patience(),
                Err(why) => {
                    if let Some(queue) = self.queues().next() {
                        queue.fail(why);
                    }
                    return wait(stop);
                }
            };
            if patience != Some(Duration::ZERO) {
                preemption.served(self.carried);
            }
            let timeout = patience.and_then(|patience| Timespec::try_from(patience).ok());
            // Interrupted by a signal: looked at again.
            let happened = epoll::wait(self.streams.epoll(), &mut events, timeout.as_ref());
            let mut stopped = false;
            // All of them, also when stopped: a socket says only once what happened to it.
            for event in happened.map(|(happened, _)| &*happened).unwrap_or_default() {
                match Wake::of(event.data.u64()) {
                    Wake::Stop => stopped = true,
                    Wake::Doorbell => {}
                    Wake::Listener => self.streams.on_caller(),
                    Wake::Connection(token) => self.streams.on_event(token, event.flags),
                }
            }
            if stopped {
                return;
            }
        }
    }
}

impl Handler for Exchange {
    fn run(&mut self, stop: &EventFd) {
        if let Err(error) = self.streams.watch(borrow(stop), streams::STOP) {
            tracing::error!("the socket device stands still: {error}");
            return wait(stop);
        }
        self.streams.resume();
        self.serve(stop);
        self.streams.pause();
        self.streams.unwatch(borrow(stop));
    }
}

/// Takes a buffer for a packet, if there is one.
fn pop(queue: &mut Queue, chain: &mut Chain) -> Result<bool, Broken> {
    if !queue.pop(chain)? {
        return Ok(false);
    }
    if chain.writable_len() <= packet::LEN {
        return Err(Broken::Request);
    }
    Ok(true)
}

/// Gives the guest more of the stream whose turn it is, as many packets as there are buffers and
/// chains for; how many, and how many bytes.
fn give_more(
    queue: &mut Queue,
    chains: &mut [Chain],
    streams: &mut Streams,
) -> Result<(usize, u32), Broken> {
    let mut popped = 0;
    for chain in &mut *chains {
        if !pop(queue, chain)? {
            break;
        }
        popped += 1;
    }
    let (mut header, bytes) = streams.more_data(&chains[..popped]).unwrap_or_default();
    let mut left = bytes;
    let mut given = 0;
    for chain in &chains[..popped] {
        if left == 0 {
            queue.undo_pop();
            continue;
        }
        let room = chain.writable_len() - packet::LEN;
        header.len = left.min(u32::try_from(room).unwrap_or(u32::MAX));
        left -= header.len;
        chain.write(0, &header.encode()).map_err(|_| Broken::Request)?;
        queue.push(chain.head(), header.total());
        given += 1;
    }
    Ok((given, bytes))
}

fn wait(stop: &EventFd) {
    while !worker::wait_readable([stop])[0] {}
}

fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as `event` is borrowed.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}
