//! Which device is where: ports, addresses and GSIs of the machine a guest sees, on its buses and
//! in its ACPI tables alike.
//!
//! Both are made here from the same constants, so that they cannot disagree.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use boot::acpi;
use boot::layout::{self, RamLayout};
use boot::x86_64::reset_vector;
use devices::bus::{Bus, SharedBusDevice};
use devices::interrupt::InterruptLine;
use devices::ioapic::IoApic;
use devices::legacy::{
    Cmos, DebugExit, Ged, I8042, PowerRegisters, Pvpanic, Serial, i8042, power, serial,
};
use devices::virtio::VirtioDevice;
use devices::virtio::transport::Core;
use resources::config::VmConfig;
use vm_memory::GuestMemoryError;
use vmm_sys_util::eventfd::EventFd;

use super::virtio::{self, Described};
use super::{ConsolePorts, Error};
use crate::kvm::ioapic::IoApicRoutes;
use crate::kvm::routing::GsiRouter;
use crate::kvm::vm::IOAPIC_PINS;
use crate::kvm::{self, System, Vm};
use devices::memory::GuestMemory;

const SERIAL_GSI: u32 = 4;
const CMOS_PORT: u16 = 0x70;
const DEBUG_EXIT_PORT: u16 = 0x501;
const PVPANIC_PORT: u16 = 0x505;
const POWER_PORT: u16 = 0x600;
const GED_PORT: u16 = 0x604;
const GED_GSI: u32 = 9;
/// Of a PC's clock, which Linux claims even of one without interrupt.
const RTC_GSI: u32 = 8;
/// I/O APIC pins that virtio devices cannot have.
pub(super) const TAKEN_PINS: [u32; 3] = [SERIAL_GSI, RTC_GSI, GED_GSI];
/// Below 4 GiB, so its 32-bit form in the tables is the same.
#[allow(clippy::cast_possible_truncation)]
const IOAPIC_ADDRESS: u32 = layout::IO_APIC as u32;
/// Length of the I/O APIC's window in bytes.
const IOAPIC_WINDOW: u64 = 0x1000;

/// What devices are connected to.
pub(super) struct Host<'a> {
    pub vm: &'a Vm,
    pub system: &'a System,
    pub memory: &'a GuestMemory,
    /// Guest-physical addresses above RAM.
    pub device_space: Range<u64>,
}

/// Devices that the machine talks to after it has started.
pub(super) struct Devices {
    pub serial: Arc<Mutex<Serial>>,
    pub ged: Arc<Mutex<Ged>>,
}

/// The filled buses.
pub(super) struct Wired {
    pub pio: Bus,
    pub mmio: Bus,
    pub ioapic: Arc<Mutex<IoApic>>,
    pub devices: Devices,
    /// In the guest's order.
    pub virtio: Vec<Arc<Mutex<Core>>>,
    pub described: Described,
}

/// Creates every device of `config` and puts it on its bus.
pub(super) fn connect(
    host: &Host<'_>,
    config: &VmConfig,
    console: ConsolePorts,
    virtio: Vec<Box<dyn VirtioDevice>>,
) -> Result<Wired, Error> {
    let vm = host.vm;
    let router = Arc::new(GsiRouter::new(Arc::clone(vm.fd())));
    let ioapic = shared(IoApic::new(IOAPIC_PINS, Box::new(IoApicRoutes::new(router.clone()))));
    let mut mmio = Bus::new("MMIO");
    mmio.insert(layout::IO_APIC, IOAPIC_WINDOW, ioapic.clone())?;

    let ConsolePorts { output, on_input_drained } = console;
    let serial = shared(Serial::new(line(vm, SERIAL_GSI)?, output, on_input_drained));
    let ged = shared(Ged::new(line(vm, GED_GSI)?));
    let mut pio = Bus::new("I/O port");
    let mut put =
        |port: u16, len, device: Arc<dyn SharedBusDevice>| pio.insert(port.into(), len, device);
    put(serial::COM1, serial::LEN.into(), serial.clone())?;
    put(i8042::PORT, i8042::LEN.into(), shared(I8042))?;
    put(CMOS_PORT, 2, shared(cmos(config)))?;
    put(PVPANIC_PORT, 1, shared(Pvpanic))?;
    put(POWER_PORT, power::LEN.into(), shared(PowerRegisters))?;
    put(GED_PORT, 1, ged.clone())?;
    if config.devices.debug_exit {
        put(DEBUG_EXIT_PORT, 1, shared(DebugExit))?;
    }
    let transport = config.devices.transport;
    let (virtio, described) =
        virtio::connect(host, virtio, transport, router, &mut pio, &mut mmio)?;
    Ok(Wired { pio, mmio, ioapic, devices: Devices { serial, ged }, virtio, described })
}

/// The same machine, as its ACPI tables describe it.
pub(super) fn acpi_platform(apic_ids: Vec<u32>, virtio: Described) -> acpi::Platform {
    acpi::Platform {
        apic_ids,
        ioapic: acpi::IoApic { id: 0, address: IOAPIC_ADDRESS, gsi_base: 0 },
        serial: Some(acpi::Serial { port: serial::COM1, gsi: SERIAL_GSI }),
        rtc: true,
        power: acpi::Power {
            sleep_control: POWER_PORT + power::SLEEP_CONTROL,
            sleep_status: POWER_PORT + power::SLEEP_STATUS,
            sleep_type_s5: power::SLEEP_TYPE_S5,
            reset: POWER_PORT + power::RESET,
            reset_value: power::RESET_VALUE,
        },
        ged: Some(acpi::Ged { port: GED_PORT, gsi: GED_GSI }),
        pvpanic: Some(PVPANIC_PORT),
        pci: virtio.pci,
        virtio_mmio: virtio.mmio,
    }
}

/// Writes the way to reset that a kernel takes when it knows no other.
pub(super) fn write_reset_vector(memory: &GuestMemory) -> Result<(), GuestMemoryError> {
    reset_vector::write(memory, POWER_PORT + power::RESET, power::RESET_VALUE)
}

fn cmos(config: &VmConfig) -> Cmos {
    let ram = RamLayout::new(config.memory.size.bytes());
    let below = ram.below_hole().end;
    Cmos::new(Box::new(SystemTime::now), below, ram.size() - below)
}

fn shared<T>(device: T) -> Arc<Mutex<T>> {
    Arc::new(Mutex::new(device))
}

/// An interrupt line of GSI `gsi`: an eventfd that KVM watches.
fn line(vm: &Vm, gsi: u32) -> Result<Arc<dyn InterruptLine>, Error> {
    let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)
        .map_err(|source| Error::Host { what: "create an eventfd", source })?;
    vm.fd().register_irqfd(&event, gsi).map_err(kvm::failed("KVM_IRQFD"))?;
    Ok(Arc::new(event))
}
