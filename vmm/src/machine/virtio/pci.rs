//! Virtio devices in the slots of a PCI bus.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use boot::{acpi, layout};
use devices::bus::Bus;
use devices::pci::root::{CONFIG_PORTS, CONFIG_PORTS_LEN};
use devices::pci::{BarAllocator, ConfigPorts, Ecam, MmioWindow, Root};
use devices::virtio::VirtioDevice;
use devices::virtio::transport::pci::{BAR_LEN, Pci, Resources};
use resources::config::Transport;

use super::{Cores, Error, Host};
use crate::kvm::doorbell::AddressDoorbells;
use crate::kvm::msix::{GsiAllocator, GsiVectors};
use crate::kvm::routing::GsiRouter;
use crate::kvm::vm::IOAPIC_PINS;

/// There is one bus.
const LAST_BUS: u8 = 0;
/// The most addresses above RAM that are given to PCI: plenty, and low enough for page tables of four
/// levels where the processor could address more.
const MEMORY64_LEN: u64 = 64 << 30;
/// The part of the 32-bit device space that belongs to PCI. Both bounds are below 4 GiB.
#[allow(clippy::cast_possible_truncation)]
const MEMORY32: Range<u32> = layout::MMIO32_LOW.start as u32..layout::MMIO32_LOW.end as u32;

/// Puts `devices` into slots from 1 on, and the bus where the guest looks for it.
pub(super) fn connect(
    host: &Host<'_>,
    devices: Vec<Box<dyn VirtioDevice>>,
    router: Arc<GsiRouter>,
    pio: &mut Bus,
    mmio: &mut Bus,
) -> Result<(Cores, acpi::Pci), Error> {
    let memory64 = memory64(&host.device_space)?;
    let memory32 = u64::from(MEMORY32.start)..u64::from(MEMORY32.end);
    let (root, cores) = fill(host, devices, router, [memory32.clone(), memory64.clone()])?;

    let ecam = layout::PCI_ECAM;
    mmio.insert(ecam.start, ecam.end - ecam.start, Arc::new(Ecam::new(root.clone())))?;
    for window in [memory32, memory64.clone()] {
        let device = MmioWindow::new(root.clone(), window.start);
        mmio.insert(window.start, window.end - window.start, Arc::new(device))?;
    }
    let ports = Arc::new(Mutex::new(ConfigPorts::new(root)));
    pio.insert(CONFIG_PORTS.into(), CONFIG_PORTS_LEN, ports)?;
    let described = acpi::Pci {
        ecam: ecam.start,
        last_bus: LAST_BUS,
        config_ports: CONFIG_PORTS,
        memory32: MEMORY32,
        memory64,
    };
    Ok((cores, described))
}

/// The window above RAM.
fn memory64(space: &Range<u64>) -> Result<Range<u64>, Error> {
    let end = space.end.min(space.start.saturating_add(MEMORY64_LEN));
    if end.saturating_sub(space.start) < BAR_LEN {
        return Err(Error::NoAddresses { end: space.end });
    }
    Ok(space.start..end)
}

/// A bus with all devices on it.
fn fill(
    host: &Host<'_>,
    devices: Vec<Box<dyn VirtioDevice>>,
    router: Arc<GsiRouter>,
    windows: [Range<u64>; 2],
) -> Result<(Arc<Root>, Cores), Error> {
    let [_, memory64] = &windows;
    let mut addresses = BarAllocator::new(memory64.clone());
    let end = memory64.end;
    let windows: Arc<[Range<u64>]> = windows.into();
    let mut gsis = GsiAllocator::new(IOAPIC_PINS, host.system.max_routes());
    let (vm, memory) = (host.vm.fd(), Arc::new(host.memory.clone()));
    let (mut root, mut cores) = (Root::new(), Cores::new());
    let count = devices.len();
    for device in devices {
        let id = device.id();
        let failed = |source| Error::Host { device: id, source };
        let vectors = Pci::vectors(&*device).map_err(failed)?;
        let first =
            gsis.reserve(vectors).map_err(|source| Error::NoInterrupts { device: id, source })?;
        let vectors = GsiVectors::new(Arc::clone(vm), Arc::clone(&router), first, vectors);
        let resources = Resources {
            address: addresses.allocate(BAR_LEN).ok_or(Error::NoAddresses { end })?,
            windows: Arc::clone(&windows),
            vectors: Arc::new(vectors),
            notify: Box::new(AddressDoorbells(Arc::clone(vm))),
        };
        let function = Pci::new(device, Arc::clone(&memory), resources).map_err(failed)?;
        let bar = Arc::clone(function.bar());
        cores.push(Arc::clone(function.core()));
        root.insert(Arc::new(Mutex::new(function)), bar).map_err(|_| Error::TooMany {
            count,
            transport: Transport::Pci,
            limit: Root::ROOM,
        })?;
    }
    Ok((Arc::new(root), cores))
}

#[cfg(test)]
mod pci_test {
    use super::*;

    #[test]
    fn the_window_lies_above_ram_and_is_bounded() {
        assert_eq!(memory64(&(1 << 32..1 << 46)).unwrap(), 1 << 32..68 << 30);
        assert_eq!(memory64(&(1 << 32..1 << 36)).unwrap(), 1 << 32..1 << 36);
        let error = memory64(&(1 << 36..1 << 36)).unwrap_err();
        assert!(error.to_string().contains("0x1000000000"), "{error}");
    }
}
