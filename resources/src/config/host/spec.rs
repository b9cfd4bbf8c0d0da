//! [`HostSpec`]: a host file as one source says it, every key optional.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::words::words;
use super::super::{Bandwidth, Name, VmSpec};
use super::ShareSpec;
use crate::{CpuSet, Size, Thousandths};

words! {
    /// Whether siblings of a core may serve two tenants.
    Smt {
        /// They may not.
        #[default]
        PerTenant = "per-tenant",
        /// They may.
        Shared = "shared",
    }
}

words! {
    /// What a guest meets when its pool's file system is full.
    OnFull {
        /// It is paused until it is told to go on.
        #[default]
        Pause = "pause",
        /// Its write fails.
        Error = "error",
    }
}

/// What one source says about a host. [`HOST_KEYS`](super::HOST_KEYS) documents the keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HostSpec {
    /// `[host]`.
    pub host: HostSection,
    /// `[pool.NAME]`.
    pub pool: BTreeMap<Name, PoolSpec>,
    /// `[tenant.NAME]`.
    pub tenant: BTreeMap<Name, TenantSpec>,
    /// `[defaults]`.
    pub defaults: GuestSpec,
    /// `[vm.NAME]`.
    pub vm: BTreeMap<Name, GuestSpec>,
}

/// `[host]` as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct HostSection {
    pub reserve: ReserveSpec,
    pub overcommit: OvercommitSpec,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smt: Option<Smt>,
}

/// `host.reserve` as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct ReserveSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<CpuSet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
}

/// `host.overcommit` as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct OvercommitSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Thousandths>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Thousandths>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<Thousandths>,
}

/// `[pool.NAME]` as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct PoolSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iops: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_full: Option<OnFull>,
}

/// `[tenant.NAME]` as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct TenantSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Thousandths>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub storage: BTreeMap<Name, Size>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
}

/// `[vm.NAME]` or `[defaults]` as written: what the VM is, and what it gets of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GuestSpec {
    /// The keys that `carve run` takes, too.
    #[serde(flatten)]
    pub vm: VmSpec,
    /// The others.
    #[serde(flatten)]
    pub share: ShareSpec,
}

impl GuestSpec {
    /// These keys where given, those of `below` elsewhere.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self { vm: self.vm.over(below.vm), share: self.share.over(below.share) }
    }
}

impl HostSpec {
    /// These keys where given, those of `below` elsewhere.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            host: self.host.over(below.host),
            pool: layered(self.pool, below.pool, PoolSpec::over),
            tenant: layered(self.tenant, below.tenant, TenantSpec::over),
            defaults: self.defaults.over(below.defaults),
            vm: layered(self.vm, below.vm, GuestSpec::over),
        }
    }

    /// Relative paths made to start at `folder`.
    #[must_use]
    pub fn relative_to(mut self, folder: &Path) -> Self {
        for path in self.pool.values_mut().filter_map(|pool| pool.path.as_mut()) {
            // An empty path stays empty, to be refused as such later.
            if !path.as_os_str().is_empty() {
                *path = folder.join(&*path);
            }
        }
        for guest in self.vm.values_mut().chain([&mut self.defaults]) {
            guest.vm = std::mem::take(&mut guest.vm).relative_to(folder);
        }
        self
    }
}

fn layered<T>(
    above: BTreeMap<Name, T>,
    mut below: BTreeMap<Name, T>,
    over: fn(T, T) -> T,
) -> BTreeMap<Name, T> {
    for (name, above) in above {
        let merged = match below.remove(&name) {
            Some(below) => over(above, below),
            None => above,
        };
        below.insert(name, merged);
    }
    below
}

impl HostSection {
    fn over(self, below: Self) -> Self {
        Self {
            reserve: ReserveSpec {
                cpus: self.reserve.cpus.or(below.reserve.cpus),
                memory: self.reserve.memory.or(below.reserve.memory),
            },
            overcommit: OvercommitSpec {
                cpu: self.overcommit.cpu.or(below.overcommit.cpu),
                memory: self.overcommit.memory.or(below.overcommit.memory),
                storage: self.overcommit.storage.or(below.overcommit.storage),
            },
            smt: self.smt.or(below.smt),
        }
    }
}

impl PoolSpec {
    fn over(self, below: Self) -> Self {
        Self {
            path: self.path.or(below.path),
            size: self.size.or(below.size),
            iops: self.iops.or(below.iops),
            bandwidth: self.bandwidth.or(below.bandwidth),
            on_full: self.on_full.or(below.on_full),
        }
    }
}

impl TenantSpec {
    fn over(self, below: Self) -> Self {
        let mut storage = below.storage;
        storage.extend(self.storage);
        Self {
            user: self.user.or(below.user),
            cpus: self.cpus.or(below.cpus),
            memory: self.memory.or(below.memory),
            storage,
            bandwidth: self.bandwidth.or(below.bandwidth),
        }
    }
}
