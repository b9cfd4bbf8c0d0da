//! Virtio devices at addresses of their own, each with a pin of the I/O APIC.

use std::sync::{Arc, Mutex};

use boot::{acpi, layout};
use devices::bus::Bus;
use devices::virtio::VirtioDevice;
use devices::virtio::transport::mmio::{Mmio, MmioInterrupt, WINDOW};
use devices::virtio::transport::{Core, Notifications};
use resources::config::Transport;

use super::super::wiring::TAKEN_PINS;
use super::{Cores, Error, Host};
use crate::kvm::doorbell::MmioDoorbells;
use crate::kvm::line::LazyLine;
use crate::kvm::vm::IOAPIC_PINS;

/// Pins for virtio devices: first those past a PC's sixteen, then those of the sixteen that nothing has;
/// 0 to 3 were timers, keyboards and serial ports for too long.
fn pins() -> impl Iterator<Item = u32> {
    (16..IOAPIC_PINS).chain((5..16).filter(|pin| !TAKEN_PINS.contains(pin)))
}

/// Puts `devices` at 4 KiB each from the start of 32-bit device space on.
pub(super) fn connect(
    host: &Host<'_>,
    devices: Vec<Box<dyn VirtioDevice>>,
    mmio: &mut Bus,
) -> Result<(Cores, Vec<acpi::VirtioMmio>), Error> {
    let (count, limit) = (devices.len(), pins().count());
    if count > limit {
        return Err(Error::TooMany { count, transport: Transport::Mmio, limit });
    }
    let (vm, memory) = (host.vm.fd(), Arc::new(host.memory.clone()));
    let (mut cores, mut described) = (Cores::new(), Vec::new());
    for ((device, gsi), base) in
        devices.into_iter().zip(pins()).zip(layout::MMIO32_LOW.step_by(0x1000))
    {
        let id = device.id();
        let notifications = Arc::new(Notifications::default());
        let line = Arc::new(LazyLine::new(Arc::clone(vm), gsi));
        let interrupt = Arc::new(MmioInterrupt::new(line, Arc::clone(&notifications)));
        let doorbells = Box::new(MmioDoorbells::new(Arc::clone(vm), base));
        let memory = Arc::clone(&memory);
        let core = Core::new(device, memory, interrupt.clone(), notifications, doorbells)
            .map_err(|source| Error::Host { device: id, source })?;
        let core = Arc::new(Mutex::new(core));
        cores.push(Arc::clone(&core));
        let registers = Mmio::new(core, interrupt);
        mmio.insert(base, WINDOW, Arc::new(Mutex::new(registers)))?;
        let address = u32::try_from(base).map_err(|_| Error::NoAddresses { end: base })?;
        described.push(acpi::VirtioMmio { address, gsi });
    }
    Ok((cores, described))
}

#[cfg(test)]
mod mmio_test {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_device_has_a_pin_of_its_own() {
        let pins: Vec<u32> = pins().collect();
        assert_eq!(pins.len(), 41);
        assert_eq!(pins.iter().collect::<BTreeSet<_>>().len(), pins.len());
        assert!(pins.iter().all(|pin| *pin < IOAPIC_PINS && ![4, 8, 9].contains(pin)));
    }
}
