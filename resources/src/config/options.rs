//! The small tables of a VM: how it boots, which optional devices it has and
//! what follows a reboot.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::words::words;

words! {
    /// How the guest's kernel is entered.
    BootProtocol {
        /// The 64-bit Linux protocol where the kernel has it, else PVH.
        #[default]
        Auto = "auto",
        /// The 64-bit protocol of Linux (Documentation/arch/x86/boot.rst).
        Linux64 = "linux64",
        /// PVH: the 32-bit entry an ELF note of type XEN_ELFNOTE_PHYS32_ENTRY names.
        Pvh = "pvh",
    }
}

words! {
    /// What Carve does when the guest reboots.
    OnReboot {
        /// Start the guest again.
        #[default]
        Restart = "restart",
        /// End the VM, as after a power-off.
        Exit = "exit",
    }
}

words! {
    /// How virtio devices are reached by the guest.
    Transport {
        /// Functions on a PCI bus.
        #[default]
        Pci = "pci",
        /// Registers at addresses that ACPI names: quicker to find, fewer devices.
        Mmio = "mmio",
    }
}

/// How the kernel is booted, resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Boot {
    /// How the kernel is entered.
    pub protocol: BootProtocol,
    /// Take the kernel out of a compressed image on the host, once, instead of
    /// leaving it to the guest at every boot.
    pub extract: bool,
}

/// [`Boot`] as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BootSpec {
    /// See [`Boot::protocol`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<BootProtocol>,
    /// See [`Boot::extract`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extract: Option<bool>,
}

impl BootSpec {
    /// These keys where given, those of `below` elsewhere.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self { protocol: self.protocol.or(below.protocol), extract: self.extract.or(below.extract) }
    }

    /// Defaults filled in.
    #[must_use]
    pub fn resolve(self) -> Boot {
        Boot { protocol: self.protocol.unwrap_or_default(), extract: self.extract.unwrap_or(true) }
    }
}

/// Devices that are there or not, resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Devices {
    /// The debug-exit port (0x501): the guest ends the VM by writing a byte and
    /// so chooses the exit code, which is why it is off by default.
    pub debug_exit: bool,
    /// An entropy device, which gives the guest random bytes of the host.
    pub rng: bool,
    /// How virtio devices are reached.
    pub transport: Transport,
}

/// [`Devices`] as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DevicesSpec {
    /// See [`Devices::debug_exit`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub debug_exit: Option<bool>,
    /// See [`Devices::rng`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rng: Option<bool>,
    /// See [`Devices::transport`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<Transport>,
}

impl DevicesSpec {
    /// These keys where given, those of `below` elsewhere.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            debug_exit: self.debug_exit.or(below.debug_exit),
            rng: self.rng.or(below.rng),
            transport: self.transport.or(below.transport),
        }
    }

    /// Defaults filled in.
    #[must_use]
    pub fn resolve(self) -> Devices {
        Devices {
            debug_exit: self.debug_exit.unwrap_or(false),
            rng: self.rng.unwrap_or(true),
            transport: self.transport.unwrap_or_default(),
        }
    }
}
