//! Which host CPUs a dedicated VM has for itself.
//!
//! Who has some keeps them. Then come VMs that name their CPUs, then those that name their node, then
//! the others, the largest first. A VM is put on the node where it leaves the least, or over the
//! fewest nodes if it fits on none.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use super::cores::Cores;
use super::roster::{Entry, Roster};
use super::{Account, HostCpus, Placed, Problems, Unit};
use crate::config::host::{CpuShare, HostConflict};
use crate::config::{Code, Name};
use crate::inventory::Host;
use crate::{CpuSet, Thousandths};

/// Gives CPUs to every dedicated VM of `roster`, and its share to every other.
pub(super) fn place(
    roster: &mut Roster<'_>,
    cores: &mut Cores,
    host: &Host,
    problems: &mut Problems,
) {
    let mut placer = Placer {
        cores,
        owners: HashMap::new(),
        memory: host.nodes.iter().map(|node| (node.id, node.memory.bytes())).collect(),
        problems,
    };
    let mut waiting = Vec::new();
    for (index, entry) in roster.entries.iter_mut().enumerate() {
        match &entry.guest.cpu {
            CpuShare::Shared { min, max } => {
                entry.cpus = Some(HostCpus::Shared { cpus: CpuSet::new(), min: *min, max: *max });
            }
            CpuShare::Dedicated { .. } => match placer.kept(entry) {
                Kept::As(cpus) => placer.give(entry, cpus),
                Kept::Refused(conflict) => placer.problems.push(*conflict),
                Kept::Nothing => waiting.push(index),
            },
        }
    }
    waiting.sort_by_key(|&index| {
        let entry = &roster.entries[index];
        let Need { count, pins, numa } = Need::of(entry);
        (entry.last, pins.is_none(), numa.is_none(), Reverse(count), entry.name())
    });
    for index in waiting {
        let entry = &mut roster.entries[index];
        match placer.found(entry) {
            Ok(cpus) => placer.give(entry, cpus),
            Err(conflict) => placer.problems.push(*conflict),
        }
    }
}

/// What a VM needs.
struct Need<'g> {
    /// CPUs for vCPUs and workers.
    count: u32,
    pins: Option<&'g CpuSet>,
    numa: Option<u32>,
}

impl<'g> Need<'g> {
    fn of(entry: &Entry<'g>) -> Self {
        match &entry.guest.cpu {
            CpuShare::Dedicated { pins, workers, numa } => Self {
                count: entry.guest.vm.vcpus.saturating_add(*workers),
                pins: pins.as_ref(),
                numa: *numa,
            },
            CpuShare::Shared { .. } => Self { count: 0, pins: None, numa: None },
        }
    }
}

/// What became of CPUs that a VM had.
enum Kept {
    As(HostCpus),
    Refused(Box<HostConflict>),
    /// It had none, or ones that no longer suit it.
    Nothing,
}

type Found = Result<HostCpus, Box<HostConflict>>;

struct Placer<'p, 'a> {
    cores: &'p mut Cores,
    /// Who has a CPU, and whether for itself and not only to fill up a core.
    owners: HashMap<u32, (&'a Name, bool)>,
    /// Memory of each node that is not wanted by a VM there yet.
    memory: BTreeMap<u32, u64>,
    problems: &'p mut Problems,
}

impl<'a> Placer<'_, 'a> {
    fn give(&mut self, entry: &mut Entry<'a>, given: HostCpus) {
        if let HostCpus::Dedicated { cpus, pins, workers, nodes, .. } = &given {
            self.cores.take(cpus);
            for cpu in cpus.iter() {
                let own = pins.contains(&cpu) || workers.contains(cpu);
                self.owners.insert(cpu, (entry.name(), own));
            }
            let memory = entry.memory.charged() / u64::from(nodes.len().max(1));
            for node in nodes.iter() {
                let left = self.memory.entry(node).or_default();
                *left = left.saturating_sub(memory);
            }
        }
        entry.cpus = Some(given);
    }

    /// The CPUs that a VM has already, if they still suit it.
    fn kept(&self, entry: &Entry<'_>) -> Kept {
        let Some(booking) = entry.booking else { return Kept::Nothing };
        let HostCpus::Dedicated { cpus, .. } = &booking.cpus else { return Kept::Nothing };
        let (was, is) = (&booking.guest, entry.guest);
        if was.cpu != is.cpu || was.vm.vcpus != is.vm.vcpus {
            return Kept::Nothing;
        }
        let free = self.cores.shared();
        let conflict = if !cpus.is_subset(&self.cores.online) {
            let gone = cpus.difference(&self.cores.online);
            let message = format!(
                "{} has CPUs {cpus} for itself, of which {gone} went offline",
                entry.label()
            );
            refusal(Code::HostShrank, entry, "cpu", message)
                .remedy(format!("bring CPUs online again: {gone}"))
                .remedy(format!("stop {}; it gets others when it is started again", entry.name()))
        } else if !cpus.is_subset(&self.cores.usable) {
            let taken = cpus.difference(&self.cores.usable);
            let message = format!(
                "CPUs {taken} are to be kept for the host, but {} has them for itself and runs",
                entry.label()
            );
            HostConflict {
                keys: vec!["host.reserve.cpus".into()],
                ..refusal(Code::CpuReserved, entry, "cpu", message)
            }
            .remedy("reserve other CPUs")
            .remedy(format!("stop {}; it gets others when it is started again", entry.name()))
        } else if !cpus.is_subset(&free) {
            let taken = cpus.difference(&free);
            let owner = taken
                .iter()
                .find_map(|cpu| self.owners.get(&cpu))
                .map_or("another VM", |(name, _)| name);
            let message =
                format!("{} has CPUs {taken} for itself, but so has {owner}", entry.label());
            refusal(Code::PinOverlap, entry, "cpu", message)
                .remedy(format!("restart {}", entry.name()))
        } else if self.cores.filled_up(cpus) != *cpus {
            let message = format!(
                "smt = \"per-tenant\" gives whole cores, but {} runs on parts of some: CPUs {cpus}",
                entry.label()
            );
            HostConflict {
                keys: vec!["host.smt".into(), "vm".into()],
                ..refusal(Code::LiveChange, entry, "cpu", message)
            }
            .remedy(format!("stop {} first", entry.name()))
        } else {
            return Kept::As(booking.cpus.clone());
        };
        // What does not run can have others.
        if booking.running { Kept::Refused(Box::new(conflict)) } else { Kept::Nothing }
    }

    fn found(&self, entry: &Entry<'_>) -> Found {
        let need = Need::of(entry);
        match (need.pins, need.numa) {
            (Some(pins), _) => self.pinned(entry, &need, pins),
            (None, Some(node)) => self.on_node(entry, &need, node),
            (None, None) => self.anywhere(entry, &need),
        }
    }

    fn dedicated(
        &self,
        entry: &Entry<'_>,
        cpus: CpuSet,
        order: &[u32],
        placed: Placed,
    ) -> HostCpus {
        let vcpus = entry.guest.vm.vcpus as usize;
        let pins: Vec<u32> = order.iter().copied().take(vcpus).collect();
        let workers = match entry.guest.cpu {
            CpuShare::Dedicated { workers: 1.., .. } => {
                cpus.difference(&pins.iter().copied().collect())
            }
            _ => cpus.clone(),
        };
        let nodes = self.cores.nodes_of(&cpus);
        HostCpus::Dedicated { cpus, pins, workers, nodes, placed }
    }

    fn pinned(&self, entry: &Entry<'_>, need: &Need<'_>, pins: &CpuSet) -> Found {
        let label = entry.label();
        let conflict =
            |code, message: String| Err(Box::new(refusal(code, entry, "cpu.pins", message)));
        let missing = pins.difference(&self.cores.online);
        if !missing.is_empty() {
            let message = format!(
                "{label} is pinned to CPUs that are not online: {missing}; online are {}",
                self.cores.online
            );
            return conflict(Code::CpuOffline, message);
        }
        let reserved = pins.difference(&self.cores.usable);
        if !reserved.is_empty() {
            let message = format!(
                "{label} is pinned to CPUs that are kept for the host: {reserved}; choose \
                 others, or change host.reserve.cpus"
            );
            return conflict(Code::CpuReserved, message);
        }
        if let Some(node) = need.numa {
            let nodes = self.cores.nodes_of(pins);
            if nodes != std::iter::once(node).collect() {
                let message = format!(
                    "{label} is to be on NUMA node {node}, but its pins are on {nodes}; leave \
                     out one of the two"
                );
                return conflict(Code::NumaFit, message);
            }
        }
        let whole = self.cores.filled_up(pins);
        let free = self.cores.shared();
        if let Some(cpu) = whole.difference(&free).iter().next() {
            let message = match self.owners.get(&cpu) {
                Some((owner, true)) if pins.contains(cpu) => {
                    return conflict(
                        Code::PinOverlap,
                        format!(
                            "{label} is pinned to CPU {cpu}, which {owner} has for itself; \
                             choose another, or unpin one of the two"
                        ),
                    );
                }
                Some((owner, _)) => format!(
                    "{label} is pinned to CPUs {pins}, but core {whole} serves {owner} by its \
                     sibling {cpu}; choose a core of its own, or smt = \"shared\""
                ),
                None => format!(
                    "{label} is pinned to CPUs {pins}, but their sibling {cpu} is kept for the \
                     host; reserve whole cores, choose others, or smt = \"shared\""
                ),
            };
            return conflict(Code::SmtSibling, message);
        }
        let order: Vec<u32> = pins.iter().collect();
        Ok(self.dedicated(entry, whole, &order, Placed::Pinned))
    }

    fn on_node(&self, entry: &Entry<'_>, need: &Need<'_>, node: u32) -> Found {
        let cpus = self.cores.pick(need.count, node);
        if cpus.len() >= need.count {
            let order = self.cores.in_order(&cpus);
            return Ok(self.dedicated(entry, cpus, &order, Placed::OneNode));
        }
        let label = entry.label();
        let message = if self.cores.nodes().contains(&node) {
            format!(
                "{label} needs {} CPUs of its own, more than NUMA node {node} has free",
                need.count
            )
        } else {
            format!("{label} is to be on NUMA node {node}, which has no CPU of this host")
        };
        let on_node: CpuSet = self
            .cores
            .cores
            .iter()
            .filter(|core| core.node == node)
            .flat_map(|core| core.usable.iter().collect::<Vec<_>>())
            .collect();
        let conflict = refusal(Code::NumaFit, entry, "numa", message)
            .remedy("leave numa out: it may then be on several nodes");
        Err(Box::new(self.account(&on_node, cpus.len()).refuse(thousand(need.count), conflict)))
    }

    fn anywhere(&self, entry: &Entry<'_>, need: &Need<'_>) -> Found {
        let memory = entry.memory.charged();
        let on_one = self
            .cores
            .nodes()
            .into_iter()
            .filter(|&node| self.cores.free(Some(node)) >= need.count);
        let best = on_one.min_by_key(|node| {
            let has_memory = self.memory.get(node).is_some_and(|&left| left >= memory);
            (!has_memory, self.cores.free(Some(*node)), *node)
        });
        if let Some(node) = best {
            return self.on_node(entry, need, node);
        }
        let mut nodes = self.cores.nodes();
        nodes.sort_by_key(|&node| (Reverse(self.cores.free(Some(node))), node));
        let mut cpus = CpuSet::new();
        for node in nodes {
            let missing = need.count.saturating_sub(cpus.len());
            if missing > 0 {
                cpus = cpus.union(&self.cores.pick(missing, node));
            }
        }
        if cpus.len() >= need.count {
            let order = self.cores.in_order(&cpus);
            return Ok(self.dedicated(entry, cpus, &order, Placed::Spread));
        }
        let free = self.cores.free(None);
        let several = self.cores.cores.iter().any(|core| core.online.len() > 1);
        let cores = if self.cores.whole && several { " by whole cores" } else { "" };
        let message = format!(
            "{} needs {} CPUs of its own, more than the {free} that are free{cores}",
            entry.label(),
            need.count
        );
        let conflict = refusal(Code::CpuFull, entry, "vcpus", message)
            .remedy(format!("give it at most {free} vCPUs and workers"))
            .remedy("share CPUs: cpu = { min = …, max = … }");
        Err(Box::new(self.account(&self.cores.usable, free).refuse(thousand(need.count), conflict)))
    }

    /// `cpus` by who has them, `free` of them free.
    fn account(&self, cpus: &CpuSet, free: u32) -> Account {
        let mut held: BTreeMap<&str, u32> = BTreeMap::new();
        for (owner, _) in cpus.iter().filter_map(|cpu| self.owners.get(&cpu)) {
            *held.entry(owner).or_default() += 1;
        }
        let mut account = Account::new(Unit::Cpus, thousand(cpus.len()));
        for (owner, count) in held {
            account.take(owner, thousand(count));
        }
        account.left = thousand(free);
        account
    }
}

fn thousand(cpus: u32) -> u64 {
    Thousandths::whole(cpus).thousandths()
}

fn refusal(code: Code, entry: &Entry<'_>, key: &str, message: String) -> HostConflict {
    HostConflict::new(code, entry.guest.key(key), message).of(entry.name())
}
