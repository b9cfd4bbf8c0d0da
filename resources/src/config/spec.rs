//! [`VmSpec`]: a VM as one source, the flags or a file, describes it.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::named::layered;
use super::{
    BalloonSpec, BootSpec, ConsolePort, ConsoleTarget, DevicesSpec, Disk, HugePageSize, MemorySpec,
    Name, Named, NetSpec, OnReboot, Overlay, Topology, Vsock,
};

/// What one source says about a VM; `None` and empty tables where it says
/// nothing. The meaning of each key is that of the field of the same name in
/// [`VmConfig`](super::VmConfig).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    #[serde(skip_serializing_if = "Named::is_empty")]
    pub disk: Named<Disk>,
    #[serde(skip_serializing_if = "Named::is_empty")]
    pub net: Named<NetSpec>,
    #[serde(skip_serializing_if = "Named::is_empty")]
    pub console: Named<ConsolePort>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock: Option<Vsock>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balloon: Option<BalloonSpec>,
}

impl VmSpec {
    /// This spec's keys where given, those of `below` elsewhere. The topology and
    /// devices of one name are replaced whole: their parts mean nothing alone.
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
            disk: layered(self.disk, below.disk),
            net: layered(self.net, below.net),
            console: layered(self.console, below.console),
            vsock: self.vsock.or(below.vsock),
            balloon: match (self.balloon, below.balloon) {
                (Some(above), Some(below)) => Some(above.over(below)),
                (above, below) => above.or(below),
            },
        }
    }

    /// Relative paths made to start at `directory`.
    #[must_use]
    pub fn relative_to(mut self, directory: &Path) -> Self {
        for path in self.paths() {
            // An empty path stays empty, to be refused as such later.
            if !path.as_os_str().is_empty() {
                *path = directory.join(&*path);
            }
        }
        self
    }

    /// Every path of the host in it.
    fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let disks = self.disk.values_mut().flat_map(|disk| {
            let overlay = match &mut disk.overlay {
                Overlay::Keep(path) => Some(path),
                Overlay::None | Overlay::Discard => None,
            };
            let image = disk.volume.as_mut().and_then(|volume| volume.image.as_mut());
            [Some(&mut disk.path), overlay, image]
        });
        let consoles = self.console.values_mut().map(|console| match &mut console.target {
            ConsoleTarget::File(path) | ConsoleTarget::Socket(path) => Some(path),
            ConsoleTarget::Stdio | ConsoleTarget::Off | ConsoleTarget::Pty => None,
        });
        let vsock = self.vsock.as_mut().map(|vsock| &mut vsock.socket);
        let boot = [self.kernel.as_mut(), self.initrd.as_mut(), vsock];
        boot.into_iter().chain(disks).chain(consoles).flatten()
    }
}
