//! The limits that hold a plan in the kernel: what each VM gets, and the control groups
//! (Documentation/admin-guide/cgroup-v2.rst) it becomes.
//!
//! ```text
//! carve.slice                          a cpuset partition of all CPUs that are not kept for the host
//! ├─ carve-TENANT.slice                the reservation of a tenant
//! │  ├─ carve-VM.scope                 one VM
//! │  └─ carve-TENANT:users.scope       under systemd only: all that the tenant's user starts
//! └─ carve-VM.scope                    a VM without a tenant
//! ```
//!
//! `cpu.weight` divides shared CPUs, so only what competes there may count: a tenant's weight is its
//! reservation less the CPUs its VMs have for themselves, and a dedicated VM, which competes with
//! nobody, weighs 1. The kernel spreads the weight of a group over CPUs by the weights of what runs
//! there; a heavy dedicated VM would draw its tenant's weight away from the shared CPUs.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::roster::{Entry, Roster};
use super::shared::Shared;
use super::tasks::tasks;
use super::{Allocation, HostCpus, Problems};
use crate::config::host::{Enforce, HostConfig, HostConflict};
use crate::config::{Code, Name};
use crate::inventory::Host;
use crate::{CpuSet, Size, Thousandths};

/// The heaviest weight there is; the lightest is 1.
const HEAVIEST: u64 = 10_000;
/// Microseconds in which `cpu.max` counts.
const PERIOD: u64 = 100_000;
/// How much looser `io.max` is than the limits of disks it backs, in thousandths: it counts what the
/// file system makes of requests, and each direction by itself.
const LOOSER: Thousandths = Thousandths::from_thousandths(1250);

/// A control group and its limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// Below the root of the hierarchy, as in `carve.slice/carve-acme.slice`.
    pub path: String,
    /// Whom it holds.
    pub owner: Owner,
    /// `cpuset.cpus`.
    pub cpus: CpuSet,
    /// Whether it is the root of a cpuset partition.
    pub partition: bool,
    /// `cpu.weight`, 1 to 10000.
    pub weight: u64,
    /// `cpu.max`, in CPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_max: Option<Thousandths>,
    /// `memory.min`.
    pub memory_min: Size,
    /// `memory.max`.
    pub memory_max: Size,
    /// `hugetlb.SIZE.max` by size of page, for every size the host has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hugetlb: BTreeMap<Size, Size>,
    /// `pids.max`, on groups of VMs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids_max: Option<u64>,
    /// `io.max`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub io: Vec<IoMax>,
    /// Controllers that are missing, whose files are left out.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unenforced: BTreeSet<String>,
}

/// Whom a control group holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owner {
    /// All of Carve's VMs.
    Host,
    /// The VMs of a tenant.
    Tenant(Name),
    /// A VM.
    Vm(Name),
}

/// Limits on one block device, for each direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoMax {
    /// As in `8:0`.
    pub device: String,
    /// Requests a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<u64>,
    /// Bytes a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<u64>,
}

impl Cgroup {
    /// How the kernel calls a size of huge page in names of files: `2MB`, `1GB`.
    #[must_use]
    pub fn page_name(page: Size) -> String {
        page.to_string().replace("iB", "B")
    }

    /// The files to write in its folder and what to write, in that order.
    #[must_use]
    pub fn files(&self) -> Vec<(String, String)> {
        let mut files: Vec<(String, String)> = Vec::new();
        let mut write = |file: String, content: String| {
            let controller = file.split('.').next().unwrap_or_default();
            if !self.unenforced.contains(controller) {
                files.push((file, content));
            }
        };
        write("cpuset.cpus".into(), self.cpus.to_string());
        if self.partition {
            write("cpuset.cpus.partition".into(), "root".into());
        }
        write("cpu.weight".into(), self.weight.to_string());
        let quota =
            self.cpu_max.map_or("max".to_owned(), |max| max.of(PERIOD).max(1000).to_string());
        write("cpu.max".into(), format!("{quota} {PERIOD}"));
        write("memory.min".into(), self.memory_min.bytes().to_string());
        write("memory.max".into(), self.memory_max.bytes().to_string());
        for (page, max) in &self.hugetlb {
            write(format!("hugetlb.{}.max", Self::page_name(*page)), max.bytes().to_string());
        }
        if let Some(max) = self.pids_max {
            write("pids.max".into(), max.to_string());
        }
        for IoMax { device, operations, bandwidth } in &self.io {
            let number =
                |limit: &Option<u64>| limit.map_or("max".to_owned(), |limit| limit.to_string());
            let (iops, bps) = (number(operations), number(bandwidth));
            write(
                "io.max".into(),
                format!("{device} rbps={bps} wbps={bps} riops={iops} wiops={iops}"),
            );
        }
        files
    }
}

/// The name of a tenant's slice. To systemd a `-` in the name of a slice means one below another, so
/// those of tenants are escaped (systemd.unit(5)).
fn slice(tenant: &Name) -> String {
    format!("carve-{}.slice", tenant.as_str().replace('-', "\\x2d"))
}

fn path(tenant: Option<&Name>, vm: &Name) -> String {
    match tenant {
        Some(tenant) => format!("carve.slice/{}/carve-{vm}.scope", slice(tenant)),
        None => format!("carve.slice/carve-{vm}.scope"),
    }
}

/// What each VM that has CPUs gets.
pub(super) fn allocations(
    config: &HostConfig,
    host: &Host,
    roster: &Roster<'_>,
    shared: &Shared,
    problems: &mut Problems,
) -> BTreeMap<Name, Allocation> {
    let bound = memory_bound(config, host).saturating_add(host.swap.bytes());
    let mut allocations = BTreeMap::new();
    for entry in &roster.entries {
        let unenforced = missing_controllers(entry, host, config, problems);
        let Some(cpus) = entry.cpus.clone() else { continue };
        // A tenant that is no longer defined reserves nothing.
        let tenant =
            entry.guest.tenant.clone().filter(|tenant| config.tenants.contains_key(tenant));
        let is_shared = cpus.dedicated().is_none();
        let cpus = match cpus {
            HostCpus::Shared { min, max, .. } => {
                HostCpus::Shared { cpus: shared.of(tenant.as_ref()).clone(), min, max }
            }
            dedicated @ HostCpus::Dedicated { .. } => dedicated,
        };
        let allocation = Allocation {
            cgroup: path(tenant.as_ref(), entry.name()),
            tenant,
            cpus,
            memory: entry.memory,
            core_scheduling: shared.core_scheduling && is_shared,
            oom_score_adj: oom_score_adj(entry.memory.floor(), bound),
            unenforced,
        };
        allocations.insert(entry.name().clone(), allocation);
    }
    allocations
}

/// The adjustment that takes what is guaranteed to a VM out of its score: the kernel scores a process
/// by the pages it has, plus a thousandth of all pages for each point (`oom_badness`), so the VM that
/// is furthest above its guarantee pays first, and one within it after everyone else.
fn oom_score_adj(floor: u64, bound: u64) -> i32 {
    let points = (u128::from(floor) * 1000).div_ceil(u128::from(bound.max(1)));
    -i32::try_from(points.min(999)).unwrap_or(999)
}

/// Controllers that would hold a limit of the VM and are missing. A conflict unless it does without.
fn missing_controllers(
    entry: &Entry<'_>,
    host: &Host,
    config: &HostConfig,
    problems: &mut Problems,
) -> BTreeSet<&'static str> {
    let limits = [
        ("cpu", true),
        ("cpuset", true),
        ("memory", true),
        ("pids", true),
        ("hugetlb", entry.memory.hugepages.is_some()),
        ("io", !io_max(entry, host, config).is_empty()),
    ];
    let missing =
        limits.into_iter().filter(|(name, needed)| *needed && !host.controllers.contains(*name));
    let missing: BTreeSet<&'static str> = missing.map(|(name, _)| name).collect();
    if !missing.is_empty() && entry.in_file && entry.guest.enforce == Enforce::Strict {
        let names: Vec<_> = missing.iter().copied().collect();
        let message = format!(
            "limits of {} cannot be enforced: the host's control groups lack {}",
            entry.label(),
            names.join(", ")
        );
        let conflict =
            HostConflict::new(Code::ControllerMissing, entry.guest.key("enforce"), message)
                .of(entry.name())
                .remedy(
                    "boot with control groups of version 2 and these controllers; see carve doctor",
                )
                .remedy("enforce = \"best-effort\", to run without these limits");
        problems.push(conflict);
    }
    missing
}

/// Ordinary memory that VMs may have together: what carve.slice is limited to.
fn memory_bound(config: &HostConfig, host: &Host) -> u64 {
    let memory = host.memory.bytes().saturating_sub(host.huge_memory().bytes());
    memory.saturating_sub(config.reserved_memory.bytes())
}

/// Every control group.
pub(super) fn tree(
    config: &HostConfig,
    host: &Host,
    roster: &Roster<'_>,
    shared: &Shared,
    allocations: &BTreeMap<Name, Allocation>,
) -> Vec<Cgroup> {
    let tree = Tree { config, host, shared, allocations };
    let mut vms: BTreeMap<Option<Name>, Vec<Cgroup>> = BTreeMap::new();
    for entry in &roster.entries {
        if let Some(allocation) = allocations.get(entry.name()) {
            vms.entry(allocation.tenant.clone()).or_default().push(tree.vm(entry, allocation));
        }
    }
    vms.values_mut().for_each(|vms| vms.sort_by(|a, b| a.path.cmp(&b.path)));
    let mut below: Vec<Cgroup> = Vec::new();
    for name in config.tenants.keys() {
        let vms = vms.remove(&Some(name.clone())).unwrap_or_default();
        let group = tree.tenant(name, &vms);
        // Without a CPU nothing can run there; to the kernel an empty set means all CPUs.
        if !group.cpus.is_empty() {
            below.push(group);
        }
        below.extend(vms);
    }
    below.extend(vms.remove(&None).unwrap_or_default());
    let mut groups = vec![tree.root(&below)];
    groups.append(&mut below);
    groups
}

struct Tree<'t> {
    config: &'t HostConfig,
    host: &'t Host,
    shared: &'t Shared,
    allocations: &'t BTreeMap<Name, Allocation>,
}

impl Tree<'_> {
    fn root(&self, below: &[Cgroup]) -> Cgroup {
        let bound = memory_bound(self.config, self.host);
        let children = below.iter().filter(|group| group.path.matches('/').count() == 1);
        let min = children.fold(0u64, |sum, group| sum.saturating_add(group.memory_min.bytes()));
        let cpus = self.host.online().difference(&self.config.reserved_cpus);
        // The kernel gives no partition all CPUs: its own threads need one outside.
        Cgroup {
            path: "carve.slice".into(),
            owner: Owner::Host,
            partition: cpus != self.host.online(),
            cpus,
            weight: 100,
            cpu_max: None,
            memory_min: Size::from_bytes(min.min(bound)),
            memory_max: Size::from_bytes(bound),
            hugetlb: self
                .hugetlb(|page| Some(page.bytes().saturating_mul(self.host.huge_pages(page)))),
            pids_max: None,
            io: Vec::new(),
            unenforced: self.missing(),
        }
    }

    fn tenant(&self, name: &Name, vms: &[Cgroup]) -> Cgroup {
        let memory = self.config.tenants.get(name).map_or(0, |tenant| tenant.memory.bytes());
        let of_tenant = || {
            let allocations = self.allocations.values();
            allocations.filter(|allocation| allocation.tenant.as_ref() == Some(name))
        };
        let dedicated = of_tenant().filter_map(|allocation| allocation.cpus.dedicated());
        let cpus = dedicated.fold(self.shared.of(Some(name)).clone(), |all, cpus| all.union(cpus));
        let huge =
            of_tenant().fold(0u64, |sum, allocation| sum.saturating_add(allocation.memory.huge()));
        let limit = self.config.overcommit_memory.of(memory);
        let demand = self.shared.demands.get(&Some(name.clone())).copied().unwrap_or(0);
        let of_page = |page: Size| {
            vms.iter().filter_map(|vm| vm.hugetlb.get(&page)).map(|max| max.bytes()).sum::<u64>()
        };
        Cgroup {
            path: format!("carve.slice/{}", slice(name)),
            owner: Owner::Tenant(name.clone()),
            cpus,
            partition: false,
            weight: weight(demand, self.budget()),
            cpu_max: None,
            memory_min: Size::from_bytes(memory.saturating_sub(huge)),
            memory_max: Size::from_bytes(limit.saturating_sub(huge)),
            hugetlb: self.hugetlb(|page| Some(of_page(page))),
            pids_max: None,
            io: Vec::new(),
            unenforced: self.missing(),
        }
    }

    fn vm(&self, entry: &Entry<'_>, allocation: &Allocation) -> Cgroup {
        let of = match &allocation.tenant {
            Some(tenant) => self.config.tenants.get(tenant).map_or(0, |t| t.cpus.thousandths()),
            None => self.budget(),
        };
        let (weight, cpu_max) = match &allocation.cpus {
            HostCpus::Dedicated { .. } => (1, None),
            HostCpus::Shared { min, max, .. } => (weight(min.thousandths(), of), Some(*max)),
        };
        let memory = &allocation.memory;
        let huge = |page| (memory.hugepages == Some(page)).then_some(memory.huge());
        Cgroup {
            path: allocation.cgroup.clone(),
            owner: Owner::Vm(entry.name().clone()),
            cpus: allocation.cpus.cpus().clone(),
            partition: false,
            weight,
            cpu_max,
            memory_min: Size::from_bytes(memory.floor()),
            memory_max: Size::from_bytes(memory.limit()),
            hugetlb: self.hugetlb(huge),
            pids_max: Some(tasks(&entry.guest.vm)),
            io: io_max(entry, self.host, self.config),
            unenforced: self.missing(),
        }
    }

    /// CPUs of carve.slice, in thousandths.
    fn budget(&self) -> u64 {
        let cpus = self.host.online().difference(&self.config.reserved_cpus);
        Thousandths::whole(cpus.len()).thousandths()
    }

    /// A limit for every size of huge page; 0 where `limit` has none.
    fn hugetlb(&self, limit: impl Fn(Size) -> Option<u64>) -> BTreeMap<Size, Size> {
        let pages = self.host.nodes.iter().flat_map(|node| &node.hugepages).map(|pool| pool.page);
        pages.map(|page| (page, Size::from_bytes(limit(page).unwrap_or(0)))).collect()
    }

    fn missing(&self) -> BTreeSet<String> {
        let all = ["cpu", "cpuset", "memory", "hugetlb", "pids", "io"];
        let missing = all.into_iter().filter(|name| !self.host.controllers.contains(*name));
        missing.map(str::to_owned).collect()
    }
}

/// `part` of `all` as a weight.
pub(super) fn weight(part: u64, all: u64) -> u64 {
    let scaled =
        (u128::from(part) * u128::from(HEAVIEST) + u128::from(all / 2)) / u128::from(all.max(1));
    u64::try_from(scaled).unwrap_or(HEAVIEST).clamp(1, HEAVIEST)
}

/// The back-stop behind limits of disks, for each device on which all disks of the VM have such a
/// limit. Nothing where a disk is not in a pool: it may be on any device.
fn io_max(entry: &Entry<'_>, host: &Host, config: &HostConfig) -> Vec<IoMax> {
    let mut devices: BTreeMap<&str, (Option<u64>, Option<u64>)> = BTreeMap::new();
    for disk in entry.guest.vm.disk.values() {
        let Some(volume) = &disk.volume else { return Vec::new() };
        let pool = config.pools.get(&volume.pool);
        let file_system = pool.and_then(|pool| host.file_systems.get(&pool.path));
        let Some(device) = file_system.and_then(|fs| fs.device.as_deref()) else { continue };
        let limits = (disk.iops, disk.bandwidth.map(|bandwidth| bandwidth.bytes_per_second()));
        let sum = |a: Option<u64>, b: Option<u64>| Some(a?.saturating_add(b?));
        let before = devices.get(device).copied().unwrap_or((Some(0), Some(0)));
        devices.insert(device, (sum(before.0, limits.0), sum(before.1, limits.1)));
    }
    let looser = |limit: Option<u64>| limit.map(|limit| LOOSER.of(limit));
    let limited = devices.into_iter().filter(|(_, (a, b))| a.is_some() || b.is_some());
    limited
        .map(|(device, (operations, bandwidth))| IoMax {
            device: device.to_owned(),
            operations: looser(operations),
            bandwidth: looser(bandwidth),
        })
        .collect()
}

#[cfg(test)]
#[path = "cgroup_test.rs"]
mod cgroup_test;
