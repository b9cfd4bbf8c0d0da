//! The MADT: local APICs and the I/O APIC (ACPI 6.5, 5.2.12).

use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};

use super::{Encoded, Platform, bytes, table};
use crate::layout::LOCAL_APIC;

const REVISION: u8 = 6;
/// Flags: no PCAT_COMPAT, there is no 8259.
const FLAGS: u32 = 0;

/// From this id on a processor needs an x2APIC entry; 255 is broadcast in xAPIC mode.
const FIRST_X2APIC_ONLY_ID: u32 = 255;
const X2APIC_TYPE: u8 = 9;
const X2APIC_LEN: u8 = 16;
const X2APIC_ENABLED: u32 = 1;

pub(super) fn build(platform: &Platform) -> Encoded {
    let local_apic = u32::try_from(LOCAL_APIC).unwrap_or_default();
    let mut body = Vec::new();
    body.extend(local_apic.to_le_bytes());
    body.extend(FLAGS.to_le_bytes());
    for &id in &platform.apic_ids {
        match u8::try_from(id) {
            Ok(short) if id < FIRST_X2APIC_ONLY_ID => {
                let entry = ProcessorLocalApic::new(short, short, EnabledStatus::Enabled);
                body.extend(bytes(&entry));
            }
            _ => body.extend(local_x2apic(id)),
        }
    }
    let ioapic = &platform.ioapic;
    body.extend(bytes(&IoApic::new(ioapic.id, ioapic.address, ioapic.gsi_base)));
    table(*b"APIC", REVISION, &body)
}

/// A processor local x2APIC structure (ACPI 6.5, 5.2.12.12) for the APIC `id`, also its UID.
fn local_x2apic(id: u32) -> Vec<u8> {
    let mut entry = vec![X2APIC_TYPE, X2APIC_LEN, 0, 0];
    for field in [id, X2APIC_ENABLED, id] {
        entry.extend(field.to_le_bytes());
    }
    entry
}
