//! Which received frames the driver wants (virtio 1.3, 5.1.6.5.1 to 5.1.6.5.3).

use serde::{Deserialize, Serialize};

use super::header;

/// Addresses of each kind in the MAC table. A driver that sets more gets all frames of that kind.
pub(super) const TABLE: usize = 64;
/// Words of the set of VLANs.
const VLAN_WORDS: usize = 4096 / 64;
const VLAN_TAG: [u8; 2] = [0x81, 0x00];

/// Bytes of a frame that decide: Ethernet header and VLAN tag.
pub(super) const PEEK: usize = header::ETHERNET + 4;

/// An Ethernet address.
pub type MacAddress = [u8; 6];

/// Whether an address is of a group.
pub(super) fn is_multicast(address: &MacAddress) -> bool {
    address[0] & 1 != 0
}

/// Addresses of one kind that pass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Table {
    pub addresses: Vec<MacAddress>,
    /// There were more than the table holds: all pass.
    pub overflown: bool,
}

impl Table {
    fn has(&self, address: &MacAddress) -> bool {
        self.overflown || self.addresses.contains(address)
    }
}

/// What the driver has set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Filter {
    /// The device's own address.
    pub mac: MacAddress,
    pub promiscuous: bool,
    pub all_multicast: bool,
    pub unicast: Table,
    pub multicast: Table,
    /// Bit n of the whole: VLAN n passes. Empty: VLANs are not filtered.
    vlans: Vec<u64>,
}

impl Filter {
    /// Everything passes until the driver says what it wants.
    pub(super) fn new(mac: MacAddress) -> Self {
        Self {
            mac,
            promiscuous: true,
            all_multicast: false,
            unicast: Table::default(),
            multicast: Table::default(),
            vlans: Vec::new(),
        }
    }

    /// Filters VLANs from now on, of which none passes at first.
    pub(super) fn filter_vlans(&mut self) {
        self.vlans = vec![0; VLAN_WORDS];
    }

    /// Lets VLAN `id` pass or not; false if there is no such VLAN.
    pub(super) fn set_vlan(&mut self, id: u16, pass: bool) -> bool {
        let Some(word) = self.vlans.get_mut(usize::from(id / 64)) else { return false };
        let bit = 1 << (id % 64);
        *word = if pass { *word | bit } else { *word & !bit };
        true
    }

    fn has_vlan(&self, id: u16) -> bool {
        self.vlans.is_empty()
            || self.vlans.get(usize::from(id / 64)).is_some_and(|word| word & 1 << (id % 64) != 0)
    }

    /// Whether the driver wants a frame that begins with `start`: [`PEEK`] bytes, or all of it.
    pub(super) fn wants(&self, start: &[u8]) -> bool {
        if self.promiscuous {
            return true;
        }
        let Some((destination, rest)) = start.split_first_chunk::<6>() else { return false };
        if let Some([_, _, _, _, _, _, t0, t1, i0, i1, ..]) = rest.get(..10)
            && [*t0, *t1] == VLAN_TAG
            && !self.has_vlan(u16::from_be_bytes([*i0, *i1]) & 0xfff)
        {
            return false;
        }
        if *destination == [0xff; 6] || *destination == self.mac {
            true
        } else if is_multicast(destination) {
            self.all_multicast || self.multicast.has(destination)
        } else {
            self.unicast.has(destination)
        }
    }

    /// Whether it is one that a driver can have set.
    pub(super) fn is_valid(&self) -> bool {
        !is_multicast(&self.mac)
            && [&self.unicast, &self.multicast].iter().all(|t| t.addresses.len() <= TABLE)
            && [0, VLAN_WORDS].contains(&self.vlans.len())
    }
}

#[cfg(test)]
#[path = "filter_test.rs"]
mod filter_test;
