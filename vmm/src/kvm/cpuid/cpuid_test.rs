//! CPUID templates for an AMD-like and an Intel-like host.

use kvm_bindings::kvm_cpuid_entry2;
use proptest::prelude::*;

use super::*;

fn leaf(function: u32, index: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
}

/// A host of 64 threads that has everything switched on.
fn host(amd: bool) -> Leaves {
    let vendor = if amd { *b"Auth" } else { *b"Genu" };
    Leaves::new(&[
        leaf(0, 0, [0x7, u32::from_le_bytes(vendor), 0, 0]),
        leaf(1, 0, [0, 0x4040_0800, u32::MAX, u32::MAX]),
        leaf(4, 0, [0xfc00_4121, 0, 0, 0]),
        leaf(4, 3, [0xfc0f_c163, 0, 0, 0]),
        leaf(7, 0, [0, u32::MAX, 0, 0]),
        leaf(0xa, 0, [0x0730_0404, 0, 0, 0]),
        leaf(0x1f, 0, [1, 2, 0x100, 0x40]),
        leaf(0x4000_0001, 0, [u32::MAX, 0, 0, 0]),
        leaf(0x8000_0001, 0, [0, 0, u32::MAX, 0]),
        leaf(0x8000_0008, 0, [0x3030, 0, 0x703f, 0]),
        leaf(0x8000_000a, 0, [1, 8, 0, 0]),
        leaf(0x8000_001d, 3, [0x0003_c163, 0, 0, 0]),
        leaf(0x8000_001e, 0, [0x40, 0x120, 0x7, 0]),
    ])
}

fn vcpu(amd: bool, topology: Topology, apic_id: u32) -> Vec<kvm_cpuid_entry2> {
    let template = Template::from_leaves(host(amd), topology, true);
    template.for_vcpu(apic_id).unwrap().as_slice().to_vec()
}

fn find(leaves: &[kvm_cpuid_entry2], function: u32, index: u32) -> Option<kvm_cpuid_entry2> {
    leaves.iter().find(|e| e.function == function && e.index == index).copied()
}

fn get(leaves: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
    find(leaves, function, index).unwrap()
}

#[test]
fn nested_virtualization_and_performance_counters_are_hidden() {
    let leaves = vcpu(true, Topology::new(1, 1, 1), 0);
    assert_eq!(get(&leaves, 1, 0).ecx & 1 << 5, 0, "VMX");
    assert_eq!(get(&leaves, 0x8000_0001, 0).ecx & 1 << 2, 0, "SVM");
    assert!(find(&leaves, 0xa, 0).is_none());
    assert!(find(&leaves, 0x8000_000a, 0).is_none());
}

#[test]
fn physical_addresses_are_as_wide_as_kvm_maps_them() {
    let bits = |eax| {
        let leaves = Leaves::new(&[leaf(0x8000_0008, 0, [eax, 0, 0, 0])]);
        Template::from_leaves(leaves, Topology::new(1, 1, 1), true).physical_bits()
    };
    assert_eq!([0x3034, 0x30_3034, 0x34_3030, 0].map(bits), [52, 48, 48, 36]);
}

#[test]
fn the_tsc_deadline_timer_follows_kvm() {
    for has in [false, true] {
        let template = Template::from_leaves(host(false), Topology::new(1, 1, 1), has);
        let leaves = template.for_vcpu(0).unwrap();
        assert_eq!(get(leaves.as_slice(), 1, 0).ecx & 1 << 24 != 0, has);
    }
}

#[test]
fn paravirtual_features_without_support_are_masked_and_extended_destinations_offered() {
    let features = get(&vcpu(true, Topology::new(1, 1, 1), 0), 0x4000_0001, 0).eax;
    assert_eq!(features & (1 << 2 | 1 << 16 | 1 << 17 | 1 << 30), 0);
    assert_ne!(features & 1 << 15, 0);
    assert_ne!(features & 1, 0);
}

#[test]
fn one_vcpu_is_one_thread_alone() {
    let leaves = vcpu(true, Topology::new(1, 1, 1), 0);
    assert_eq!(get(&leaves, 1, 0).edx & 1 << 28, 0);
    assert_eq!(get(&leaves, 1, 0).ebx >> 16 & 0xff, 1);
    assert_eq!(get(&leaves, 0x8000_0008, 0).ecx, 0);
}

#[test]
fn the_host_s_module_and_die_levels_do_not_show() {
    assert!(find(&vcpu(false, Topology::new(1, 4, 2), 3), 0x1f, 0).is_none());
}

#[test]
fn leaf_b_is_reachable_on_a_host_that_ends_before_it() {
    assert!(get(&vcpu(true, Topology::new(1, 2, 1), 0), 0, 0).eax >= 0xb);
}

#[test]
fn an_amd_cpu_without_topology_extensions_shows_threads_where_there_are_some() {
    let template = |threads| {
        let mut leaves = host(true);
        leaves.remove(0x8000_001e);
        leaves.get_mut(0x8000_0001, 0).unwrap().ecx &= !(1 << 22);
        let template = Template::from_leaves(leaves, Topology::new(1, 2, threads), true);
        template.for_vcpu(3 % (2 * threads)).unwrap().as_slice().to_vec()
    };
    let two = template(2);
    assert_ne!(get(&two, 0x8000_0001, 0).ecx & 1 << 22, 0);
    assert_eq!(get(&two, 0x8000_001e, 0).eax, 3);
    assert_eq!(get(&two, 0x8000_001e, 0).ebx, 1 << 8 | 1);
    let one = template(1);
    assert_eq!(get(&one, 0x8000_0001, 0).ecx & 1 << 22, 0);
    assert!(find(&one, 0x8000_001e, 0).is_none());
}

proptest! {
    #[test]
    fn every_leaf_agrees_on_the_place_of_a_vcpu(
        sockets in 1u32..5, cores in 1u32..70, threads in 1u32..5, pick in any::<u32>(), amd: bool,
    ) {
        let topology = Topology::new(sockets, cores, threads);
        let id = topology.apic_id(pick % topology.vcpus());
        let leaves = vcpu(amd, topology, id);
        prop_assert_eq!(get(&leaves, 1, 0).ebx >> 24, id & 0xff);
        for index in 0..3 {
            prop_assert_eq!(get(&leaves, 0xb, index).edx, id);
        }
        let (thread, core) = (get(&leaves, 0xb, 0), get(&leaves, 0xb, 1));
        prop_assert_eq!(thread.ebx, threads);
        prop_assert_eq!(core.ebx, cores * threads);
        prop_assert_eq!(id >> core.eax, topology.socket_of(id));
        prop_assert_eq!(thread.ecx >> 8, 1);
        prop_assert_eq!(core.ecx >> 8, 2);
        prop_assert_eq!(get(&leaves, 0x8000_001e, 0).eax, id);
        // Caches: the sharing field stands for as many id bits as the level it belongs to.
        let sharing = |e: kvm_cpuid_entry2| 32 - (e.eax >> 14 & 0xfff).leading_zeros();
        prop_assert_eq!(sharing(get(&leaves, 4, 0)), topology.thread_bits());
        prop_assert_eq!(sharing(get(&leaves, 4, 3)), topology.socket_shift());
        prop_assert_eq!(sharing(get(&leaves, 0x8000_001d, 3)), topology.socket_shift());
        if amd {
            prop_assert_eq!(get(&leaves, 0x8000_0008, 0).ecx >> 12 & 0xf, topology.socket_shift());
        }
    }
}
