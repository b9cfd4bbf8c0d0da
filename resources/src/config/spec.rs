//! [`VmSpec`]: a VM as one source, the flags or a file, describes it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{BootSpec, DevicesSpec, HugePageSize, MemorySpec, Name, OnReboot, Topology};

/// What one source says about a VM; `None` and empty tables where it says
/// nothing. The meaning of each key is that of the field of the same name in
/// [`VmConfig`](super::VmConfig).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct VmSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hugepages: Option<HugePageSize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_reboot: Option<OnReboot>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology: Option<Topology>,
    pub memory: MemorySpec,
    pub boot: BootSpec,
    pub devices: DevicesSpec,
}

impl VmSpec {
    /// This spec's keys where given, those of `below` elsewhere. The topology is
    /// replaced whole: its parts mean nothing alone.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            name: self.name.or(below.name),
            kernel: self.kernel.or(below.kernel),
            initrd: self.initrd.or(below.initrd),
            cmdline: self.cmdline.or(below.cmdline),
            vcpus: self.vcpus.or(below.vcpus),
            hugepages: self.hugepages.or(below.hugepages),
            on_reboot: self.on_reboot.or(below.on_reboot),
            topology: self.topology.or(below.topology),
            memory: self.memory.over(below.memory),
            boot: self.boot.over(below.boot),
            devices: self.devices.over(below.devices),
        }
    }

    /// Relative paths made to start at `directory`.
    #[must_use]
    pub fn relative_to(mut self, directory: &Path) -> Self {
        for path in [&mut self.kernel, &mut self.initrd].into_iter().flatten() {
            // An empty path stays empty, to be refused as such later.
            if !path.as_os_str().is_empty() {
                *path = directory.join(&*path);
            }
        }
        self
    }
}
