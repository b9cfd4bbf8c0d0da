//! [`Guest`], [`Tenant`] and [`Pool`]: the parts of a host, complete and valid.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::super::{Bandwidth, Name, VmConfig, Volume};
use super::{CpuShare, Enforce, OnFull, PowerState, Ready, Restart};
use crate::{Size, Thousandths};

/// One VM of a host file; of a `count` there are as many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// What it is called.
    pub name: Name,
    /// The `[vm.SECTION]` it comes from: its name, without the number of a `count`.
    pub section: Name,
    /// Whose reservation it takes from; the host's if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Name>,
    /// The machine. The path of a disk in a pool is the one it has there.
    pub vm: VmConfig,
    /// Its host CPUs.
    pub cpu: CpuShare,
    /// Whether it is started again after its end.
    pub restart: Restart,
    /// How it says that it is ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<Ready>,
    /// Sections and VMs that are started before it, as written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<Name>,
    /// Whether it is to run.
    pub state: PowerState,
    /// Labels by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What follows where a limit cannot be enforced.
    pub enforce: Enforce,
}

impl Guest {
    /// Path of one of its keys in the host file, as in `vm.web.memory.size`.
    #[must_use]
    pub fn key(&self, key: &str) -> String {
        format!("vm.{}.{key}", self.section)
    }

    /// Its disks in pools, by name.
    pub fn volumes(&self) -> impl Iterator<Item = (&Name, &Volume)> {
        self.vm.disk.iter().filter_map(|(name, disk)| Some((name, disk.volume.as_ref()?)))
    }

    /// What its network devices may receive and send together, in bytes a second; the name of the
    /// first that has no bound instead.
    ///
    /// # Errors
    ///
    /// The device without a bound.
    pub fn network(&self) -> Result<(u64, u64), &Name> {
        self.vm.net.iter().try_fold((0u64, 0u64), |(received, sent), (name, net)| {
            let (receive, send) = net.receive.bandwidth.zip(net.send.bandwidth).ok_or(name)?;
            let (receive, send) = (receive.bytes_per_second(), send.bytes_per_second());
            Ok((received.saturating_add(receive), sent.saturating_add(send)))
        })
    }
}

/// A reservation that VMs share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// Who may book in it, beside root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Host CPUs.
    pub cpus: Thousandths,
    /// Memory, overhead of its VMs included.
    pub memory: Size,
    /// Storage by pool.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub storage: BTreeMap<Name, Size>,
    /// Bytes a second for its network devices together, in each direction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
}

/// A folder for disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// The folder.
    pub path: PathBuf,
    /// What it may hold before overcommit; what its file system holds if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// Requests a second to be promised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iops: Option<u64>,
    /// Bytes a second to be promised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// What a guest meets when the file system is full.
    pub on_full: OnFull,
}

impl Pool {
    /// Where the disk `disk` of `vm` is: no name has a dot, so no two disks meet.
    #[must_use]
    pub fn disk(&self, vm: &Name, disk: &Name) -> PathBuf {
        self.path.join(format!("{vm}.{disk}.img"))
    }
}
