//! What of a host is promised, and what still fits.

use std::collections::BTreeMap;

use serde::Serialize;

use super::cores::Cores;
use super::sums::Sums;
use super::{Account, Options, Present, plan};
use crate::config::Name;
use crate::config::host::{Guest, HostConfig};
use crate::inventory::Host;
use crate::{Size, Thousandths};

/// What of a host is promised, and what is left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Capacity {
    /// Host CPUs, in thousandths: to tenants, and to VMs without one.
    pub cpus: Amounts,
    /// Memory in bytes, huge pages included: to tenants, and to VMs without one.
    pub memory: Amounts,
    /// vCPUs of shared VMs.
    pub vcpus: Amounts,
    /// Huge pages by size.
    pub hugepages: BTreeMap<Size, Amounts>,
    /// Storage of pools in bytes, overcommit included.
    pub pools: BTreeMap<Name, Amounts>,
    /// Of each tenant's reservation.
    pub tenants: BTreeMap<Name, TenantCapacity>,
    /// The largest VM without a tenant that still fits.
    pub largest: Largest,
}

/// One kind of thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amounts {
    /// What there is.
    pub physical: u64,
    /// What of it is kept for the host.
    pub reserved: u64,
    /// What of the rest is promised.
    pub promised: u64,
    /// What can still be promised.
    pub left: u64,
}

/// What of a reservation is promised to VMs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TenantCapacity {
    /// Host CPUs, in thousandths.
    pub cpus: Amounts,
    /// Memory in bytes.
    pub memory: Amounts,
    /// Storage in bytes, by pool.
    pub storage: BTreeMap<Name, Amounts>,
}

/// The most of each that one more VM could have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Largest {
    /// Memory and overhead of its VMM together, in bytes.
    pub memory: u64,
    /// Guaranteed CPU time, in thousandths of a CPU.
    pub cpu_min: u64,
    /// vCPUs, if it shares CPUs.
    pub vcpus: u64,
    /// Dedicated CPUs on one NUMA node.
    pub dedicated_on_a_node: u32,
    /// Dedicated CPUs.
    pub dedicated: u32,
}

impl Amounts {
    fn of(account: &Account, reserved: u64) -> Self {
        Self {
            physical: account.total.saturating_add(reserved),
            reserved,
            promised: account.total - account.left,
            left: account.left,
        }
    }
}

pub(super) fn of(config: &HostConfig, host: &Host, cores: &Cores, sums: &Sums) -> Capacity {
    let reserved = config.reserved_cpus.intersection(&cores.online).len();
    let reserved = Thousandths::whole(reserved).thousandths();
    let kept = host.memory.bytes().min(config.reserved_memory.bytes());
    let amounts = |account: &Account| Amounts::of(account, 0);
    let tenants = sums.tenants.iter().map(|(name, tenant)| {
        let storage = tenant.storage.iter().map(|(pool, account)| (pool.clone(), amounts(account)));
        let capacity = TenantCapacity {
            cpus: amounts(&tenant.cpus),
            memory: amounts(&tenant.memory),
            storage: storage.collect(),
        };
        (name.clone(), capacity)
    });
    // What is promised to tenants is not free, though nobody runs there yet.
    let whole_left = u32::try_from(sums.cpus.left / 1000).unwrap_or(u32::MAX);
    let on_a_node = cores.nodes().into_iter().map(|node| cores.free(Some(node))).max();
    Capacity {
        cpus: Amounts::of(&sums.cpus, reserved),
        memory: Amounts::of(&sums.memory, kept),
        vcpus: amounts(&sums.vcpus),
        hugepages: sums.hugepages.iter().map(|(page, account)| (*page, amounts(account))).collect(),
        pools: sums
            .pools
            .iter()
            .map(|(name, pool)| {
                let own = amounts(&pool.storage);
                let left = own.left.min(pool.beside.unwrap_or(u64::MAX));
                (name.clone(), Amounts { left, ..own })
            })
            .collect(),
        tenants: tenants.collect(),
        largest: Largest {
            memory: sums.memory.left.min(sums.ordinary.left).min(sums.limits.left),
            cpu_min: sums.cpus.left,
            vcpus: sums.vcpus.left,
            dedicated_on_a_node: on_a_node.unwrap_or(0).min(whole_left),
            dedicated: cores.free(None).min(whole_left),
        },
    }
}

/// Most VMs that [`how_many_more`] looks for.
const MOST: u32 = 10_000;

/// How many more VMs like `guest` fit beside everything in `config`; 0 also if that does not fit
/// itself. Exact: each answer is a plan. At most 10,000.
#[must_use]
pub fn how_many_more(config: &HostConfig, host: &Host, present: &Present, guest: &Guest) -> u32 {
    let fits = |count: u32| {
        let mut config = config.clone();
        let copies = (0..).filter_map(|n| format!("more-{n}").parse::<Name>().ok());
        let names: Vec<Name> =
            copies.filter(|name| !config.guests.contains_key(name)).take(count as usize).collect();
        for name in names {
            config.guests.insert(name.clone(), copy(guest, &name));
        }
        plan(&config, host, present, Options::default()).is_admitted()
    };
    if !fits(0) {
        return 0;
    }
    let (mut fitting, mut beyond) = (0, 1);
    while beyond <= MOST && fits(beyond) {
        (fitting, beyond) = (beyond, beyond * 2);
    }
    let mut beyond = beyond.min(MOST + 1);
    while beyond - fitting > 1 {
        let middle = fitting + (beyond - fitting) / 2;
        if fits(middle) { fitting = middle } else { beyond = middle }
    }
    fitting
}

/// `guest` under another name, with disks of its own.
fn copy(guest: &Guest, name: &Name) -> Guest {
    let mut copy = guest.clone();
    copy.name = name.clone();
    for (disk_name, disk) in &mut copy.vm.disk {
        if disk.volume.is_some() {
            disk.path = disk.path.with_file_name(format!("{name}.{disk_name}.img"));
        }
    }
    copy
}
