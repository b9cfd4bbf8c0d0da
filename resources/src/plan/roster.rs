//! [`Roster`]: every VM that holds a share of the host or is to hold one, in the order in which they
//! are served.

use std::collections::BTreeMap;

use super::{Booking, HostCpus, MemoryShare, Options, Origin, Present, overhead};
use crate::config::Name;
use crate::config::host::{Guest, HostConfig};

/// The VMs, those that hold something already first, each part by name. The order of a file has no
/// influence, and a VM that is added never takes anything from one that is there.
pub(super) struct Roster<'a> {
    pub entries: Vec<Entry<'a>>,
    in_file: &'a BTreeMap<Name, Guest>,
    guest: Option<&'a Guest>,
}

/// One VM.
pub(super) struct Entry<'a> {
    pub guest: &'a Guest,
    /// What it holds.
    pub booking: Option<&'a Booking>,
    /// Whether it is to get something: the file has it, or it asks to be admitted. If not, it only
    /// holds.
    pub in_file: bool,
    /// Whether it comes after all others, so that it takes nothing from them.
    pub last: bool,
    pub memory: MemoryShare,
    /// Its CPUs, once it has some; shared ones without the set, which is that of its tenant.
    pub cpus: Option<HostCpus>,
}

impl<'a> Roster<'a> {
    /// The VMs of `config` and `present`, and last `guest`.
    pub fn of(
        config: &'a HostConfig,
        present: &'a Present,
        options: Options,
        guest: Option<&'a Guest>,
    ) -> Self {
        let held = |name: &Name| {
            present.bookings.get(name).filter(|booking| booking.origin == Origin::File)
        };
        let others = present.bookings.iter().filter(|(name, booking)| match booking.origin {
            Origin::File => !options.prune && !config.guests.contains_key(*name),
            // One of the same name is refused elsewhere.
            Origin::Command => true,
        });
        let others = others.map(|(_, booking)| Entry::new(&booking.guest, Some(booking), false));
        let guests = || config.guests.values();
        let kept = guests().filter(|guest| held(&guest.name).is_some());
        let new = guests().filter(|guest| held(&guest.name).is_none());
        let in_file = kept.chain(new).map(|guest| Entry::new(guest, held(&guest.name), true));
        let last = guest.map(|guest| Entry { last: true, ..Entry::new(guest, None, true) });
        let entries = others.chain(in_file).chain(last).collect();
        Self { entries, in_file: &config.guests, guest }
    }

    pub fn is_in_file(&self, name: &Name) -> bool {
        self.in_file.contains_key(name) || self.guest.is_some_and(|guest| guest.name == *name)
    }
}

impl<'a> Entry<'a> {
    fn new(guest: &'a Guest, booking: Option<&'a Booking>, in_file: bool) -> Self {
        let memory = &guest.vm.memory;
        let memory = MemoryShare {
            size: memory.size,
            min: memory.guaranteed(),
            overhead: overhead(&guest.vm),
            hugepages: guest.vm.hugepages.map(|page| page.size()),
        };
        Self { guest, booking, in_file, last: false, memory, cpus: None }
    }

    pub fn name(&self) -> &'a Name {
        &self.guest.name
    }

    /// How messages call it.
    pub fn label(&self) -> String {
        let name = self.name();
        match (self.in_file, self.booking) {
            (true, _) | (false, None) => name.to_string(),
            (false, Some(booking)) if booking.origin == Origin::File => {
                format!("{name} (no longer in the file)")
            }
            (false, Some(_)) => format!("{name} (not of the file)"),
        }
    }
}
