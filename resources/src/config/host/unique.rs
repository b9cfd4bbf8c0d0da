//! What only one VM of a host can have: hardware addresses, taps, sockets and writable files.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::path::Path;

use super::super::{Code, Connection, ConsoleTarget, MacAddress, Name, Overlay};
use super::{Guest, HostConflict};

/// Every thing that two of `guests` claim.
pub(super) fn conflicts(guests: &BTreeMap<Name, Guest>) -> Vec<HostConflict> {
    let mut claims = Claims::default();
    for guest in guests.values() {
        claims.networks(guest);
        claims.files(guest);
    }
    claims.conflicts
}

/// Who has what, as far as it has been looked at.
#[derive(Default)]
struct Claims<'g> {
    macs: HashMap<MacAddress, &'g Name>,
    taps: HashMap<&'g str, &'g Name>,
    paths: HashMap<&'g Path, &'g Name>,
    /// Keys that were complained about: not once for each VM of a count.
    known: BTreeSet<String>,
    conflicts: Vec<HostConflict>,
}

impl<'g> Claims<'g> {
    fn networks(&mut self, guest: &'g Guest) {
        for (name, net) in &guest.vm.net {
            if let Some(mac) = net.mac
                && let Some(other) = claim(&mut self.macs, mac, guest)
            {
                let what = format!("mac {mac} of net.{name}");
                let remedy = "give each device an address of its own, or none: it is derived \
                     from the VM's name";
                let key = guest.key(&format!("net.{name}.mac"));
                self.refuse(Code::DuplicateMac, key, &what, guest, other, remedy);
            }
            if let Connection::Tap(tap) = &net.connection
                && let Some(other) = claim(&mut self.taps, tap.as_str(), guest)
            {
                let what = format!("tap {tap} of net.{name}");
                let key = guest.key(&format!("net.{name}.tap"));
                let remedy = "give each device a tap of its own, or use bridge, which makes one";
                self.refuse(Code::DuplicateUse, key, &what, guest, other, remedy);
            }
        }
    }

    fn files(&mut self, guest: &'g Guest) {
        let disks = guest.vm.disk.iter().filter_map(|(name, disk)| {
            let written: &Path = match &disk.overlay {
                Overlay::None if !disk.readonly => &disk.path,
                Overlay::Keep(path) => path,
                Overlay::None | Overlay::Discard => return None,
            };
            Some((format!("disk.{name}"), written, "use pool, overlay or readonly"))
        });
        let consoles = guest.vm.console.iter().filter_map(|(name, port)| match &port.target {
            ConsoleTarget::File(path) | ConsoleTarget::Socket(path) => {
                Some((format!("console.{name}"), path.as_path(), "give each VM a path of its own"))
            }
            ConsoleTarget::Stdio | ConsoleTarget::Off | ConsoleTarget::Pty => None,
        });
        let vsock = guest.vm.vsock.iter().map(|vsock| {
            ("vsock.socket".to_owned(), vsock.socket.as_path(), "give each VM a path of its own")
        });
        for (key, path, remedy) in disks.chain(consoles).chain(vsock) {
            if let Some(other) = claim(&mut self.paths, path, guest) {
                let what = format!("{} of {key}", path.display());
                self.refuse(Code::DuplicateUse, guest.key(&key), &what, guest, other, remedy);
            }
        }
    }

    fn refuse(
        &mut self,
        code: Code,
        key: String,
        what: &str,
        guest: &Guest,
        other: &Name,
        remedy: &str,
    ) {
        if self.known.insert(key.clone()) {
            let message = format!("{what} of {} is taken by {other} already", guest.name);
            self.conflicts
                .push(HostConflict::new(code, key, message).of(&guest.name).remedy(remedy));
        }
    }
}

/// Books `what` for `guest`; who has it already, if it is another.
fn claim<'g, K: Hash + Eq>(
    claims: &mut HashMap<K, &'g Name>,
    what: K,
    guest: &'g Guest,
) -> Option<&'g Name> {
    let holder = claims.entry(what).or_insert(&guest.name);
    (*holder != &guest.name).then_some(*holder)
}
