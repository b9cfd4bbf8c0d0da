//! [`Host`]: what there is to divide between VMs, read from the host or from a file in JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use rustix::thread::{CoreSchedulingScope, core_scheduling_cookie, gettid};
use serde::{Deserialize, Serialize};

use super::{meminfo, read};
use crate::{CpuSet, Size};

/// A host's CPUs, memory, file systems and controllers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Version of this form, 1. Fields are only ever added within a version.
    pub version: u32,
    /// CPUs that are online, by number.
    pub cpus: Vec<Cpu>,
    /// CPUs that are there but offline.
    #[serde(default, skip_serializing_if = "CpuSet::is_empty")]
    pub offline: CpuSet,
    /// NUMA nodes by number; one where the kernel knows of none.
    pub nodes: Vec<Node>,
    /// All memory the kernel manages, huge pages included (`MemTotal`).
    pub memory: Size,
    /// Swap space (`SwapTotal`).
    #[serde(default)]
    pub swap: Size,
    /// Controllers of the control groups, version 2; none with version 1.
    #[serde(default)]
    pub controllers: BTreeSet<String>,
    /// Whether there are siblings, and the kernel can keep those of a core to tasks that trust each other
    /// (`CONFIG_SCHED_CORE`, Linux 5.14).
    #[serde(default)]
    pub core_scheduling: bool,
    /// File systems of the folders asked for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub file_systems: BTreeMap<PathBuf, FileSystem>,
}

/// A CPU that is online.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cpu {
    /// Its number.
    pub id: u32,
    /// The lowest number among the siblings of its core, online or not.
    pub core: u32,
    /// Its NUMA node.
    pub node: u32,
    /// Its processor package.
    #[serde(default)]
    pub package: u32,
}

/// A NUMA node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its number.
    pub id: u32,
    /// Its memory, huge pages included.
    pub memory: Size,
    /// Its reserved huge pages, the smallest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hugepages: Vec<HugePages>,
}

/// Reserved huge pages of one size, on one node or on the whole host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HugePages {
    /// Size of a page.
    pub page: Size,
    /// How many there are.
    pub total: u64,
    /// How many of them nobody has.
    pub free: u64,
}

/// The file system below a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSystem {
    /// What it holds altogether.
    pub size: Size,
    /// What unprivileged users can still write.
    pub free: Size,
    /// The block device it is on, as `8:0`; none where there is no one device behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Which one it is, as `8:1`: folders with the same are on one file system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// Why a host is not known.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Not there or not as expected.
    #[error("{} does not say what the host has; mount procfs on /proc and sysfs on /sys", .0.display())]
    Unreadable(PathBuf),
    /// No inventory.
    #[error("the inventory is not one that `carve inventory` writes")]
    Json(#[from] serde_json::Error),
    /// An inventory that contradicts itself.
    #[error("the inventory is not a host: {0}; write it with `carve inventory`")]
    Contradiction(String),
}

impl Host {
    /// Reads the host whose file system begins at `root`, normally `/`, with the file systems of
    /// `folders`. A folder that is not there is left out.
    ///
    /// # Errors
    ///
    /// CPUs or memory cannot be told.
    pub fn read(root: &Path, folders: &[PathBuf]) -> Result<Self, HostError> {
        let list = |path: &str| read(root, path).and_then(|list| list.parse::<CpuSet>().ok());
        let cpu_folder = "sys/devices/system/cpu";
        let unreadable = |path: &str| HostError::Unreadable(Path::new("/").join(path));
        let online = format!("{cpu_folder}/online");
        let online = list(&online).ok_or_else(|| unreadable(&online))?;
        let memory = meminfo(root, "MemTotal").ok_or_else(|| unreadable("proc/meminfo"))?;
        let (nodes, node_of) = nodes(root, memory);
        let cpus = online.iter().map(|id| {
            let topology = format!("{cpu_folder}/cpu{id}/topology");
            // Renamed in Linux 5.x; the old name is still there.
            let siblings = list(&format!("{topology}/core_cpus_list"))
                .or_else(|| list(&format!("{topology}/thread_siblings_list")));
            let core = siblings.and_then(|siblings| siblings.iter().next()).unwrap_or(id);
            let package = read(root, &format!("{topology}/physical_package_id"));
            let package = package.and_then(|id| id.parse().ok()).unwrap_or(0);
            Cpu { id, core, node: node_of.get(&id).copied().unwrap_or(nodes[0].id), package }
        });
        let cpus = cpus.collect();
        let controllers = read(root, "sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
        Ok(Self {
            version: 1,
            cpus,
            offline: list(&format!("{cpu_folder}/present")).unwrap_or_default().difference(&online),
            nodes,
            memory,
            swap: meminfo(root, "SwapTotal").unwrap_or_default(),
            controllers: controllers.split_whitespace().map(str::to_owned).collect(),
            core_scheduling: core_scheduling(root),
            file_systems: folders
                .iter()
                .filter_map(|f| Some((f.clone(), file_system(root, f)?)))
                .collect(),
        })
    }

    /// Reads an inventory that was written as JSON.
    ///
    /// # Errors
    ///
    /// Not JSON, not an inventory, or one that contradicts itself.
    pub fn from_json(text: &str) -> Result<Self, HostError> {
        let mut host: Self = serde_json::from_str(text)?;
        host.cpus.sort_by_key(|cpu| cpu.id);
        host.nodes.sort_by_key(|node| node.id);
        let fail = |reason: String| Err(HostError::Contradiction(reason));
        if host.version != 1 {
            return fail(format!("its version is {}, but 1 is the only one", host.version));
        }
        if host.cpus.is_empty() || host.nodes.is_empty() {
            return fail("it has no CPU or no node".to_owned());
        }
        if let Some(twice) = host.cpus.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return fail(format!("CPU {} is there twice", twice[0].id));
        }
        if let Some(twice) = host.nodes.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return fail(format!("node {} is there twice", twice[0].id));
        }
        let nodes: BTreeSet<u32> = host.nodes.iter().map(|node| node.id).collect();
        let mut cores: BTreeMap<u32, u32> = BTreeMap::new();
        for cpu in &host.cpus {
            if cpu.id > CpuSet::LAST || cpu.core > cpu.id {
                return fail(format!("CPU {} has an impossible number or core", cpu.id));
            }
            if !nodes.contains(&cpu.node) || *cores.entry(cpu.core).or_insert(cpu.node) != cpu.node
            {
                return fail(format!(
                    "CPU {} is on a node that is not there, or not that of its core",
                    cpu.id
                ));
            }
        }
        Ok(host)
    }

    /// The CPUs that are online.
    #[must_use]
    pub fn online(&self) -> CpuSet {
        self.cpus.iter().map(|cpu| cpu.id).collect()
    }

    /// The number of huge pages of the size `page`.
    #[must_use]
    pub fn huge_pages(&self, page: Size) -> u64 {
        let pools = self.nodes.iter().flat_map(|node| &node.hugepages);
        pools.filter(|pool| pool.page == page).map(|pool| pool.total).sum()
    }

    /// The number of huge pages of the size `page` that nobody has.
    #[must_use]
    pub fn free_huge_pages(&self, page: Size) -> u64 {
        let pools = self.nodes.iter().flat_map(|node| &node.hugepages);
        pools.filter(|pool| pool.page == page).map(|pool| pool.free).sum()
    }

    /// Memory in huge pages of all sizes, whether used or not.
    #[must_use]
    pub fn huge_memory(&self) -> Size {
        let pools = self.nodes.iter().flat_map(|node| &node.hugepages);
        let bytes = pools.map(|pool| pool.page.bytes().saturating_mul(pool.total));
        Size::from_bytes(bytes.fold(0, u64::saturating_add))
    }
}

/// The NUMA nodes, and the node of each CPU.
fn nodes(root: &Path, memory: Size) -> (Vec<Node>, BTreeMap<u32, u32>) {
    let folder = "sys/devices/system/node";
    let mut nodes = Vec::new();
    let mut node_of = BTreeMap::new();
    let listed =
        read(root, &format!("{folder}/online")).and_then(|list| list.parse::<CpuSet>().ok());
    for id in listed.iter().flat_map(CpuSet::iter) {
        let node = format!("{folder}/node{id}");
        let cpus = read(root, &format!("{node}/cpulist")).and_then(|list| list.parse().ok());
        node_of.extend(cpus.iter().flat_map(CpuSet::iter).map(|cpu| (cpu, id)));
        let memory = node_memory(root, &node).unwrap_or_default();
        nodes.push(Node { id, memory, hugepages: huge_pages(root, &format!("{node}/hugepages")) });
    }
    if nodes.is_empty() {
        let hugepages = huge_pages(root, "sys/kernel/mm/hugepages");
        nodes.push(Node { id: 0, memory, hugepages });
    }
    (nodes, node_of)
}

/// `Node 0 MemTotal:  4028416 kB` of a node's `meminfo`.
fn node_memory(root: &Path, node: &str) -> Option<Size> {
    let text = read(root, &format!("{node}/meminfo"))?;
    let (_, rest) = text.lines().find_map(|line| line.split_once("MemTotal:"))?;
    rest.trim().strip_suffix(" kB")?.parse().ok().map(Size::from_kib)
}

/// What is reserved in a folder of the kernel's, of the whole host or of one node.
pub(super) fn huge_pages(root: &Path, folder: &str) -> Vec<HugePages> {
    let entries = fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
    let mut pools: Vec<HugePages> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let name = name.to_str()?;
            let kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let count = |file| read(root, &format!("{folder}/{name}/{file}"))?.parse().ok();
            let (total, free) = (count("nr_hugepages")?, count("free_hugepages")?);
            Some(HugePages { page: Size::from_kib(kib), total, free })
        })
        .collect();
    pools.sort_by_key(|pool| pool.page);
    pools
}

/// Whether the kernel that runs on `root` has it, and siblings to keep apart: else it knows no cookies (PR_SCHED_CORE_GET
/// of prctl(2)).
fn core_scheduling(root: &Path) -> bool {
    root == Path::new("/") && core_scheduling_cookie(gettid(), CoreSchedulingScope::Thread).is_ok()
}

fn file_system(root: &Path, folder: &Path) -> Option<FileSystem> {
    let path = root.join(folder.strip_prefix("/").unwrap_or(folder));
    let path = if root == Path::new("/") { folder } else { &path };
    let sizes = rustix::fs::statvfs(path).ok()?;
    let device = rustix::fs::stat(path).ok()?.st_dev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    // Major 0 is of file systems without one device behind them; `/sys/dev/block` knows the others,
    // and of a partition its disk, which alone has limits.
    let known = root.join(format!("sys/dev/block/{major}:{minor}"));
    let disk =
        if known.join("partition").exists() { known.join("../dev") } else { known.join("dev") };
    let disk = fs::read_to_string(disk).ok().filter(|_| major != 0);
    Some(FileSystem {
        size: Size::from_bytes(sizes.f_blocks.saturating_mul(sizes.f_frsize)),
        free: Size::from_bytes(sizes.f_bavail.saturating_mul(sizes.f_frsize)),
        device: disk.map(|disk| disk.trim().to_owned()),
        id: Some(format!("{major}:{minor}")),
    })
}

#[cfg(test)]
#[path = "host_test.rs"]
mod host_test;
