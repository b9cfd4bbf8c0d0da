//! The tables as an operating system finds them: from the RSDP on, following pointers.

use std::collections::BTreeMap;

use proptest::prelude::*;
use vm_memory::GuestMemoryMmap;

use super::*;
use crate::layout::LOCAL_APIC;

/// A platform with every device, and processors with the given APIC ids.
pub fn full_platform(apic_ids: Vec<u32>) -> Platform {
    Platform {
        apic_ids,
        ioapic: IoApic { id: 0, address: 0xfec0_0000, gsi_base: 0 },
        serial: Some(Serial { port: 0x3f8, gsi: 4 }),
        rtc: true,
        power: Power {
            sleep_control: 0x600,
            sleep_status: 0x601,
            sleep_type_s5: 5,
            reset: 0x602,
            reset_value: 1,
        },
        ged: Some(Ged { port: 0x604, gsi: 9 }),
        pvpanic: Some(0x505),
        pci: Some(Pci {
            ecam: 0xe000_0000,
            last_bus: 255,
            config_ports: 0xcf8,
            memory32: 0xc100_0000..0xe000_0000,
            memory64: 0x1_4000_0000..0x11_4000_0000,
        }),
        virtio_mmio: vec![
            VirtioMmio { address: 0xc000_0000, gsi: 16 },
            VirtioMmio { address: 0xc000_1000, gsi: 17 },
        ],
    }
}

/// A platform with nothing that can be left out.
pub fn bare_platform() -> Platform {
    Platform {
        serial: None,
        rtc: false,
        ged: None,
        pvpanic: None,
        pci: None,
        virtio_mmio: vec![],
        ..full_platform(vec![0])
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn sums_to_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte)) == 0
}

/// Guest memory with the tables in it, and the tables found there by signature.
fn boot(platform: &Platform) -> (GuestMemoryMmap, BTreeMap<String, Vec<u8>>) {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();
    let rsdp = Tables::build(platform).unwrap().write(&memory).unwrap();
    let read = |address: u64, len: usize| {
        assert_eq!(address % 16, 0);
        assert!(ACPI_TABLES.contains(&address));
        let mut bytes = vec![0; len];
        memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    };
    let table = |address: u64| {
        let len = u32_at(&read(address, 36), 4) as usize;
        let bytes = read(address, len);
        assert!(sums_to_zero(&bytes));
        (String::from_utf8(bytes[..4].to_vec()).unwrap(), bytes)
    };

    let rsdp = read(rsdp.0, 36);
    assert_eq!(&rsdp[..8], b"RSD PTR ");
    assert!(sums_to_zero(&rsdp[..20]) && sums_to_zero(&rsdp));
    assert_eq!((rsdp[15], u32_at(&rsdp, 16), u32_at(&rsdp, 20)), (2, 0, 36));
    let (name, xsdt) = table(u64_at(&rsdp, 24));
    assert_eq!(name, "XSDT");
    let mut tables: BTreeMap<_, _> =
        (36..xsdt.len()).step_by(8).map(|at| table(u64_at(&xsdt, at))).collect();
    let (name, dsdt) = table(u64_at(&tables["FACP"], 140));
    tables.insert(name, dsdt);
    (memory, tables)
}

/// APIC id and UID of each enabled processor in the MADT, by entry type.
fn processors(madt: &[u8]) -> Vec<(u8, u32, u32)> {
    let mut entries = &madt[44..];
    let mut processors = Vec::new();
    while let [kind, len, ..] = *entries {
        let (entry, rest) = entries.split_at(len.into());
        match (kind, len) {
            (0, 8) => {
                assert_eq!(u32_at(entry, 4), 1);
                processors.push((kind, entry[3].into(), entry[2].into()));
            }
            (9, 16) => {
                assert_eq!((u32_at(entry, 8), &entry[2..4]), (1, &[0, 0][..]));
                processors.push((kind, u32_at(entry, 4), u32_at(entry, 12)));
            }
            (1, 12) => {}
            other => panic!("entry of type and length {other:?}"),
        }
        entries = rest;
    }
    processors
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn every_table_is_found_from_the_rsdp() {
    let (_, tables) = boot(&full_platform(vec![0, 1]));
    assert_eq!(tables.keys().collect::<Vec<_>>(), ["APIC", "DSDT", "FACP", "MCFG"]);
    let (_, tables) = boot(&bare_platform());
    assert_eq!(tables.keys().collect::<Vec<_>>(), ["APIC", "DSDT", "FACP"]);
}

#[test]
fn the_fadt_is_hardware_reduced_and_points_at_the_power_registers() {
    let (_, tables) = boot(&full_platform(vec![0]));
    let fadt = &tables["FACP"];
    assert_eq!((fadt[8], fadt[131], fadt.len()), (6, 5, 276));
    let flags = u32_at(fadt, 112);
    for bit in [0, 2, 4, 5, 6, 10, 20] {
        assert_ne!(flags & 1 << bit, 0, "flag {bit}");
    }
    let io_port = |at| (fadt[at], fadt[at + 1], fadt[at + 2], fadt[at + 3], u64_at(fadt, at + 4));
    assert_eq!(io_port(116), (1, 8, 0, 1, 0x602));
    assert_eq!(fadt[128], 1);
    assert_eq!(io_port(244), (1, 8, 0, 1, 0x600));
    assert_eq!(io_port(256), (1, 8, 0, 1, 0x601));
    // SCI, SMI command and the PM1, PM2, PM timer and GPE blocks: none, in either form.
    assert!(fadt[46..92].iter().all(|&byte| byte == 0));
    assert!(fadt[148..244].iter().all(|&byte| byte == 0));
}

#[test]
fn the_fadt_denies_keyboard_controller_and_vga_and_admits_an_rtc_where_there_is_one() {
    let boot_flags = |platform| {
        let (_, tables) = boot(&platform);
        (u16::from_le_bytes([tables["FACP"][109], tables["FACP"][110]]), tables["FACP"][108])
    };
    assert_eq!(boot_flags(full_platform(vec![0])), (0b01_0100, 0x32));
    assert_eq!(boot_flags(bare_platform()), (0b11_0100, 0));
}

#[test]
fn the_madt_has_no_8259_and_one_io_apic() {
    let mut platform = full_platform(vec![0]);
    platform.ioapic.id = 7;
    let (_, tables) = boot(&platform);
    let madt = &tables["APIC"];
    assert_eq!(u64::from(u32_at(madt, 36)), LOCAL_APIC);
    assert_eq!(u32_at(madt, 40), 0);
    assert_eq!(madt[madt.len() - 12..], [1, 12, 7, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
}

#[test]
fn the_mcfg_covers_the_ecam() {
    let (_, tables) = boot(&full_platform(vec![0]));
    let mcfg = &tables["MCFG"];
    assert_eq!((mcfg.len(), u64_at(mcfg, 44), u32_at(mcfg, 52)), (60, 0xe000_0000, 0xff00_0000));
}

#[test]
fn the_host_bridge_names_its_buses_ports_and_windows() {
    let (_, tables) = boot(&full_platform(vec![0]));
    let dsdt = &tables["DSDT"];
    for id in ["PNP0A08", "PNP0A03"] {
        assert!(contains(dsdt, &bytes(&acpi_tables::aml::EISAName::new(id))), "{id}");
    }
    assert!(contains(dsdt, b"_SEG\x00\x08_BBN\x00"));
    // Word address space: bus numbers, produced, 0 to 255, 256 of them.
    assert!(contains(dsdt, &[0x88, 13, 0, 2, 0x0c, 0, 0, 0, 0, 0, 255, 0, 0, 0, 0, 1]));
    assert!(contains(dsdt, &[0x47, 1, 0xf8, 0x0c, 0xf8, 0x0c, 1, 8]));
    let window = |min: &[u8], max: &[u8], len: &[u8]| {
        let none = vec![0; min.len()];
        [&none, min, max, &none, len].concat()
    };
    let low = [0xc100_0000u32, 0xdfff_ffff, 0x1f00_0000].map(u32::to_le_bytes);
    assert!(contains(dsdt, &window(&low[0], &low[1], &low[2])));
    let high = [0x1_4000_0000u64, 0x11_3fff_ffff, 0x10_0000_0000].map(u64::to_le_bytes);
    assert!(contains(dsdt, &window(&high[0], &high[1], &high[2])));
    assert!(!contains(dsdt, b"_PRT"));
    let (_, tables) = boot(&bare_platform());
    assert!(!contains(&tables["DSDT"], b"PCI0"));
}

#[test]
fn virtio_devices_on_mmio_have_registers_and_an_interrupt_each() {
    let (_, tables) = boot(&full_platform(vec![0]));
    let dsdt = &tables["DSDT"];
    assert_eq!(dsdt.windows(8).filter(|window| window == b"LNRO0005").count(), 2);
    for (address, gsi) in [(0xc000_0000u32, 16), (0xc000_1000, 17)] {
        let mut resources = vec![0x86, 9, 0, 1];
        resources.extend(address.to_le_bytes());
        resources.extend(0x1000u32.to_le_bytes());
        // Extended interrupt: consumer, edge, active high, exclusive.
        resources.extend([0x89, 6, 0, 0b11, 1, gsi, 0, 0, 0]);
        assert!(contains(dsdt, &resources), "{address:#x}");
    }
}

#[test]
fn no_keyboard_is_described() {
    let (_, tables) = boot(&full_platform(vec![0]));
    assert!(!contains(&tables["DSDT"], &bytes(&acpi_tables::aml::EISAName::new("PNP0303"))));
    assert!(contains(&tables["DSDT"], &bytes(&acpi_tables::aml::EISAName::new("PNP0501"))));
}

#[test]
fn the_most_processors_fit_with_every_device() {
    let ids = (0..u32::try_from(MAX_PROCESSORS).unwrap()).map(|id| 0x1_0000 + id * 3).collect();
    let (_, tables) = boot(&full_platform(ids));
    assert_eq!(processors(&tables["APIC"]).len(), MAX_PROCESSORS);
}

#[test]
fn processors_that_cannot_be_described_are_refused() {
    let build = |ids: Vec<u32>| Tables::build(&full_platform(ids)).map(|_| ());
    assert!(matches!(build(vec![]), Err(Error::NoProcessor)));
    assert!(matches!(build(vec![0, 5, 5]), Err(Error::BadApicId(5))));
    assert!(matches!(build(vec![0, u32::MAX]), Err(Error::BadApicId(u32::MAX))));
    assert!(matches!(build((0..2049).collect()), Err(Error::TooManyProcessors(2049))));
}

#[test]
fn memory_without_the_firmware_area_is_an_error() {
    let memory: GuestMemoryMmap =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
    let tables = Tables::build(&bare_platform()).unwrap();
    let error = tables.write(&memory).unwrap_err();
    assert!(error.to_string().contains("0xe0000"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_processor_is_in_madt_and_dsdt_once_in_the_entry_its_id_needs(
        ids in prop::collection::btree_set(
            prop_oneof![0u32..300, 0u32..0x8000, 0u32..u32::MAX], 1..400),
        order in any::<prop::sample::Index>(),
    ) {
        let mut ids: Vec<u32> = ids.into_iter().collect();
        let first = order.index(ids.len());
        ids.rotate_left(first);
        let (_, tables) = boot(&full_platform(ids.clone()));
        let expected: Vec<_> =
            ids.iter().map(|&id| (if id < 255 { 0 } else { 9 }, id, id)).collect();
        prop_assert_eq!(processors(&tables["APIC"]), expected);

        let dsdt = &tables["DSDT"];
        let found = dsdt.windows(8).filter(|window| window == b"ACPI0007").count();
        prop_assert_eq!(found, ids.len());
        for id in ids {
            let mut uid = b"\x08_UID".to_vec();
            id.to_aml_bytes(&mut uid);
            prop_assert!(contains(dsdt, &uid), "{:#x}", id);
        }
    }
}
