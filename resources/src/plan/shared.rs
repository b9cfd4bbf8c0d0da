//! Which CPUs shared VMs have together, and how they are divided where siblings of a core must not
//! serve two tenants.

use std::collections::{BTreeMap, BTreeSet};

use super::cores::{Core, Cores};
use super::roster::Roster;
use super::{HostCpus, Problems};
use crate::config::host::{HostConfig, HostConflict, Smt};
use crate::config::{Code, Name};
use crate::inventory::Host;
use crate::{CpuSet, Thousandths};

/// The CPUs that nobody has for himself.
pub(super) struct Shared {
    /// All of them.
    pub cpus: CpuSet,
    /// Those of each tenant, and of VMs without one; none where everyone has all.
    groups: Option<BTreeMap<Option<Name>, CpuSet>>,
    /// Those of a tenant that needs none, where they are divided.
    none: CpuSet,
    /// What each tenant may use of them at any rate, in thousandths: its reservation less the CPUs
    /// its VMs have for themselves.
    pub demands: BTreeMap<Option<Name>, u64>,
    /// Whether the kernel has to keep tenants apart on the siblings of a core.
    pub core_scheduling: bool,
}

impl Shared {
    /// The CPUs that shared VMs of `tenant` run on.
    pub fn of(&self, tenant: Option<&Name>) -> &CpuSet {
        match &self.groups {
            None => &self.cpus,
            Some(groups) => groups.get(&tenant.cloned()).unwrap_or(&self.none),
        }
    }
}

pub(super) fn divide(
    config: &HostConfig,
    host: &Host,
    roster: &Roster<'_>,
    cores: &Cores,
    problems: &mut Problems,
) -> Shared {
    let cpus = cores.shared();
    let demands = demands(config, roster);
    let several = cores.cores.iter().any(|core| core.free.len() > 1);
    let tenants = demands.values().filter(|&&demand| demand > 0).count();
    let apart = config.smt == Smt::PerTenant && several && tenants > 1;
    let mut shared = Shared {
        cpus,
        groups: None,
        none: CpuSet::new(),
        demands,
        core_scheduling: apart && host.core_scheduling,
    };
    if apart && !host.core_scheduling {
        divide_cores(roster, cores, &mut shared, problems);
    }
    shared
}

/// What each tenant's shared VMs may use at any rate, at least what they are promised.
fn demands(config: &HostConfig, roster: &Roster<'_>) -> BTreeMap<Option<Name>, u64> {
    let mut demands: BTreeMap<Option<Name>, u64> = BTreeMap::new();
    let mut promised: BTreeMap<Option<Name>, u64> = BTreeMap::new();
    for (name, tenant) in &config.tenants {
        demands.insert(Some(name.clone()), tenant.cpus.thousandths());
    }
    for entry in &roster.entries {
        let tenant = entry.guest.tenant.clone();
        match &entry.cpus {
            Some(HostCpus::Shared { min, .. }) => {
                // A VM that is promised nothing runs somewhere nevertheless.
                *promised.entry(tenant).or_default() += min.thousandths().max(1);
            }
            Some(HostCpus::Dedicated { cpus, .. }) => {
                let demand = demands.entry(tenant).or_default();
                *demand = demand.saturating_sub(Thousandths::whole(cpus.len()).thousandths());
            }
            None => {}
        }
    }
    for (tenant, promised) in promised {
        let demand = demands.entry(tenant).or_default();
        *demand = (*demand).max(promised);
    }
    demands
}

/// Gives each tenant cores of its own: first what it needs, then in turn what is left to whom has
/// the least for what it needs.
fn divide_cores(roster: &Roster<'_>, cores: &Cores, shared: &mut Shared, problems: &mut Problems) {
    let mut order: Vec<(&Option<Name>, u64)> =
        shared.demands.iter().filter(|(_, demand)| **demand > 0).map(|(t, d)| (t, *d)).collect();
    order.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    let mut free = cores.cores.iter().filter(|core| !core.free.is_empty()).peekable();
    let mut groups: BTreeMap<Option<Name>, CpuSet> = BTreeMap::new();
    for (tenant, demand) in &order {
        let mut cpus = CpuSet::new();
        while Thousandths::whole(cpus.len()).thousandths() < *demand {
            let Some(Core { free, .. }) = free.next() else { break };
            cpus = cpus.union(free);
        }
        if Thousandths::whole(cpus.len()).thousandths() < *demand {
            problems.push(too_few(roster, tenant.as_ref(), *demand, &cpus, shared.cpus.len()));
        }
        groups.insert((*tenant).clone(), cpus);
    }
    for core in free {
        let least = order.iter().min_by_key(|(tenant, demand)| {
            let has = u64::from(groups.get(*tenant).map_or(0, CpuSet::len));
            // The ratio in whole numbers, to stay exact.
            (has * 1_000_000_000 / demand, (*tenant).clone())
        });
        if let Some(cpus) = least.and_then(|(tenant, _)| groups.get_mut(*tenant)) {
            *cpus = cpus.union(&core.free);
        }
    }
    shared.groups = Some(groups);
}

fn too_few(
    roster: &Roster<'_>,
    tenant: Option<&Name>,
    demand: u64,
    given: &CpuSet,
    all: u32,
) -> HostConflict {
    let demand = Thousandths::from_thousandths(demand);
    let (who, key) = match tenant {
        Some(name) => (format!("tenant {name}"), format!("tenant.{name}.cpus")),
        None => ("VMs without a tenant".to_owned(), "host.smt".to_owned()),
    };
    let message = format!(
        "{who} would need cores with {demand} shared CPUs for itself, more than the {} left of {all} when no core \
         serves two tenants, and this kernel cannot schedule by cores",
        given.len()
    );
    let mut conflict = HostConflict::new(Code::SmtSibling, key, message)
        .remedy("make reservations whole cores")
        .remedy("use a kernel with CONFIG_SCHED_CORE")
        .remedy("smt = \"shared\", if tenants trust each other");
    let vms: BTreeSet<&Name> = roster
        .entries
        .iter()
        .filter(|entry| entry.in_file && entry.guest.tenant.as_ref() == tenant)
        .filter(|entry| entry.cpus.as_ref().is_some_and(|cpus| cpus.dedicated().is_none()))
        .map(|entry| entry.name())
        .collect();
    conflict.vms = vms.into_iter().cloned().collect();
    conflict
}
