//! [`Present`]: what is booked on a host already. The record of it is kept elsewhere; this is what a
//! plan has to know of it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Cgroup, Owner, Plan};
use crate::config::Name;
use crate::config::host::{Guest, HostConfig, PowerState};
use crate::inventory::Host;
use crate::{CpuSet, Size, Thousandths};

/// What is booked on a host, whether it runs or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Present {
    /// What the host had when the last plan was carried out.
    pub footing: Option<Footing>,
    /// Who holds CPUs and memory, by name.
    pub bookings: BTreeMap<Name, Booking>,
    /// Disks in pools, by path; they stay when their VM goes.
    pub volumes: BTreeMap<PathBuf, StoredVolume>,
}

/// What a host had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Footing {
    /// CPUs that were online.
    pub online: CpuSet,
    /// Memory, huge pages included.
    pub memory: Size,
}

/// Who put a VM there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The host file, by `apply`.
    File,
    /// A command, such as `run`.
    Command,
}

/// One VM that holds a share of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Booking {
    /// The VM as it was when it was booked.
    pub guest: Guest,
    /// Its CPUs.
    pub cpus: HostCpus,
    /// The limits of its control group; none where they were not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<Cgroup>,
    /// Whether its threads need a core-scheduling cookie.
    #[serde(default)]
    pub core_scheduling: bool,
    /// `oom_score_adj` of its processes.
    #[serde(default)]
    pub oom_score_adj: i32,
    /// Whether its VMM lives.
    pub running: bool,
    /// Who put it there.
    pub origin: Origin,
}

/// A disk in a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredVolume {
    /// Name of the pool.
    pub pool: Name,
    /// The VM it was made for.
    pub vm: Name,
    /// The VM's tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Name>,
    /// Its size as the guest sees it.
    pub size: Size,
}

/// Host CPUs of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum HostCpus {
    /// CPUs of its own.
    Dedicated {
        /// All of them: those of its vCPUs and workers, and what fills up whole cores.
        cpus: CpuSet,
        /// The CPU of each vCPU.
        pins: Vec<u32>,
        /// Where its other threads run.
        workers: CpuSet,
        /// NUMA nodes they are on; guest memory is wanted there.
        nodes: CpuSet,
        /// How they were found.
        placed: Placed,
    },
    /// A share of common CPUs.
    Shared {
        /// Those.
        cpus: CpuSet,
        /// CPU time it gets at any rate.
        min: Thousandths,
        /// CPU time it never gets more of.
        max: Thousandths,
    },
}

/// How dedicated CPUs were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placed {
    /// The file names them.
    Pinned,
    /// One node had room: of those that had, the one with the least.
    OneNode,
    /// No node had room.
    Spread,
}

impl HostCpus {
    /// The CPUs it may run on.
    #[must_use]
    pub fn cpus(&self) -> &CpuSet {
        match self {
            Self::Dedicated { cpus, .. } | Self::Shared { cpus, .. } => cpus,
        }
    }

    /// What it takes of a reservation: all its CPUs if dedicated, its guaranteed time if not.
    #[must_use]
    pub fn charge(&self) -> Thousandths {
        match self {
            Self::Dedicated { cpus, .. } => Thousandths::whole(cpus.len()),
            Self::Shared { min, .. } => *min,
        }
    }

    /// CPUs nobody else has.
    #[must_use]
    pub fn dedicated(&self) -> Option<&CpuSet> {
        match self {
            Self::Dedicated { cpus, .. } => Some(cpus),
            Self::Shared { .. } => None,
        }
    }
}

impl Present {
    /// What is booked once `plan`, made from `config` for `host` on top of this, has been carried out.
    /// `None` if it cannot be.
    #[must_use]
    pub fn after(
        &self,
        plan: &Plan,
        config: &HostConfig,
        host: &Host,
        prune: bool,
    ) -> Option<Self> {
        if !plan.is_admitted() {
            return None;
        }
        let gone = |name: &Name, booking: &Booking| {
            booking.origin == Origin::File && !config.guests.contains_key(name)
        };
        let mut bookings = self.bookings.clone();
        bookings.retain(|name, booking| !(prune && gone(name, booking)));
        let groups: BTreeMap<&Name, &Cgroup> = plan
            .cgroups
            .iter()
            .filter_map(|group| match &group.owner {
                Owner::Vm(vm) => Some((vm, group)),
                Owner::Host | Owner::Tenant(_) => None,
            })
            .collect();
        let mut volumes = self.volumes.clone();
        for (name, allocation) in &plan.allocations {
            let guest = config.guests.get(name)?;
            let booking = Booking {
                guest: guest.clone(),
                cpus: allocation.cpus.clone(),
                cgroup: groups.get(name).copied().cloned(),
                core_scheduling: allocation.core_scheduling,
                oom_score_adj: allocation.oom_score_adj,
                running: guest.state == PowerState::Running,
                origin: Origin::File,
            };
            bookings.insert(name.clone(), booking);
            for (disk, volume) in guest.volumes() {
                let stored = StoredVolume {
                    pool: volume.pool.clone(),
                    vm: name.clone(),
                    tenant: guest.tenant.clone(),
                    size: volume.size,
                };
                volumes.insert(guest.vm.disk[disk].path.clone(), stored);
            }
        }
        let footing = Footing { online: host.online(), memory: host.memory };
        Some(Self { footing: Some(footing), bookings, volumes })
    }
}
