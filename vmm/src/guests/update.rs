//! [`Update`]: changes of a guest that hold at once if it runs, and at its next starts.
//!
//! What the file of the guest says and what the running machine does are changed together, one change
//! after the other: after a failure those before it stand, in both places.

use std::fmt::Display;
use std::path::PathBuf;

use resources::Size;
use resources::config::{
    Balloon, BalloonConflict, BalloonSpec, Bandwidth, Disk, LinkState, Name, Named, Net, NetLimits,
};

use super::Restart;
use super::guest::Guest;
use super::life::{self, ask};
use super::status::State;
use super::store::{Entry, Store};
use crate::api::types::{BalloonUpdate, DiskUpdate, LimitsUpdate, NetUpdate};

/// Unit of the sizes of volumes in bytes.
const VOLUME_BLOCK: u64 = 4096;

/// What is to change about a guest. What is left out stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Disks by name.
    pub disks: Vec<(Name, DiskUpdate)>,
    /// Network devices by name.
    pub nets: Vec<(Name, NetUpdate)>,
    /// Memory the guest is asked to give back.
    pub balloon: Option<Size>,
    /// When it is started again.
    pub restart: Option<Restart>,
    /// Labels to set.
    pub labels: Vec<(String, String)>,
}

/// Why a guest cannot be changed so.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its state, its files, or the answer of the running machine.
    #[error(transparent)]
    Life(#[from] life::Error),
    /// Its files.
    #[error(transparent)]
    Store(#[from] super::store::Error),
    /// There is no such device.
    #[error("the guest {guest} has no {kind} `{name}`; it has {known}")]
    Unknown {
        /// The guest's name.
        guest: Name,
        /// What was looked for.
        kind: &'static str,
        /// By which name.
        name: Name,
        /// Names there are.
        known: String,
    },
    /// It was made without a balloon.
    #[error("the guest {0} has no balloon; give it one with --balloon when it is made")]
    NoBalloon(Name),
    /// The balloon cannot take so much.
    #[error("the guest {guest} cannot change: {source}")]
    Balloon {
        /// The guest's name.
        guest: Name,
        /// Why.
        source: BalloonConflict,
    },
    /// Only a running machine can make a disk larger.
    #[error(
        "the disk `{disk}` of {guest} can only grow while the guest runs, but it is {state}; start it first (carve start {guest}), or enlarge the file yourself (of a raw disk by truncate -s {size} {})",
        .path.display()
    )]
    Stopped {
        /// The guest's name.
        guest: Name,
        /// The disk.
        disk: Name,
        /// What the guest does.
        state: State,
        /// The size asked for, in bytes.
        size: u64,
        /// The disk's file.
        path: PathBuf,
    },
    /// A volume of a ragged size.
    #[error(
        "the disk `{disk}` of {guest} is a volume, whose size is a multiple of 4KiB, and {size} bytes are not; round it up"
    )]
    PartialBlock {
        /// The guest's name.
        guest: Name,
        /// The disk.
        disk: Name,
        /// The size asked for, in bytes.
        size: u64,
    },
    /// Limits of what the host's kernel moves.
    #[error(
        "the network device `{net}` of {guest} cannot be limited: with vhost the host's kernel moves its packets, and it knows no limits; leave vhost out when the guest is made"
    )]
    Vhost {
        /// The guest's name.
        guest: Name,
        /// The network device.
        net: Name,
    },
    /// It is removed at its end.
    #[error("the guest {0} is removed at its end (--rm), so no policy can start it again")]
    Removed(Name),
}

/// One change.
enum Change<'a> {
    Disk(&'a Name, &'a DiskUpdate),
    Net(&'a Name, &'a NetUpdate),
    Balloon(Size),
    Restart(Restart),
    Label(&'a str, &'a str),
}

impl Update {
    /// Whether nothing is to change.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Changes the guest: its file and, if it runs, the machine.
    ///
    /// # Errors
    ///
    /// [`Error`]. What can be told from the guest's file is checked before anything is changed.
    pub fn apply(&self, store: &Store, entry: &mut Entry) -> Result<(), Error> {
        let _lock = entry.lock()?;
        entry.reload()?;
        let state = entry.status()?.state;
        let mut trial = entry.guest.clone();
        for change in self.changes() {
            change.check(&trial, state)?;
            change.note(&mut trial)?;
        }
        for change in self.changes() {
            let before = entry.guest.clone();
            change.note(&mut entry.guest)?;
            // The file first: a machine that starts meanwhile has it from there.
            entry.save()?;
            // Looked at again for each: the guest may have ended, or started again.
            let state = entry.status()?.state;
            change.check(&before, state)?;
            match change.path().filter(|_| state.is_live()) {
                Some(path) => {
                    if let Err(error) = change.make(entry, &path) {
                        entry.guest = before;
                        entry.save()?;
                        return Err(error.into());
                    }
                }
                // A machine notes itself what was changed about it.
                None => store.journal().note(&entry.guest, "updated", &[("what", change.words())]),
            }
        }
        Ok(())
    }

    fn changes(&self) -> impl Iterator<Item = Change<'_>> {
        let disks = self.disks.iter().map(|(name, update)| Change::Disk(name, update));
        let nets = self.nets.iter().map(|(name, update)| Change::Net(name, update));
        let labels = self.labels.iter().map(|(key, value)| Change::Label(key, value));
        let rest = self.restart.map(Change::Restart).into_iter().chain(labels);
        disks.chain(nets).chain(self.balloon.map(Change::Balloon)).chain(rest)
    }
}

impl Change<'_> {
    /// Whether a guest in this state can be changed so at all.
    fn check(&self, guest: &Guest, state: State) -> Result<(), Error> {
        match *self {
            Self::Disk(name, DiskUpdate { size: Some(size), .. }) => {
                let disk = known(guest, "disk", &guest.config.disk, name)?;
                let (guest, path) = (guest.name.clone(), disk.path.clone());
                let (size, disk_name) = (*size, name.clone());
                if !state.is_live() {
                    return Err(Error::Stopped { guest, disk: disk_name, state, size, path });
                }
                if disk.volume.is_some() && !size.is_multiple_of(VOLUME_BLOCK) {
                    return Err(Error::PartialBlock { guest, disk: disk_name, size });
                }
                Ok(())
            }
            Self::Net(name, update) if update.receive.is_some() || update.send.is_some() => {
                if known(guest, "network device", &guest.config.net, name)?.vhost {
                    return Err(Error::Vhost { guest: guest.name.clone(), net: name.clone() });
                }
                Ok(())
            }
            Self::Restart(policy) if guest.remove && policy != Restart::No => {
                Err(Error::Removed(guest.name.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Changes what is kept about the guest.
    fn note(&self, guest: &mut Guest) -> Result<(), Error> {
        match *self {
            Self::Disk(name, update) => {
                known(guest, "disk", &guest.config.disk, name)?;
                guest.config.disk.entry(name.clone()).and_modify(|disk| change_disk(disk, update));
            }
            Self::Net(name, update) => {
                known(guest, "network device", &guest.config.net, name)?;
                guest.config.net.entry(name.clone()).and_modify(|net| change_net(net, update));
            }
            Self::Balloon(target) => {
                let balloon = balloon(guest, target)?;
                guest.config.balloon = Some(balloon);
            }
            Self::Restart(policy) => guest.restart = policy,
            Self::Label(key, value) => {
                guest.labels.insert(key.to_owned(), value.to_owned());
            }
        }
        Ok(())
    }

    /// What of a running machine it is about.
    fn path(&self) -> Option<String> {
        match self {
            Self::Disk(name, _) => Some(format!("/v1/disks/{name}")),
            Self::Net(name, _) => Some(format!("/v1/nets/{name}")),
            Self::Balloon(_) => Some("/v1/balloon".to_owned()),
            Self::Restart(_) | Self::Label(..) => None,
        }
    }

    /// Changes the running machine.
    fn make(&self, entry: &Entry, path: &str) -> Result<(), life::Error> {
        ask(entry, |client| match self {
            Self::Disk(_, update) => client.patch(path, update),
            Self::Net(_, update) => client.patch(path, update),
            Self::Balloon(target) => client.patch(path, &BalloonUpdate { target: target.bytes() }),
            Self::Restart(_) | Self::Label(..) => Ok(()),
        })
    }

    /// In words, for the journal.
    fn words(&self) -> String {
        match self {
            Self::Disk(name, _) => format!("disk {name}"),
            Self::Net(name, _) => format!("net {name}"),
            Self::Balloon(target) => format!("balloon: target {}", target.bytes()),
            Self::Restart(policy) => format!("restart: {policy}"),
            Self::Label(key, value) => format!("label {key}={value}"),
        }
    }
}

/// The device `name` of the guest.
fn known<'a, T>(
    guest: &Guest,
    kind: &'static str,
    devices: &'a Named<T>,
    name: &Name,
) -> Result<&'a T, Error> {
    devices.get(name).ok_or_else(|| Error::Unknown {
        guest: guest.name.clone(),
        kind,
        name: name.clone(),
        known: list(devices.keys()),
    })
}

fn list<N: Display>(names: impl Iterator<Item = N>) -> String {
    let names: Vec<_> = names.map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// As the machine does it: a limit that changes has the burst of one that was given without.
fn change_disk(disk: &mut Disk, update: &DiskUpdate) {
    let limits = update.limits.unwrap_or_default();
    if let Some(operations) = limits.operations_per_second {
        (disk.iops, disk.iops_burst) = (Some(operations).filter(|&some| some > 0), None);
    }
    if disk.iops.is_some() {
        disk.iops_burst = limits.operations_burst.or(disk.iops_burst);
    }
    if let Some(bytes) = limits.bytes_per_second {
        (disk.bandwidth, disk.bandwidth_burst) = (Bandwidth::new(bytes), None);
    }
    if disk.bandwidth.is_some() {
        disk.bandwidth_burst = limits.bytes_burst.map(Size::from_bytes).or(disk.bandwidth_burst);
    }
    // The size of any other disk is that of its file.
    if let (Some(size), Some(volume)) = (update.size, &mut disk.volume) {
        volume.size = Size::from_bytes(size);
    }
}

fn change_net(net: &mut Net, update: &NetUpdate) {
    if let Some(up) = update.link_up {
        net.link = if up { LinkState::Up } else { LinkState::Down };
    }
    change_limits(&mut net.receive, update.receive);
    change_limits(&mut net.send, update.send);
}

fn change_limits(limits: &mut NetLimits, update: Option<LimitsUpdate>) {
    let update = update.unwrap_or_default();
    if let Some(bytes) = update.bytes_per_second {
        limits.bandwidth = Bandwidth::new(bytes);
    }
    if let Some(packets) = update.operations_per_second {
        limits.packets = Some(packets).filter(|&some| some > 0);
    }
}

fn balloon(guest: &Guest, target: Size) -> Result<Balloon, Error> {
    let Some(balloon) = &guest.config.balloon else {
        return Err(Error::NoBalloon(guest.name.clone()));
    };
    let spec = BalloonSpec { target: Some(target), ..BalloonSpec::default() };
    match spec.resolve(guest.config.memory.size) {
        Ok(Balloon { target, .. }) => Ok(Balloon { target, ..balloon.clone() }),
        Err(mut conflicts) => {
            let guest = guest.name.clone();
            Err(match conflicts.pop() {
                Some(source) => Error::Balloon { guest, source },
                None => Error::NoBalloon(guest),
            })
        }
    }
}

#[cfg(test)]
#[path = "update_test.rs"]
mod update_test;
