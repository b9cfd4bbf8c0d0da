//! ACPI tables for a hardware-reduced platform (ACPI 6.5): they tell the guest which processors,
//! interrupt controllers and devices it has, and how to turn itself off. There is no PM1 block, no
//! SCI, no FACS and no 8259.
//!
//! This file lays the tables out in guest memory and holds the small ones; each larger table has
//! its own file. What the registers named here do is the business of whoever implements them.

mod dsdt;
mod fadt;
mod madt;

use std::collections::BTreeSet;
use std::ops::Range;

use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

use crate::layout::ACPI_TABLES;

/// The most processors the DSDT's names have room for; their tables fit below 1 MiB.
pub const MAX_PROCESSORS: usize = 2048;

const OEM_ID: [u8; 6] = *b"CARVE ";
const OEM_TABLE_ID: [u8; 8] = *b"CARVEVM ";
const OEM_REVISION: u32 = 1;

/// Broadcast, in x2APIC mode (Intel SDM 3, 11.12.9).
const BROADCAST_APIC_ID: u32 = 0xffff_ffff;

/// What the tables describe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// APIC ids of the processors, the boot processor first, in any other order. An id is also the
    /// processor's ACPI UID.
    pub apic_ids: Vec<u32>,
    /// The I/O APIC.
    pub ioapic: IoApic,
    /// COM1.
    pub serial: Option<Serial>,
    /// A CMOS RTC at ports 0x70 and 0x71, with the century at offset 0x32 and no interrupt.
    pub rtc: bool,
    /// Sleep and reset registers.
    pub power: Power,
    /// Generic Event Device, and with it the power button it reports.
    pub ged: Option<Ged>,
    /// Port of a pvpanic device.
    pub pvpanic: Option<u16>,
    /// PCI, with what its host bridge passes on.
    pub pci: Option<Pci>,
    /// Virtio devices on MMIO.
    pub virtio_mmio: Vec<VirtioMmio>,
}

/// An I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// The id in its id register.
    pub id: u8,
    /// Guest-physical address of its registers.
    pub address: u32,
    /// Global system interrupt of its first pin.
    pub gsi_base: u32,
}

/// A 16550 UART with eight registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serial {
    /// First I/O port.
    pub port: u16,
    /// Its interrupt: edge triggered, active high.
    pub gsi: u32,
}

/// Registers that turn the machine off or reset it: one 8-bit I/O port each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Power {
    /// Sleep control register (ACPI 6.5, 4.8.3.7).
    pub sleep_control: u16,
    /// Sleep status register.
    pub sleep_status: u16,
    /// The sleep type that means S5, soft off: 0 to 7.
    pub sleep_type_s5: u8,
    /// Reset register (ACPI 6.5, 4.8.3.6).
    pub reset: u16,
    /// What to write to the reset register.
    pub reset_value: u8,
}

/// A Generic Event Device (ACPI 6.5, 5.6.9) with an event selector register that clears when
/// read; its bit 0 is a press of the power button.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ged {
    /// I/O port of the event selector.
    pub port: u16,
    /// Its interrupt: edge triggered, active high.
    pub gsi: u32,
}

/// A PCI Express segment: number 0, buses from 0 on. No function has an interrupt pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pci {
    /// Guest-physical address of bus 0's enhanced configuration space.
    pub ecam: u64,
    /// The last bus.
    pub last_bus: u8,
    /// The first of the eight ports of the older configuration mechanism.
    pub config_ports: u16,
    /// Addresses of device memory below 4 GiB; not empty.
    pub memory32: Range<u32>,
    /// Addresses of device memory above RAM; not empty.
    pub memory64: Range<u64>,
}

/// The registers of a virtio device on MMIO (virtio 1.3, 4.2): 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioMmio {
    /// Guest-physical address.
    pub address: u32,
    /// Its interrupt: edge triggered, active high.
    pub gsi: u32,
}

/// Why no tables could be made or placed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The list of processors is empty.
    #[error("ACPI tables need at least one processor")]
    NoProcessor,
    /// More processors than the tables can name.
    #[error("ACPI tables describe at most {MAX_PROCESSORS} processors, not {0}: give fewer vCPUs")]
    TooManyProcessors(usize),
    /// Two processors have the same id, or one has the broadcast id.
    #[error("APIC id {0:#x} is used twice or reserved: every processor needs its own")]
    BadApicId(u32),
    /// The tables are larger than the memory set aside for them.
    #[error(
        "ACPI tables take {size} bytes, the guest's firmware area holds {room}: give fewer vCPUs"
    )]
    TooLarge {
        /// Size of all tables in bytes.
        size: usize,
        /// Room in bytes.
        room: u64,
    },
    /// Guest memory refused the tables.
    #[error("cannot write ACPI tables to guest memory at {:#x}: {source}", ACPI_TABLES.start)]
    Write {
        /// What guest memory said.
        source: GuestMemoryError,
    },
}

/// A complete set of tables, RSDP first, ready to be written at the start of
/// [`ACPI_TABLES`].
#[derive(Clone, Debug)]
pub struct Tables {
    image: Vec<u8>,
    /// Name and place in the image of each table.
    files: Vec<(&'static str, Range<usize>)>,
}

impl Tables {
    /// Makes the tables for `platform`.
    ///
    /// # Errors
    ///
    /// The processors cannot be described, or the tables do not fit the memory set aside.
    pub fn build(platform: &Platform) -> Result<Self, Error> {
        check_processors(&platform.apic_ids)?;
        let mut tables = Self { image: Vec::new(), files: Vec::new() };
        // Room for the RSDP, which can only be made once the XSDT has a place.
        tables.image.resize(Rsdp::len(), 0);
        tables.files.push(("RSDP", 0..Rsdp::len()));

        let dsdt = tables.push("DSDT", &dsdt::build(platform));
        let mut listed = vec![
            tables.push("FACP", &fadt::build(platform, dsdt)),
            tables.push("APIC", &madt::build(platform)),
        ];
        if let Some(pci) = &platform.pci {
            listed.push(tables.push("MCFG", &mcfg(pci)));
        }
        let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
        listed.into_iter().for_each(|table| xsdt.add_entry(table));
        let xsdt = tables.push("XSDT", &xsdt);
        let rsdp = bytes(&Rsdp::new(OEM_ID, xsdt));
        tables.image[..rsdp.len()].copy_from_slice(&rsdp);

        let (size, room) = (tables.image.len(), ACPI_TABLES.end - ACPI_TABLES.start);
        if size as u64 > room {
            return Err(Error::TooLarge { size, room });
        }
        Ok(tables)
    }

    /// Writes the tables to guest memory; returns the address of the RSDP. Memory between tables
    /// is zeroed.
    ///
    /// # Errors
    ///
    /// `memory` lacks the addresses set aside for the tables.
    pub fn write<M: GuestMemoryBackend>(&self, memory: &M) -> Result<GuestAddress, Error> {
        let rsdp = GuestAddress(ACPI_TABLES.start);
        memory.write_slice(&self.image, rsdp).map_err(|source| Error::Write { source })?;
        Ok(rsdp)
    }

    /// Signature and bytes of each table (the RSDP's signature shortened to `RSDP`).
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        self.files.iter().map(|(name, place)| (*name, &self.image[place.clone()]))
    }

    /// Appends a table and returns its guest-physical address, a multiple of 16.
    fn push(&mut self, name: &'static str, table: &dyn Aml) -> u64 {
        let start = self.image.len().next_multiple_of(16);
        self.image.resize(start, 0);
        table.to_aml_bytes(&mut self.image);
        self.files.push((name, start..self.image.len()));
        ACPI_TABLES.start + start as u64
    }
}

fn check_processors(apic_ids: &[u32]) -> Result<(), Error> {
    match apic_ids.len() {
        0 => return Err(Error::NoProcessor),
        count if count > MAX_PROCESSORS => return Err(Error::TooManyProcessors(count)),
        _ => {}
    }
    let mut seen = BTreeSet::from([BROADCAST_APIC_ID]);
    match apic_ids.iter().find(|&&id| !seen.insert(id)) {
        Some(&id) => Err(Error::BadApicId(id)),
        None => Ok(()),
    }
}

/// The MCFG (PCI Firmware Specification 3.3, 4.1.2).
fn mcfg(pci: &Pci) -> MCFG {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(pci.ecam, 0, 0, pci.last_bus);
    mcfg
}

/// A table of the given signature and revision with `body` behind the standard header.
fn table(signature: [u8; 4], revision: u8, body: &[u8]) -> Encoded {
    let mut sdt = Sdt::new(signature, 36, revision, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    sdt.append_slice(body);
    Encoded(sdt.as_slice().to_vec())
}

fn bytes(part: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    part.to_aml_bytes(&mut bytes);
    bytes
}

/// AML or a table already in its final form.
struct Encoded(Vec<u8>);

impl Aml for Encoded {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

#[cfg(test)]
mod acpi_test;
#[cfg(test)]
mod iasl_test;
