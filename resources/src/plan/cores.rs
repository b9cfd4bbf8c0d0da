//! [`Cores`]: the CPUs of a host by core, and which of them are still free to be somebody's own.

use std::collections::BTreeMap;

use super::Problems;
use crate::CpuSet;
use crate::config::Code;
use crate::config::host::{HostConfig, HostConflict, Smt};
use crate::inventory::Host;

/// The CPUs that VMs may have.
pub(super) struct Cores {
    /// By NUMA node and number, so that CPUs that are close come together.
    pub cores: Vec<Core>,
    /// CPUs that are online.
    pub online: CpuSet,
    /// Those of them that are not kept for the host.
    pub usable: CpuSet,
    /// Whether dedicated CPUs are given by whole cores.
    pub whole: bool,
}

/// One core.
pub(super) struct Core {
    /// The lowest number of its siblings.
    pub id: u32,
    pub node: u32,
    /// Its siblings that are online.
    pub online: CpuSet,
    /// Those of them that are not kept for the host.
    pub usable: CpuSet,
    /// Those of them that nobody has for himself.
    pub free: CpuSet,
}

impl Core {
    /// Whether all of it is free, its siblings that the host keeps included.
    fn is_free(&self) -> bool {
        self.free == self.online
    }
}

impl Cores {
    pub fn of(config: &HostConfig, host: &Host) -> Self {
        let online = host.online();
        let usable = online.difference(&config.reserved_cpus);
        let mut cores: BTreeMap<(u32, u32), CpuSet> = BTreeMap::new();
        for cpu in &host.cpus {
            cores.entry((cpu.node, cpu.core)).or_default().insert(cpu.id);
        }
        let cores = cores.into_iter().map(|((node, id), online)| {
            let usable = online.intersection(&usable);
            Core { id, node, free: usable.clone(), usable, online }
        });
        Self { cores: cores.collect(), online, usable, whole: config.smt == Smt::PerTenant }
    }

    /// Notes what is wrong with what the host keeps.
    pub fn check(&self, config: &HostConfig, host: &Host, problems: &mut Problems) {
        let missing = config.reserved_cpus.difference(&self.online);
        if !missing.is_empty() {
            let what = if missing.is_disjoint(&host.offline) { "not there" } else { "offline" };
            let message = format!(
                "host.reserve.cpus has CPUs that are {what}: {missing}; online are {}",
                self.online
            );
            let conflict = HostConflict::new(Code::CpuOffline, "host.reserve.cpus", message);
            problems.push(conflict.remedy("reserve CPUs that are online"));
        }
        let halves =
            self.cores.iter().filter(|core| !core.usable.is_empty() && core.usable != core.online);
        let rest: CpuSet = halves.flat_map(|core| core.usable.iter().collect::<Vec<_>>()).collect();
        if self.whole && !rest.is_empty() {
            problems.notes.push(format!(
                "CPUs {rest} are siblings of CPUs kept for the host: shared VMs use them, dedicated ones cannot; \
                 host.reserve.cpus = \"{}\" keeps whole cores",
                rest.union(&config.reserved_cpus)
            ));
        }
    }

    /// How many CPUs of `node`, or of all nodes, can still be dedicated.
    pub fn free(&self, node: Option<u32>) -> u32 {
        let cores = self.cores.iter().filter(|core| node.is_none_or(|node| core.node == node));
        cores.filter(|core| !self.whole || core.is_free()).map(|core| core.free.len()).sum()
    }

    /// NUMA nodes that have CPUs.
    pub fn nodes(&self) -> Vec<u32> {
        let mut nodes: Vec<u32> = self.cores.iter().map(|core| core.node).collect();
        nodes.dedup();
        nodes
    }

    /// `need` free CPUs of `node`, in order of their cores; with whole cores as many more as fill
    /// them up. Fewer if there are not so many.
    pub fn pick(&self, need: u32, node: u32) -> CpuSet {
        let mut picked = CpuSet::new();
        let on_node = || self.cores.iter().filter(|core| core.node == node);
        for core in on_node().filter(|core| core.is_free()) {
            let missing = need.saturating_sub(picked.len());
            // Without whole cores the rest comes from a core that is in use, where it fits.
            if missing == 0 || (!self.whole && missing < core.free.len()) {
                break;
            }
            picked = picked.union(&core.free);
        }
        if self.whole {
            return picked;
        }
        let mut parts: Vec<&Core> =
            on_node().filter(|core| core.free.is_disjoint(&picked)).collect();
        parts.sort_by_key(|core| (core.free.len(), core.id));
        for core in parts {
            let missing = need.saturating_sub(picked.len());
            core.free.iter().take(missing as usize).for_each(|cpu| picked.insert(cpu));
        }
        picked
    }

    /// The CPUs of `cpus` with what fills up their cores, where cores are given whole.
    pub fn filled_up(&self, cpus: &CpuSet) -> CpuSet {
        if !self.whole {
            return cpus.clone();
        }
        let touched = self.cores.iter().filter(|core| !core.online.is_disjoint(cpus));
        touched.fold(cpus.clone(), |all, core| all.union(&core.online))
    }

    /// NUMA nodes of `cpus`.
    pub fn nodes_of(&self, cpus: &CpuSet) -> CpuSet {
        let touched = self.cores.iter().filter(|core| !core.online.is_disjoint(cpus));
        touched.map(|core| core.node).collect()
    }

    /// `cpus` in the order in which vCPUs are pinned: core by core.
    pub fn in_order(&self, cpus: &CpuSet) -> Vec<u32> {
        let of_core = |core: &Core| core.online.intersection(cpus).iter().collect::<Vec<_>>();
        self.cores.iter().flat_map(of_core).collect()
    }

    /// Takes `cpus` away from what is free.
    pub fn take(&mut self, cpus: &CpuSet) {
        for core in &mut self.cores {
            core.free = core.free.difference(cpus);
        }
    }

    /// What nobody has for himself.
    pub fn shared(&self) -> CpuSet {
        self.cores.iter().fold(CpuSet::new(), |all, core| all.union(&core.free))
    }
}
