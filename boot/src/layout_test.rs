use proptest::prelude::*;

use super::*;

/// Sizes of every magnitude, with emphasis on the edges of the map.
fn sizes() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0..0x20_0000u64,
        MMIO_HOLE.start - 0x10_0000..MMIO_HOLE.end + 0x10_0000,
        (0u32..46).prop_map(|bits| 1u64 << bits),
    ]
}

fn disjoint_and_ascending(ranges: &[Range<u64>]) -> bool {
    ranges.iter().all(|r| r.start < r.end) && ranges.windows(2).all(|w| w[0].end <= w[1].start)
}

proptest! {
    #[test]
    fn regions_hold_every_page_asked_for_and_avoid_the_hole(size in sizes()) {
        let layout = RamLayout::new(size);
        let regions: Vec<_> = layout.regions().collect();
        prop_assert!(disjoint_and_ascending(&regions));
        prop_assert_eq!(regions.iter().map(|r| r.end - r.start).sum::<u64>(), layout.size());
        prop_assert!(layout.size() <= size);
        if size < 1 << 62 {
            prop_assert!(size - layout.size() < PAGE_SIZE);
        }
        for region in regions {
            prop_assert!(region.end <= MMIO_HOLE.start || region.start >= MMIO_HOLE.end);
            prop_assert_eq!(region.start % PAGE_SIZE, 0);
            prop_assert_eq!(region.end % PAGE_SIZE, 0);
        }
    }

    #[test]
    fn memory_map_is_sorted_and_its_ram_is_backed(size in sizes()) {
        let layout = RamLayout::new(size);
        let map = layout.e820();
        let ranges: Vec<_> = map.iter().map(|entry| entry.range.clone()).collect();
        prop_assert!(disjoint_and_ascending(&ranges));
        for entry in map.iter().filter(|entry| entry.kind != E820Type::Reserved) {
            let backed = |r: Range<u64>| r.start <= entry.range.start && entry.range.end <= r.end;
            prop_assert!(layout.regions().any(backed));
        }
        for device in [MMIO32_LOW, MMIO32_HIGH, IO_APIC..LOCAL_APIC + PAGE_SIZE] {
            let free = |r: &Range<u64>| r.end <= device.start || r.start >= device.end;
            prop_assert!(ranges.iter().all(free));
        }
    }

    #[test]
    fn device_space_lies_above_ram_and_within_the_physical_address_width(
        size in sizes(), bits in 32u8..=64,
    ) {
        let layout = RamLayout::new(size);
        let space = layout.device_space(bits);
        prop_assert!(space.start <= space.end);
        if !space.is_empty() {
            prop_assert!(space.start >= layout.end() && space.start >= MMIO_HOLE.end);
            prop_assert!(u128::from(space.end) <= 1u128 << bits);
        }
    }
}

#[test]
fn boot_structures_do_not_overlap() {
    let structures = [
        GDT..GDT + 0x100,
        PVH_START_INFO..PVH_MODULES,
        PVH_MODULES..PVH_MEMORY_MAP,
        PVH_MEMORY_MAP..ZERO_PAGE,
        ZERO_PAGE..SETUP_DATA,
        SETUP_DATA..PAGE_TABLES,
        PAGE_TABLES..PAGE_TABLES + 6 * PAGE_SIZE,
        COMMAND_LINE..COMMAND_LINE + COMMAND_LINE_ROOM,
        LOW_RAM_END..0xA_0000,
        ACPI_TABLES,
        RESET_PAGE,
        HIGH_RAM_START..MMIO_HOLE.start,
        MMIO32_LOW,
        PCI_ECAM,
        MMIO32_HIGH,
        IO_APIC..IO_APIC + PAGE_SIZE,
        LOCAL_APIC..LOCAL_APIC + PAGE_SIZE,
        KVM_IDENTITY_MAP..KVM_TSS,
        KVM_TSS..KVM_RESERVED_END,
        RAM_ABOVE_4G..u64::MAX,
    ];
    assert!(disjoint_and_ascending(&structures));
}

#[test]
fn five_gib_cross_the_hole() {
    let layout = RamLayout::new(5 << 30);
    assert_eq!(layout.below_hole(), 0..3 << 30);
    assert_eq!(layout.above_hole(), Some(4 << 30..6 << 30));
    assert_eq!(layout.device_space(39), 6 << 30..1 << 39);
}
