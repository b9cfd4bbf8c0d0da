//! A port in use: its guest's side, its host's side, and the bytes that go between them.
//!
//! Nothing is buffered here. Output stays in the guest's buffers until the host has taken it, so that
//! a slow reader stops the guest and nothing grows; input stays on the host until the guest has room.

use serde::{Deserialize, Serialize};

use super::host::{BackEnd, HostSide};
use super::stream::{Moved, Scratch};
use crate::virtio::chain::Chain;
use crate::virtio::queue::{Broken, Queue};

/// Bytes moved for one port before the others have their turn.
const SHARE: usize = 1 << 20;
/// What the smallest buffer counts of that.
const LEAST: usize = 256;

/// A port of the console device.
#[derive(Debug)]
pub struct Port {
    /// What the guest calls it, at most 64 bytes: `/dev/virtio-ports/NAME` in Linux.
    pub name: Option<String>,
    /// Whether it is a console (`/dev/hvcN` in Linux) or a plain stream of bytes.
    pub console: bool,
    /// What it is connected to.
    pub back_end: BackEnd,
}

/// Messages the driver is still to be sent, of those that are due once.
pub(super) mod pending {
    pub(in super::super) const ADD: u8 = 1;
    pub(in super::super) const CONSOLE: u8 = 2;
    pub(in super::super) const NAME: u8 = 4;
    pub(in super::super) const RESIZE: u8 = 8;
}

/// What the guest knows of a port, and the host of the guest: saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GuestSide {
    /// The driver has taken the port into use.
    pub(super) ready: bool,
    /// Something in the guest has it open.
    pub(super) open: bool,
    /// The driver believes that the host's side is connected.
    pub(super) told_open: bool,
    /// Bits of [`pending`].
    pub(super) pending: u8,
    /// Bytes of the first chain of the transmit queue that the host has already.
    sent: u64,
}

/// A queue with room for one of its chains.
pub(super) struct Lane {
    pub(super) queue: Queue,
    pub(super) chain: Chain,
    broken: bool,
}

impl Lane {
    pub(super) fn new(queue: Queue) -> Self {
        let chain = queue.chain();
        Self { queue, chain, broken: false }
    }

    /// Serves the queue unless it is broken. What `serve` returns, or its default then.
    pub(super) fn guard<T: Default>(
        &mut self,
        serve: impl FnOnce(&mut Queue, &mut Chain) -> Result<T, Broken>,
    ) -> T {
        if self.broken {
            return T::default();
        }
        serve(&mut self.queue, &mut self.chain).unwrap_or_else(|why| {
            self.queue.fail(why);
            self.broken = true;
            T::default()
        })
    }
}

/// A port of an active or resting device.
pub(super) struct PortInUse {
    pub(super) name: Option<String>,
    pub(super) console: bool,
    pub(super) guest: GuestSide,
    pub(super) host: HostSide,
    /// How many peers had left when the driver was told of the present one.
    pub(super) told_departures: u64,
    receive: Option<Lane>,
    transmit: Option<Lane>,
    /// The transmit queue's chain has been popped and not pushed.
    held: bool,
    scratch: Scratch,
}

impl PortInUse {
    pub(super) fn new(port: Port) -> Self {
        let Port { name, console, back_end } = port;
        Self {
            name,
            console,
            guest: GuestSide::default(),
            host: HostSide::new(back_end),
            told_departures: 0,
            receive: None,
            transmit: None,
            held: false,
            scratch: Scratch::default(),
        }
    }

    /// Gives it the queues the driver enabled.
    pub(super) fn attach(&mut self, receive: Option<Queue>, transmit: Option<Queue>) {
        if transmit.is_none() {
            // Of a queue that was reset nothing is left.
            self.guest.sent = 0;
        }
        self.receive = receive.map(Lane::new);
        self.transmit = transmit.map(Lane::new);
        self.held = false;
    }

    /// Takes its queues back.
    pub(super) fn detach(&mut self) -> impl Iterator<Item = Queue> + use<> {
        if std::mem::take(&mut self.held)
            && let Some(lane) = &mut self.transmit
        {
            // Whoever carries on finds the chain again, and skips what is sent of it.
            lane.queue.undo_pop();
        }
        let lanes = [self.receive.take(), self.transmit.take()];
        lanes.into_iter().flatten().map(|lane| lane.queue)
    }

    /// Forgets the guest's side but for what was sent.
    pub(super) fn start_over(&mut self) {
        self.guest = GuestSide { sent: self.guest.sent, ..GuestSide::default() };
        self.told_departures = self.host.departures();
    }

    /// Moves what can be moved both ways; true: there is more. `listens`: the guest takes input.
    pub(super) fn serve(&mut self, listens: bool) -> bool {
        self.host.settle(listens);
        let sent = self.send();
        let received = listens && self.receive();
        sent || received
    }

    /// Writes output to the host's side; true: there is more, and it can go.
    pub(super) fn send(&mut self) -> bool {
        let Some(lane) = &mut self.transmit else { return false };
        let (host, held, sent) = (&mut self.host, &mut self.held, &mut self.guest.sent);
        let scratch = &mut self.scratch;
        lane.guard(|queue, chain| {
            queue.disable_doorbell();
            let mut moved = 0;
            let more = loop {
                if moved >= SHARE {
                    break true;
                }
                if !*held && !queue.pop(chain)? {
                    if queue.enable_doorbell()? {
                        moved += LEAST;
                        continue;
                    }
                    break false;
                }
                *held = true;
                let skip = usize::try_from(*sent).unwrap_or(usize::MAX);
                if skip < chain.readable_len() {
                    match host.write(chain.readable(), skip, scratch) {
                        Moved::Bytes(count) => {
                            *sent += count as u64;
                            moved += count;
                        }
                        Moved::Nothing => break false,
                        // As on a serial line that nobody listens to.
                        Moved::End => *sent = chain.readable_len() as u64,
                    }
                }
                if *sent >= chain.readable_len() as u64 {
                    queue.push(chain.head(), 0);
                    (*held, *sent) = (false, 0);
                    moved += LEAST;
                }
            };
            queue.signal();
            Ok(more)
        })
    }

    /// Reads input into the guest's buffers; true: there may be more.
    fn receive(&mut self) -> bool {
        let Some(lane) = &mut self.receive else { return false };
        let host = &mut self.host;
        lane.guard(|queue, chain| {
            let mut moved = 0;
            let more = loop {
                if moved >= SHARE {
                    break true;
                }
                if !host.has_input() {
                    break false;
                }
                if !queue.pop(chain)? {
                    if queue.enable_doorbell()? {
                        moved += LEAST;
                        continue;
                    }
                    break false;
                }
                if chain.writable_len() == 0 {
                    return Err(Broken::Request);
                }
                match host.read(chain.writable()) {
                    Moved::Bytes(count) => {
                        queue.push(chain.head(), u32::try_from(count).unwrap_or(u32::MAX));
                        moved += count.max(LEAST);
                    }
                    Moved::Nothing | Moved::End => {
                        queue.undo_pop();
                        moved += LEAST;
                    }
                }
            };
            queue.signal();
            Ok(more)
        })
    }

    /// Whether the guest has handed over output that the host's side has not taken.
    pub(super) fn has_unsent(&self) -> bool {
        let available =
            |lane: &Lane| !lane.broken && lane.queue.available().is_ok_and(|count| count > 0);
        self.held || self.transmit.as_ref().is_some_and(available)
    }
}

impl std::fmt::Debug for PortInUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PortInUse")
            .field("name", &self.name)
            .field("guest", &self.guest)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}
