//! Which VM gets what of a host, or everything that stands in the way.
//!
//! [`plan`] takes what the files say ([`HostConfig`]), what the host has ([`Host`]) and what is
//! booked already ([`Present`]), and touches nothing: the same three always give the same [`Plan`],
//! in whatever order the files name the VMs.
//!
//! ```text
//! HostConfig ┐             roster: every VM that holds a share, those that hold one first
//! Host       ├─ plan ───>  place:  CPUs of their own for dedicated VMs; who has some keeps them
//! Present    ┘             shared: CPUs that the others have together
//!                          sums:   reservations and shares against what there is
//!                          change: what has to be done to each VM
//!                          cgroup: the limits that hold all of it in the kernel
//! ```
//!
//! What is promised is exact: CPUs count in thousandths, memory in bytes, nothing in floating point.
//! Carrying a plan out, and the record of what is booked, are no business of this module.

mod account;
mod admit;
mod capacity;
mod cgroup;
mod change;
mod cores;
mod dedicated;
mod memory;
mod network;
mod overhead;
mod present;
mod reservation;
mod roster;
mod shared;
mod storage;
mod sums;
mod tasks;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

pub use account::{Account, Holder, Unit};
pub use admit::{Admission, admit};
pub use capacity::{Amounts, Capacity, Largest, how_many_more};
pub use cgroup::{Cgroup, IoMax, Owner};
pub use change::{Action, ActionKind};
pub use overhead::overhead;
pub use present::{Booking, Footing, HostCpus, Origin, Placed, Present, StoredVolume};
pub use reservation::Reservation;
pub use tasks::tasks;

use crate::Size;
use crate::config::Name;
use crate::config::host::{Guest, HostConfig, HostConflict};
use crate::inventory::Host;

/// What a plan is made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// VMs that are no longer in the file are removed.
    pub prune: bool,
}

/// What is to be done, and who has what then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Why it cannot be carried out; empty if it can.
    #[serde(skip)]
    pub conflicts: Vec<HostConflict>,
    /// What happens to each VM, by name; VMs to which nothing happens are left out.
    pub actions: Vec<Action>,
    /// What each VM gets, by name.
    pub allocations: BTreeMap<Name, Allocation>,
    /// Control groups, each before those below it.
    pub cgroups: Vec<Cgroup>,
    /// What is promised and what is left.
    pub capacity: Capacity,
    /// What is worth knowing and stands in nobody's way.
    pub notes: Vec<String>,
}

/// What one VM gets of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Allocation {
    /// Whose reservation it is from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Name>,
    /// Its CPUs.
    pub cpus: HostCpus,
    /// Its memory.
    pub memory: MemoryShare,
    /// Path of its control group below the root of the hierarchy.
    pub cgroup: String,
    /// Whether its threads need a core-scheduling cookie of their tenant's.
    pub core_scheduling: bool,
    /// `oom_score_adj` of its processes: what is left of their memory above its guarantee decides who
    /// pays first when the host runs out.
    pub oom_score_adj: i32,
    /// Controllers that are missing, whose limits do not hold: with `enforce = "best-effort"` only.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub unenforced: BTreeSet<&'static str>,
}

/// What one VM gets of the host's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryShare {
    /// What the guest sees.
    pub size: Size,
    /// What it keeps in any case.
    pub min: Size,
    /// Bound of what its VMM needs beside the guest's memory.
    pub overhead: Size,
    /// The huge pages the guest's memory is made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hugepages: Option<Size>,
}

impl MemoryShare {
    /// Ordinary memory guaranteed to it: huge pages are not counted by `memory.min`.
    #[must_use]
    pub fn floor(&self) -> u64 {
        let guest = if self.hugepages.is_some() { 0 } else { self.min.bytes() };
        guest.saturating_add(self.overhead.bytes())
    }

    /// Ordinary memory it can have at most.
    #[must_use]
    pub fn limit(&self) -> u64 {
        let guest = if self.hugepages.is_some() { 0 } else { self.size.bytes() };
        guest.saturating_add(self.overhead.bytes())
    }

    /// All memory it takes of a reservation.
    #[must_use]
    pub fn charged(&self) -> u64 {
        self.floor().saturating_add(self.huge())
    }

    /// Bytes in huge pages.
    #[must_use]
    pub fn huge(&self) -> u64 {
        if self.hugepages.is_some() { self.size.bytes() } else { 0 }
    }
}

impl Plan {
    /// Whether it can be carried out.
    #[must_use]
    pub fn is_admitted(&self) -> bool {
        self.conflicts.is_empty()
    }

    /// Whether carrying it out changes something.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        self.actions.iter().any(|action| action.kind.is_change())
    }
}

/// Divides `host` as `config` says, where `present` is booked.
#[must_use]
pub fn plan(config: &HostConfig, host: &Host, present: &Present, options: Options) -> Plan {
    divide(config, host, present, options, None)
}

/// The plan with `guest` beside what the file has, served after everyone else.
fn divide(
    config: &HostConfig,
    host: &Host,
    present: &Present,
    options: Options,
    guest: Option<&Guest>,
) -> Plan {
    let mut roster = roster::Roster::of(config, present, options, guest);
    let mut cores = cores::Cores::of(config, host);
    let mut problems = Problems { conflicts: Vec::new(), notes: Vec::new() };
    cores.check(config, host, &mut problems);
    dedicated::place(&mut roster, &mut cores, host, &mut problems);
    let shared = shared::divide(config, host, &roster, &cores, &mut problems);
    let sums = sums::check(config, host, present, &mut roster, &shared, &mut problems);
    let allocations = cgroup::allocations(config, host, &roster, &shared, &mut problems);
    let cgroups = cgroup::tree(config, host, &roster, &shared, &allocations);
    change::check(config, present, &mut problems);
    let conflicts = problems.merged();
    let actions = change::actions(present, &roster, &conflicts, &allocations, &cgroups, options);
    let capacity = capacity::of(config, host, &cores, &sums);
    let allocations = allocations.into_iter().filter(|(name, _)| roster.is_in_file(name)).collect();
    Plan { conflicts, actions, allocations, cgroups, capacity, notes: problems.notes }
}

/// What stands in the way, as it is found.
struct Problems {
    conflicts: Vec<HostConflict>,
    notes: Vec<String>,
}

impl Problems {
    fn push(&mut self, conflict: HostConflict) {
        self.conflicts.push(conflict);
    }

    /// One conflict for all VMs of a section that meet the same one.
    fn merged(&mut self) -> Vec<HostConflict> {
        let mut merged: Vec<HostConflict> = Vec::new();
        let mut seen: BTreeMap<(crate::config::Code, String), usize> = BTreeMap::new();
        for conflict in std::mem::take(&mut self.conflicts) {
            let key = conflict.keys.first().cloned().unwrap_or_default();
            match seen.get(&(conflict.code, key.clone())) {
                Some(&index) if !conflict.vms.is_empty() && !merged[index].vms.is_empty() => {
                    // VMs come one after the other, so one twice is beside itself.
                    for vm in conflict.vms {
                        if merged[index].vms.last() != Some(&vm) {
                            merged[index].vms.push(vm);
                        }
                    }
                }
                _ => {
                    seen.insert((conflict.code, key), merged.len());
                    merged.push(conflict);
                }
            }
        }
        for conflict in merged.iter_mut().filter(|conflict| conflict.vms.len() > 1) {
            let others: Vec<&str> = conflict.vms[1..].iter().take(3).map(Name::as_str).collect();
            let rest = conflict.vms.len() - 1 - others.len();
            let rest = if rest == 0 { String::new() } else { format!(" and {rest} more") };
            conflict.message.push_str(&format!("; likewise {}{rest}", others.join(", ")));
        }
        merged
    }
}

#[cfg(test)]
#[path = "golden_test.rs"]
mod golden_test;
#[cfg(test)]
#[path = "plan_test.rs"]
mod plan_test;
