//! The DSDT: every device that does not enumerate itself, with its resources, in AML
//! (ACPI 6.5, chapters 6 and 20). There is deliberately no keyboard controller (PNP0303): a kernel
//! that finds one probes it for half a second.

use std::ops::Range;

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, Device, EISAName, Equal, Field, FieldAccessType,
    FieldEntry, FieldLockRule, FieldUpdateRule, IO, If, Interrupt, Local, Memory32Fixed, Method,
    Name, Notify, OpRegion, OpRegionSpace, Package, Path, ResourceTemplate, Scope, Store, ZERO,
};

use super::{Encoded, Ged, Pci, Platform, Power, Serial, VirtioMmio, bytes, table};

/// 2: integers are 64 bits wide.
const REVISION: u8 = 2;

const SERIAL_PORTS: u8 = 8;
const RTC_PORT: u16 = 0x70;
const RTC_PORTS: u8 = 2;
const PCI_CONFIG_PORTS: u8 = 8;
const VIRTIO_MMIO_LEN: u32 = 0x1000;

/// Event selector bit of a power button press, and the notification it becomes ("S0 power button
/// pressed", ACPI 6.5, 4.8.2.2.1.2).
const POWER_BUTTON_EVENT: u8 = 1 << 0;
const BUTTON_PRESSED: u8 = 0x80;

/// `_STA`: present, enabled and functioning, but not worth showing to a user.
const HIDDEN: u8 = 0b1011;

pub(super) fn build(platform: &Platform) -> Encoded {
    let mut devices: Vec<Encoded> = Vec::new();
    devices.push(motherboard(platform));
    devices.extend(platform.serial.as_ref().map(serial));
    if platform.rtc {
        devices.push(rtc());
    }
    devices.extend(platform.pvpanic.map(pvpanic));
    if let Some(ged) = &platform.ged {
        devices.push(device("PWRB", &[&hid("PNP0C0C")]));
        devices.push(generic_event_device(ged));
    }
    devices.extend(platform.pci.as_ref().map(host_bridge));
    devices.extend((0..).zip(&platform.virtio_mmio).map(virtio_mmio));
    devices.extend(platform.apic_ids.iter().enumerate().map(processor));

    let devices = devices.iter().map(|device| device as &dyn Aml).collect();
    let mut body = bytes(&Scope::new(Path::new("_SB_"), devices));
    body.extend(bytes(&soft_off(&platform.power)));
    table(*b"DSDT", REVISION, &body)
}

/// `\_S5`: the sleep type of soft off.
fn soft_off(power: &Power) -> Name {
    Name::new(Path::new("_S5_"), &Package::new(vec![&power.sleep_type_s5, &ZERO, &ZERO, &ZERO]))
}

/// Claims addresses that belong to no other device in the namespace: the power registers, the
/// event selector and, as the PCI Firmware Specification (3.3, 4.1.2) wants, the ECAM.
fn motherboard(platform: &Platform) -> Encoded {
    let Power { sleep_control, sleep_status, reset, .. } = platform.power;
    let ports = [sleep_control, sleep_status, reset].into_iter();
    let ports: Vec<IO> =
        ports.chain(platform.ged.map(|ged| ged.port)).map(|port| io(port, 1)).collect();
    let ecam = platform.pci.as_ref().map(ecam);
    let mut resources: Vec<&dyn Aml> = ports.iter().map(|port| port as &dyn Aml).collect();
    resources.extend(ecam.as_ref().map(|ecam| ecam as &dyn Aml));
    device("MBRS", &[&hid("PNP0C02"), &uid(0), &current_resources(resources)])
}

fn ecam(pci: &Pci) -> AddressSpace<u64> {
    let last = pci.ecam + (u64::from(pci.last_bus) << 20 | 0xf_ffff);
    AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, pci.ecam, last, None)
}

fn serial(serial: &Serial) -> Encoded {
    let (ports, interrupt) = (io(serial.port, SERIAL_PORTS), edge(serial.gsi));
    device("COM1", &[&hid("PNP0501"), &uid(1), &current_resources(vec![&ports, &interrupt])])
}

fn rtc() -> Encoded {
    device("RTC_", &[&hid("PNP0B00"), &current_resources(vec![&io(RTC_PORT, RTC_PORTS)])])
}

fn pvpanic(port: u16) -> Encoded {
    // Older drivers insist on a status.
    let status = Name::new(Path::new("_STA"), &HIDDEN);
    let resources = current_resources(vec![&io(port, 1)]);
    device("PEVT", &[&string_hid("QEMU0001"), &status, &resources])
}

/// The Generic Event Device: its interrupt runs `_EVT`, which asks the event selector what
/// happened and notifies the device concerned.
fn generic_event_device(ged: &Ged) -> Encoded {
    let (region, selector, event) = (Path::new("EVTR"), Path::new("ESEL"), Local(0));
    let registers = OpRegion::new(region, OpRegionSpace::SystemIO, &ged.port, &1u8);
    let fields = Field::new(
        Path::new("EVTR"),
        FieldAccessType::Byte,
        FieldLockRule::NoLock,
        FieldUpdateRule::WriteAsZeroes,
        vec![FieldEntry::Named(*b"ESEL", 8)],
    );
    let read = Store::new(&event, &selector);
    let is_pressed = And::new(&ZERO, &event, &POWER_BUTTON_EVENT);
    let (button, pressed) = (Path::new("PWRB"), BUTTON_PRESSED);
    let press = Notify::new(&button, &pressed);
    let press = If::new(&is_pressed, vec![&press]);
    let is_ours = Equal::new(&Arg(0), &ged.gsi);
    let handle = If::new(&is_ours, vec![&read, &press]);
    let method = Method::new(Path::new("_EVT"), 1, true, vec![&handle]);
    let interrupt = current_resources(vec![&edge(ged.gsi)]);
    let hid = string_hid("ACPI0013");
    device("GED_", &[&hid, &uid(0), &interrupt, &registers, &fields, &method])
}

/// The PCI host bridge. There is no `_PRT`, for no function has an interrupt pin.
fn host_bridge(pci: &Pci) -> Encoded {
    let compatible = EISAName::new("PNP0A03");
    let buses = AddressSpace::new_bus_number(0, u16::from(pci.last_bus));
    let ports = io(pci.config_ports, PCI_CONFIG_PORTS);
    let Range { start, end } = pci.memory32;
    let low =
        AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, start, end - 1, None);
    let Range { start, end } = pci.memory64;
    let high =
        AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, start, end - 1, None);
    let contents: [&dyn Aml; 6] = [
        &hid("PNP0A08"),
        &Name::new(Path::new("_CID"), &compatible),
        &Name::new(Path::new("_SEG"), &ZERO),
        &Name::new(Path::new("_BBN"), &ZERO),
        &uid(0),
        &current_resources(vec![&buses, &ports, &low, &high]),
    ];
    device("PCI0", &contents)
}

/// The virtio device of this number on MMIO.
fn virtio_mmio((number, device_at): (u32, &VirtioMmio)) -> Encoded {
    let registers = Memory32Fixed::new(true, device_at.address, VIRTIO_MMIO_LEN);
    let resources = current_resources(vec![&registers, &edge(device_at.gsi)]);
    device(&format!("V{number:03X}"), &[&string_hid("LNRO0005"), &uid(number), &resources])
}

/// The processor with the `index`-th APIC id as its UID, by which the MADT's entry is found.
fn processor((index, apic_id): (usize, &u32)) -> Encoded {
    device(&format!("C{index:03X}"), &[&string_hid("ACPI0007"), &uid(*apic_id)])
}

fn device(name: &str, contents: &[&dyn Aml]) -> Encoded {
    Encoded(bytes(&Device::new(Path::new(name), contents.to_vec())))
}

/// `_HID` with a compressed EISA id.
fn hid(id: &str) -> Name {
    Name::new(Path::new("_HID"), &EISAName::new(id))
}

/// `_HID` with an ACPI id.
fn string_hid(id: &'static str) -> Name {
    Name::new(Path::new("_HID"), &id)
}

fn uid(id: u32) -> Name {
    Name::new(Path::new("_UID"), &id)
}

fn current_resources(resources: Vec<&dyn Aml>) -> Name {
    Name::new(Path::new("_CRS"), &ResourceTemplate::new(resources))
}

fn io(port: u16, len: u8) -> IO {
    IO::new(port, port, 1, len)
}

/// An edge-triggered, active-high interrupt of its own.
fn edge(gsi: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}
