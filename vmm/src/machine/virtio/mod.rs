//! The virtio devices of a machine, made from its configuration and connected to its transport: [`pci`] or
//! [`mmio`]. A machine has its own, fresh ones; none outlives a reset.

mod mmio;
mod pci;

use std::io;
use std::sync::{Arc, Mutex};

use boot::acpi;
use devices::bus::Bus;
use devices::virtio::transport::Core;
use devices::virtio::{DeviceId, VirtioDevice};
use resources::config::Transport;

use super::wiring::Host;
use crate::kvm::msix::NoGsis;
use crate::kvm::routing::GsiRouter;

/// Why a device could not be connected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The transport is full.
    #[error(
        "the guest has {count} virtio devices, but devices.transport = \"{transport}\" has room for {limit}; \
         leave some out"
    )]
    TooMany {
        /// Devices there are to be.
        count: usize,
        /// How they were to be reached.
        transport: Transport,
        /// Devices there can be.
        limit: usize,
    },
    /// RAM takes all addresses, or nearly all.
    #[error(
        "guest memory leaves no addresses for PCI devices below what this processor reaches ({end:#x}); give the \
         guest less memory, or use --transport mmio"
    )]
    NoAddresses {
        /// First address that the guest's processor cannot reach.
        end: u64,
    },
    /// KVM has too few interrupt routes.
    #[error("the {device:?} device cannot have its interrupts: {source}")]
    NoInterrupts {
        /// Which device.
        device: DeviceId,
        /// What is missing.
        source: NoGsis,
    },
    /// The host lacks what the device takes.
    #[error("cannot set up the {device:?} device: {source}")]
    Host {
        /// Which device.
        device: DeviceId,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Two devices claim the same addresses.
    #[error(transparent)]
    Bus(#[from] devices::bus::Error),
}

/// What ACPI tells the guest about its virtio devices.
#[derive(Debug, Default)]
pub(super) struct Described {
    pub pci: Option<acpi::Pci>,
    pub mmio: Vec<acpi::VirtioMmio>,
}

/// What the machine needs to stop a device and let it go on.
pub(super) type Cores = Vec<Arc<Mutex<Core>>>;

/// Puts `devices` on the buses, in their order.
pub(super) fn connect(
    host: &Host<'_>,
    devices: Vec<Box<dyn VirtioDevice>>,
    transport: Transport,
    router: Arc<GsiRouter>,
    pio: &mut Bus,
    mmio: &mut Bus,
) -> Result<(Cores, Described), Error> {
    match transport {
        Transport::Pci => {
            let (cores, pci) = pci::connect(host, devices, router, pio, mmio)?;
            Ok((cores, Described { pci: Some(pci), ..Described::default() }))
        }
        Transport::Mmio => {
            let (cores, mmio) = mmio::connect(host, devices, mmio)?;
            Ok((cores, Described { mmio, ..Described::default() }))
        }
    }
}
