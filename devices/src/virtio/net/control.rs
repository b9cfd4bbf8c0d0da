//! The control queue (virtio 1.3, 5.1.6.5): commands of the driver, each answered by one byte.

use std::sync::Arc;
use std::time::{Duration, Instant};

use virtio_bindings::virtio_net as bits;

use super::backend::Backend;
use super::features;
use super::filter::{MacAddress, TABLE, Table, is_multicast};
use super::state::{Settings, Shared};
use crate::virtio::chain::{Chain, TooShort};
use crate::virtio::queue::{Broken, Queue};

/// Commands answered before the other queues of the thread have their turn.
const BATCH: usize = 16;
const OK: u8 = 0;
const ERR: u8 = 1;
const VLANS: u16 = 4096;

/// Class and command, as they stand at the beginning of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Promiscuous,
    AllMulticast,
    MacTable,
    MacAddress,
    Vlan(bool),
    AnnounceAck,
    Pairs,
    Offloads,
}

impl Command {
    /// The command and the feature that it needs.
    fn new(class: u8, command: u8) -> Option<(Self, u64)> {
        Some(match (u32::from(class), u32::from(command)) {
            (bits::VIRTIO_NET_CTRL_RX, bits::VIRTIO_NET_CTRL_RX_PROMISC) => {
                (Self::Promiscuous, features::CTRL_RX)
            }
            (bits::VIRTIO_NET_CTRL_RX, bits::VIRTIO_NET_CTRL_RX_ALLMULTI) => {
                (Self::AllMulticast, features::CTRL_RX)
            }
            (bits::VIRTIO_NET_CTRL_MAC, bits::VIRTIO_NET_CTRL_MAC_TABLE_SET) => {
                (Self::MacTable, features::CTRL_RX)
            }
            (bits::VIRTIO_NET_CTRL_MAC, bits::VIRTIO_NET_CTRL_MAC_ADDR_SET) => {
                (Self::MacAddress, features::CTRL_MAC_ADDR)
            }
            (bits::VIRTIO_NET_CTRL_VLAN, bits::VIRTIO_NET_CTRL_VLAN_ADD) => {
                (Self::Vlan(true), features::CTRL_VLAN)
            }
            (bits::VIRTIO_NET_CTRL_VLAN, bits::VIRTIO_NET_CTRL_VLAN_DEL) => {
                (Self::Vlan(false), features::CTRL_VLAN)
            }
            (bits::VIRTIO_NET_CTRL_ANNOUNCE, bits::VIRTIO_NET_CTRL_ANNOUNCE_ACK) => {
                (Self::AnnounceAck, features::GUEST_ANNOUNCE)
            }
            (bits::VIRTIO_NET_CTRL_MQ, bits::VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET) => {
                (Self::Pairs, features::MQ)
            }
            (bits::VIRTIO_NET_CTRL_GUEST_OFFLOADS, bits::VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET) => {
                (Self::Offloads, features::CTRL_GUEST_OFFLOADS)
            }
            _ => return None,
        })
    }
}

/// Serves the control queue.
pub(super) struct Control {
    queue: Queue,
    chain: Chain,
    shared: Arc<Shared>,
    backend: Arc<dyn Backend>,
    /// As negotiated.
    features: u64,
}

/// Why a command was not done.
enum Refused {
    /// It is malformed, not negotiated, or the host could not do it.
    Command,
    /// The host's interface has been changed too often; so long until it may be again.
    Early(Duration),
}

impl From<TooShort> for Refused {
    fn from(_: TooShort) -> Self {
        Self::Command
    }
}

impl Control {
    pub(super) fn new(
        queue: Queue,
        shared: Arc<Shared>,
        backend: Arc<dyn Backend>,
        features: u64,
    ) -> Self {
        let chain = queue.chain();
        Self { queue, chain, shared, backend, features }
    }

    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    pub(super) fn into_queue(self) -> Queue {
        self.queue
    }

    /// Answers some commands; how long until there is more to do, if the doorbell will not tell.
    pub(super) fn serve(&mut self) -> Result<Option<Duration>, Broken> {
        self.queue.disable_doorbell();
        let next = self.answer();
        self.queue.signal();
        next
    }

    fn answer(&mut self) -> Result<Option<Duration>, Broken> {
        for _ in 0..BATCH {
            if !self.queue.pop(&mut self.chain)? {
                return Ok(self.queue.enable_doorbell()?.then_some(Duration::ZERO));
            }
            let ack = match self.execute() {
                Ok(()) => OK,
                Err(Refused::Command) => ERR,
                Err(Refused::Early(wait)) => {
                    self.queue.undo_pop();
                    return Ok(Some(wait));
                }
            };
            self.chain.write(0, &[ack]).map_err(|_| Broken::Request)?;
            self.queue.push(self.chain.head(), 1);
        }
        Ok(Some(Duration::ZERO))
    }

    fn execute(&self) -> Result<(), Refused> {
        let [class, command] = self.read(0)?;
        let (command, feature) = Command::new(class, command).ok_or(Refused::Command)?;
        if self.features & feature == 0 {
            return Err(Refused::Command);
        }
        match command {
            Command::Promiscuous => {
                let on = self.flag()?;
                self.shared.change(|settings| settings.filter.promiscuous = on);
            }
            Command::AllMulticast => {
                let on = self.flag()?;
                self.shared.change(|settings| settings.filter.all_multicast = on);
            }
            Command::MacTable => self.set_mac_table()?,
            Command::MacAddress => self.set_mac_address()?,
            Command::Vlan(pass) => {
                let id = u16::from_le_bytes(self.read(2)?);
                let known =
                    id < VLANS && self.shared.change(|settings| settings.filter.set_vlan(id, pass));
                return if known { Ok(()) } else { Err(Refused::Command) };
            }
            Command::AnnounceAck => self.shared.set_announce(false),
            Command::Pairs => self.set_pairs()?,
            Command::Offloads => self.set_offloads()?,
        }
        Ok(())
    }

    fn read<const N: usize>(&self, offset: usize) -> Result<[u8; N], Refused> {
        let mut bytes = [0; N];
        self.chain.read(offset, &mut bytes)?;
        Ok(bytes)
    }

    fn flag(&self) -> Result<bool, Refused> {
        self.read(2).map(|[value]| value != 0)
    }

    /// Two tables, unicast and multicast, each behind the number of its entries.
    fn set_mac_table(&self) -> Result<(), Refused> {
        let (unicast, end) = self.read_table(2)?;
        let (multicast, _) = self.read_table(end)?;
        self.shared.change(|Settings { filter, .. }| {
            (filter.unicast, filter.multicast) = (unicast, multicast);
        });
        Ok(())
    }

    /// The table at `offset` and where it ends.
    fn read_table(&self, offset: usize) -> Result<(Table, usize), Refused> {
        let count = u32::from_le_bytes(self.read(offset)?) as usize;
        let start = offset + 4;
        let left = self.chain.readable_len() - start;
        // What a guest says is there must be, before anything is allocated for it.
        if count > left / size_of::<MacAddress>() {
            return Err(Refused::Command);
        }
        let end = start + count * size_of::<MacAddress>();
        if count > TABLE {
            return Ok((Table { addresses: Vec::new(), overflown: true }, end));
        }
        let mut addresses = vec![MacAddress::default(); count];
        self.chain.read(start, addresses.as_flattened_mut())?;
        Ok((Table { addresses, overflown: false }, end))
    }

    fn set_mac_address(&self) -> Result<(), Refused> {
        let mac: MacAddress = self.read(2)?;
        if is_multicast(&mac) {
            return Err(Refused::Command);
        }
        self.shared.change(|settings| settings.filter.mac = mac);
        Ok(())
    }

    fn set_pairs(&self) -> Result<(), Refused> {
        let pairs = u16::from_le_bytes(self.read(2)?);
        if pairs == 0 || pairs > self.backend.pairs() {
            return Err(Refused::Command);
        }
        if pairs == self.shared.settings().pairs {
            return Ok(());
        }
        self.may_change()?;
        self.backend.use_pairs(pairs).map_err(|error| self.failed("queues", &error))?;
        self.shared.change(|settings| settings.pairs = pairs);
        Ok(())
    }

    fn set_offloads(&self) -> Result<(), Refused> {
        let offloads = u64::from_le_bytes(self.read(2)?);
        if offloads & !(self.features & features::GUEST_OFFLOADS) != 0 {
            return Err(Refused::Command);
        }
        if offloads == self.shared.settings().offloads {
            return Ok(());
        }
        self.may_change()?;
        self.backend.set_offloads(offloads).map_err(|error| self.failed("offloads", &error))?;
        self.shared.change(|settings| settings.offloads = offloads);
        Ok(())
    }

    fn may_change(&self) -> Result<(), Refused> {
        self.shared.changes.take(0, Instant::now(), 0).map_err(Refused::Early)
    }

    fn failed(&self, what: &str, error: &std::io::Error) -> Refused {
        if let Some(suppressed) = self.shared.log.admit() {
            tracing::warn!(suppressed, "net: the host did not change the {what}: {error}");
        }
        Refused::Command
    }
}
