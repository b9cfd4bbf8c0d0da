//! [`VmConfig`]: a VM's configuration, complete and valid.

use std::borrow::Cow;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::schema_of::schema_of;
use super::{
    Balloon, BalloonConflict, Boot, Code, ConsoleConflict, ConsolePort, Devices, Disk, Error, File,
    HugePageSize, Location, Memory, Name, Named, Net, NetConflict, NetRule, OnReboot, Problem,
    Topology, VmSpec, Vsock, console_conflicts, resolve_nets,
};
use crate::Size;

/// The most vCPUs any KVM on x86-64 can be built for (`CONFIG_KVM_MAX_NR_VCPUS`).
/// The host's own limit is often lower and known only to KVM.
pub const MAX_VCPUS: u32 = 4096;

/// The least memory a guest can have: the first MiB belongs to tables and
/// firmware areas, the kernel goes above it. Most kernels need far more.
pub const MIN_MEMORY: Size = Size::from_mib(2);

/// Memory is mapped in pages of this size.
const PAGE_SIZE: Size = Size::from_kib(4);

/// A VM, every key with its value. There is no way to make one that breaks the
/// rules of [`Conflict`]: it comes from [`VmSpec::resolve`], deserializing included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "VmSpec")]
#[non_exhaustive]
pub struct VmConfig {
    /// Name of the VM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Kernel image: bzImage or ELF `vmlinux`.
    pub kernel: PathBuf,
    /// Initial RAM disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// Appended to the default kernel command line.
    pub cmdline: String,
    /// CPUs the guest sees, 1 to [`MAX_VCPUS`].
    pub vcpus: u32,
    /// Huge pages guest memory is made of, instead of ordinary ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hugepages: Option<HugePageSize>,
    /// What follows a reboot.
    pub on_reboot: OnReboot,
    /// Arrangement of the vCPUs; its product is `vcpus`.
    pub topology: Topology,
    /// Guest memory.
    pub memory: Memory,
    /// How the kernel is booted.
    pub boot: Boot,
    /// Optional devices.
    pub devices: Devices,
    /// Disks, the first `/dev/vda`.
    #[serde(skip_serializing_if = "Named::is_empty")]
    pub disk: Named<Disk>,
    /// Network devices.
    #[serde(skip_serializing_if = "Named::is_empty")]
    pub net: Named<Net>,
    /// Ports of the virtio console.
    #[serde(skip_serializing_if = "Named::is_empty")]
    pub console: Named<ConsolePort>,
    /// Socket device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock: Option<Vsock>,
    /// Memory balloon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balloon: Option<Balloon>,
}

// What it is written as can be read as a spec again.
schema_of!(VmConfig, |generator| VmSpec::json_schema(generator));

/// A rule that a spec breaks. Says value, reason and remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// No kernel.
    #[error(
        "no kernel is given; name one with --kernel FILE, or with kernel = \"FILE\" in the config file"
    )]
    KernelMissing,
    /// An empty path.
    #[error("{0} is an empty path; name a file, or leave {0} out")]
    EmptyPath(&'static str),
    /// A control character in the kernel command line.
    #[error(
        "cmdline has the control character {0:?}, which a kernel command line cannot hold; separate arguments by spaces"
    )]
    CommandLine(char),
    /// vCPUs out of range.
    #[error("vcpus is {0}, but a guest has 1 to {MAX_VCPUS} vCPUs; choose a number in that range")]
    Vcpus(u32),
    /// A part of the topology is 0.
    #[error(
        "topology is {0}, but each part of it is at least 1; leave out the parts that do not matter"
    )]
    EmptyTopology(Topology),
    /// The topology's product is another number than the vCPUs.
    #[error(
        "topology {topology} makes {product} vCPUs, but vcpus is {vcpus}; make the two agree, or leave one out"
    )]
    Topology {
        /// As given.
        topology: Topology,
        /// Its vCPUs.
        product: u64,
        /// As given beside it.
        vcpus: u32,
    },
    /// Too little memory for any guest.
    #[error("memory is {0}, but a guest has at least {MIN_MEMORY}; {remedy}", remedy = missing_unit(*.0))]
    MemoryTooSmall(Size),
    /// Memory that is not made of whole pages.
    #[error("memory is {size}, not a whole number of {page} pages; use {below} or {above}")]
    PartialPage {
        /// As given.
        size: Size,
        /// The page.
        page: Size,
        /// The nearest smaller size that is possible, or the smallest.
        below: Size,
        /// The nearest larger one.
        above: Size,
    },
    /// A network device, alone or with another.
    #[error(transparent)]
    Net(#[from] NetConflict),
    /// Consoles together.
    #[error(transparent)]
    Console(#[from] ConsoleConflict),
    /// The balloon.
    #[error(transparent)]
    Balloon(#[from] BalloonConflict),
    /// More memory guaranteed than there is.
    #[error("memory.min is {min}, but memory.size only {size}; lower the one or raise the other")]
    MinAboveSize {
        /// As given.
        min: Size,
        /// See `min`.
        size: Size,
    },
    /// Memory that cannot be taken back.
    #[error(
        "memory.min is less than memory.size, but memory of {0} is never taken back; leave one of the two out"
    )]
    MinOfPinned(&'static str),
    /// A key that means something only together with what a host file says.
    #[error("{0} means something in a host file only (see `carve plan`); leave it out")]
    HostOnly(String),
}

impl Conflict {
    /// The keys involved, the one to show first.
    #[must_use]
    pub fn keys(&self) -> Vec<Cow<'static, str>> {
        let keys: &[&str] = match self {
            Self::KernelMissing => &["kernel"],
            Self::EmptyPath("initrd") => &["initrd"],
            Self::EmptyPath(_) => &["kernel"],
            Self::CommandLine(_) => &["cmdline"],
            Self::Vcpus(_) => &["vcpus", "topology"],
            Self::EmptyTopology(_) => &["topology"],
            Self::Topology { .. } => &["topology", "vcpus"],
            Self::MemoryTooSmall(_) => &["memory.size"],
            Self::PartialPage { .. } => &["memory.size", "hugepages"],
            Self::Net(NetConflict { name, rule }) => {
                return vec![format!("{name}.{}", rule.key()).into()];
            }
            Self::Console(_) => &["console"],
            Self::Balloon(conflict) => &[conflict.key()],
            Self::MinAboveSize { .. } | Self::MinOfPinned(_) => &["memory.min"],
            Self::HostOnly(key) => return vec![key.clone().into()],
        };
        keys.iter().map(|&key| key.into()).collect()
    }
}

impl Conflict {
    /// The kind of problem that it is.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::MemoryTooSmall(size) if missing_unit(*size).contains("did you mean") => {
                Code::UnitMissing
            }
            Self::Net(NetConflict { rule: NetRule::MacTwice { .. }, .. }) => Code::DuplicateMac,
            Self::Net(NetConflict { rule: NetRule::TapTwice { .. }, .. }) => Code::DuplicateUse,
            _ => Code::InvalidValue,
        }
    }

    /// It as a problem with what stands at `location`.
    pub(super) fn problem(&self, location: Option<Location>) -> Problem {
        Problem::new(self.code(), self.to_string(), location)
    }
}

/// The likely reason for a tiny memory is a number without its unit.
fn missing_unit(size: Size) -> String {
    match size.bytes() {
        count @ 2..=1_048_576 if !count.is_multiple_of(1024) || count < 1024 * 64 => {
            format!("a number without unit counts bytes: did you mean {count}MiB?")
        }
        _ => format!("give it {MIN_MEMORY} or more, such as 512MiB"),
    }
}

impl VmSpec {
    /// Fills in the defaults and checks all of it.
    ///
    /// # Errors
    ///
    /// Every rule it breaks.
    pub fn resolve(self) -> Result<VmConfig, Vec<Conflict>> {
        let mut conflicts = Vec::new();
        let (vcpus, topology) = resolve_vcpus(self.vcpus, self.topology, &mut conflicts);
        let memory = self.memory.resolve();
        check_memory(memory.size, self.hugepages, &mut conflicts);
        check_guarantee(&memory, self.hugepages, &mut conflicts);
        if let Some(character) =
            self.cmdline.iter().flat_map(|c| c.chars()).find(|c| c.is_control())
        {
            conflicts.push(Conflict::CommandLine(character));
        }
        for (key, path) in [("kernel", &self.kernel), ("initrd", &self.initrd)] {
            if path.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
                conflicts.push(Conflict::EmptyPath(key));
            }
        }
        let names: Vec<_> = self.net.keys().cloned().collect();
        let nets = self.net.into_iter().map(|(name, net)| (format!("net.{name}"), net)).collect();
        let net = resolve_nets(nets, self.name.as_ref())
            .map(|nets| names.into_iter().zip(nets.into_iter().map(|(_, net)| net)).collect())
            .map_err(|rules| conflicts.extend(rules.into_iter().map(Conflict::from)));
        let consoles: Vec<_> =
            self.console.iter().map(|(name, port)| (name.to_string(), port.clone())).collect();
        conflicts.extend(console_conflicts(&consoles).into_iter().map(Conflict::from));
        let balloon = self.balloon.map(|balloon| balloon.resolve(memory.size)).transpose();
        let balloon =
            balloon.map_err(|rules| conflicts.extend(rules.into_iter().map(Conflict::from)));
        let Some(kernel) = self.kernel else {
            conflicts.insert(0, Conflict::KernelMissing);
            return Err(conflicts);
        };
        let (Ok(net), Ok(balloon), true) = (net, balloon, conflicts.is_empty()) else {
            return Err(conflicts);
        };
        Ok(VmConfig {
            name: self.name,
            kernel,
            initrd: self.initrd,
            cmdline: self.cmdline.unwrap_or_default(),
            vcpus,
            hugepages: self.hugepages,
            on_reboot: self.on_reboot.unwrap_or_default(),
            topology,
            memory,
            boot: self.boot.resolve(),
            devices: self.devices.resolve(),
            disk: self.disk,
            net,
            console: self.console,
            vsock: self.vsock,
            balloon,
        })
    }
}

/// Each of the two follows from the other where only one is given.
fn resolve_vcpus(
    vcpus: Option<u32>,
    topology: Option<Topology>,
    conflicts: &mut Vec<Conflict>,
) -> (u32, Topology) {
    let Some(topology) = topology else {
        let vcpus = vcpus.unwrap_or(1);
        if !(1..=MAX_VCPUS).contains(&vcpus) {
            conflicts.push(Conflict::Vcpus(vcpus));
        }
        return (vcpus, Topology { cores: vcpus, ..Topology::default() });
    };
    let product = topology.vcpus().unwrap_or(u64::MAX);
    let counted = u32::try_from(product).unwrap_or(u32::MAX);
    let vcpus = vcpus.unwrap_or(counted);
    if product == 0 {
        conflicts.push(Conflict::EmptyTopology(topology));
    } else if !(1..=MAX_VCPUS).contains(&vcpus) {
        conflicts.push(Conflict::Vcpus(vcpus));
    } else if u64::from(vcpus) != product {
        conflicts.push(Conflict::Topology { topology, product, vcpus });
    }
    (vcpus, topology)
}

fn check_memory(size: Size, hugepages: Option<HugePageSize>, conflicts: &mut Vec<Conflict>) {
    let page = hugepages.map_or(PAGE_SIZE, HugePageSize::size);
    let remainder = size.bytes() % page.bytes();
    if size < MIN_MEMORY {
        conflicts.push(Conflict::MemoryTooSmall(size));
    } else if remainder != 0 {
        let below = (size.bytes() - remainder).max(page.bytes());
        let above = below.saturating_add(page.bytes());
        conflicts.push(Conflict::PartialPage {
            size,
            page,
            below: Size::from_bytes(below),
            above: Size::from_bytes(above),
        });
    }
}

fn check_guarantee(
    memory: &Memory,
    hugepages: Option<HugePageSize>,
    conflicts: &mut Vec<Conflict>,
) {
    let min = memory.guaranteed();
    if min > memory.size {
        conflicts.push(Conflict::MinAboveSize { min, size: memory.size });
    } else if min < memory.size {
        let pinned = [("hugepages", hugepages.is_some()), ("memory.prefault", memory.prefault)];
        let pinned = pinned.into_iter().find(|(_, given)| *given);
        conflicts.extend(pinned.map(|(key, _)| Conflict::MinOfPinned(key)));
    }
}

impl TryFrom<VmSpec> for VmConfig {
    type Error = Error;

    fn try_from(spec: VmSpec) -> Result<Self, Error> {
        spec.resolve().map_err(|conflicts| Error {
            problems: conflicts.iter().map(|conflict| conflict.problem(None)).collect(),
        })
    }
}

/// The VM that `flags` laid over `file` describe, for which no host file speaks.
///
/// # Errors
///
/// Every [`Conflict`], shown where it stands in the file unless flags made it.
pub fn load(file: Option<&File>, flags: VmSpec) -> Result<VmConfig, Error> {
    let spec = match file {
        Some(file) => flags.clone().over(file.spec().clone()),
        None => flags.clone(),
    };
    let host_only = host_only(&spec);
    let resolved = match spec.resolve() {
        Err(conflicts) => Err([host_only, conflicts].concat()),
        Ok(_) if !host_only.is_empty() => Err(host_only),
        Ok(config) => Ok(config),
    };
    resolved.map_err(|conflicts| {
        let from_flags = toml::Table::try_from(&flags).unwrap_or_default();
        let locate = |conflict: &Conflict| {
            let keys = conflict.keys();
            let mut in_file = keys.iter().filter(|key| !sets(&from_flags, key));
            in_file.find_map(|key| file?.locate(key))
        };
        let problems =
            conflicts.iter().map(|conflict| conflict.problem(locate(conflict))).collect();
        Error { problems }
    })
}

/// What only a host file gives a meaning.
fn host_only(spec: &VmSpec) -> Vec<Conflict> {
    let min = spec.memory.min.map(|_| "memory.min".to_owned());
    let pools = spec.disk.iter().filter(|(_, disk)| disk.volume.is_some());
    let pools = pools.map(|(name, _)| format!("disk.{name}.pool"));
    min.into_iter().chain(pools).map(Conflict::HostOnly).collect()
}

/// Whether `table` has a value at `path`.
fn sets(table: &toml::Table, path: &str) -> bool {
    match path.split_once('.') {
        None => table.contains_key(path),
        Some((first, rest)) => {
            table.get(first).and_then(toml::Value::as_table).is_some_and(|inner| sets(inner, rest))
        }
    }
}

#[cfg(test)]
#[path = "vm_test.rs"]
mod vm_test;
