//! What the host has, read from `/proc` and `/sys`.
//!
//! Everything is read below a root folder, so that tests bring a host of their
//! own. What cannot be read is absent, never guessed. KVM itself is asked
//! elsewhere: this module opens no device.
//!
//! [`Inventory`] is what a look at the host's fitness needs; [`Host`] what dividing it needs.

use std::fs;
use std::path::Path;

use crate::enforce::systemd;
use crate::{CpuSet, Size};

mod host;

pub use host::{Cpu, FileSystem, Host, HostError, HugePages, Node};

/// Kernel modules and device nodes a guest's devices are made from.
const DEVICE_NODES: [(&str, &str); 2] = [("tun", "dev/net/tun"), ("vhost_net", "dev/vhost-net")];

/// Modules that give Linux a KVM on x86-64.
const KVM_MODULES: [&str; 3] = ["kvm_intel", "kvm_amd", "kvm_pvm"];

/// A host, as far as it can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// CPUs that are online.
    pub cpus: Option<u32>,
    /// All memory the kernel manages (`MemTotal`).
    pub memory_total: Option<Size>,
    /// Memory that can be had without swapping (`MemAvailable`).
    pub memory_available: Option<Size>,
    /// The hierarchy control groups are in.
    pub cgroup: Option<Cgroup>,
    /// Whether the system bus is there, over which systemd is asked for control groups; nothing where it is not the
    /// host's first process.
    pub systemd_bus: Option<bool>,
    /// Mode of transparent huge pages: `always`, `madvise` or `never`.
    pub transparent_hugepages: Option<String>,
    /// Pools of reserved huge pages, the smallest pages first.
    pub hugepage_pools: Vec<HugePages>,
    /// Which of the modules that provide KVM are loaded.
    pub kvm_modules: Vec<&'static str>,
    /// Whether guests of the loaded KVM may run KVM themselves.
    pub nested: Option<bool>,
    /// Name of each kernel facility for devices and whether its device node is there.
    pub device_nodes: Vec<(&'static str, bool)>,
    /// Controllers that systemd lets this user's own groups have; nothing for root, and where systemd
    /// runs no manager for the user.
    pub delegated: Option<Vec<String>>,
}

/// Versions of the control-group hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cgroup {
    /// One hierarchy with all controllers, at `/sys/fs/cgroup`.
    V2,
    /// One hierarchy per controller.
    V1,
}

impl Inventory {
    /// Reads the host whose file system begins at `root`, normally `/`.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let kvm_modules: Vec<_> = KVM_MODULES
            .into_iter()
            .filter(|module| root.join("sys/module").join(module).is_dir())
            .collect();
        let nested = kvm_modules.iter().find_map(|module| {
            let nested = read(root, &format!("sys/module/{module}/parameters/nested"))?;
            Some(matches!(nested.as_str(), "Y" | "1"))
        });
        Self {
            delegated: delegated(root),
            cpus: read(root, "sys/devices/system/cpu/online")
                .and_then(|list| Some(list.parse::<CpuSet>().ok()?.len())),
            memory_total: meminfo(root, "MemTotal"),
            memory_available: meminfo(root, "MemAvailable"),
            cgroup: cgroup(root),
            systemd_bus: systemd::runs(root).then(|| root.join(systemd::BUS).exists()),
            transparent_hugepages: read(root, "sys/kernel/mm/transparent_hugepage/enabled")
                .and_then(|modes| selected(&modes)),
            hugepage_pools: host::huge_pages(root, "sys/kernel/mm/hugepages"),
            kvm_modules,
            nested,
            device_nodes: DEVICE_NODES
                .map(|(name, path)| (name, root.join(path).exists()))
                .to_vec(),
        }
    }
}

/// A field of `/proc/meminfo`, such as `MemTotal`.
#[must_use]
pub fn meminfo(root: &Path, field: &str) -> Option<Size> {
    let text = read(root, "proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.parse().ok().map(Size::from_kib)
}

/// Whether the KVM of this machine runs guests in hardware virtualization: the CPU
/// offers VMX or SVM, and KVM is not the page-table based `kvm_pvm`, which
/// interprets the kernels of guests that are not built for it.
///
/// Asks the CPU itself, not `/proc/cpuinfo`, which takes older kernels 10 ms.
#[must_use]
pub fn hardware_virtualization() -> bool {
    cpu_virtualizes() && !Path::new("/sys/module/kvm_pvm").exists()
}

#[cfg(target_arch = "x86_64")]
fn cpu_virtualizes() -> bool {
    use std::arch::x86_64::__cpuid;
    // Intel SDM volume 2A, CPUID: leaf 1, ECX bit 5 is VMX.
    let vmx = __cpuid(1).ecx & (1 << 5) != 0;
    // AMD APM volume 3, appendix E: leaf 8000_0001, ECX bit 2 is SVM.
    let svm = __cpuid(0x8000_0000).eax >= 0x8000_0001 && __cpuid(0x8000_0001).ecx & (1 << 2) != 0;
    vmx || svm
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_virtualizes() -> bool {
    // Elsewhere KVM exists only on hardware that virtualizes.
    true
}

fn read(root: &Path, path: &str) -> Option<String> {
    Some(fs::read_to_string(root.join(path)).ok()?.trim_end().to_owned())
}

/// The choice in brackets of a file such as `always [madvise] never`.
fn selected(modes: &str) -> Option<String> {
    modes
        .split_whitespace()
        .find_map(|mode| mode.strip_prefix('[')?.strip_suffix(']'))
        .map(str::to_owned)
}

fn cgroup(root: &Path) -> Option<Cgroup> {
    // Only the root of a version 2 hierarchy has this file.
    let at = root.join("sys/fs/cgroup");
    if at.join("cgroup.controllers").exists() {
        return Some(Cgroup::V2);
    }
    ["memory", "cpu"].iter().any(|controller| at.join(controller).is_dir()).then_some(Cgroup::V1)
}

/// The controllers of the groups that systemd's manager of this user has.
fn delegated(root: &Path) -> Option<Vec<String>> {
    let uid = rustix::process::geteuid().as_raw();
    if uid == 0 || !root.join("run/systemd/system").is_dir() {
        return None;
    }
    let group = format!("sys/fs/cgroup/user.slice/user-{uid}.slice/user@{uid}.service");
    let listed = fs::read_to_string(root.join(group).join("cgroup.controllers")).ok()?;
    Some(listed.split_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
#[path = "inventory_test.rs"]
mod inventory_test;
