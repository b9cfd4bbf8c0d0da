//! APIC ids of odd topologies.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[test]
fn powers_of_two_leave_no_gaps() {
    let ids: Vec<_> = Topology::new(2, 4, 2).apic_ids().collect();
    assert_eq!(ids, (0..16).collect::<Vec<_>>());
}

#[test]
fn three_cores_leave_the_fourth_id_of_each_socket_unused() {
    let ids: Vec<_> = Topology::new(2, 3, 1).apic_ids().collect();
    assert_eq!(ids, [0, 1, 2, 4, 5, 6]);
}

#[test]
fn one_vcpu_has_id_zero_and_no_bits() {
    let one = Topology::new(1, 1, 1);
    assert_eq!((one.apic_id(0), one.thread_bits(), one.socket_shift()), (0, 0, 0));
}

#[test]
fn ids_pass_254_where_the_gaps_push_them_there() {
    // 130 cores need eight bits, so the second socket starts at 256.
    assert_eq!(Topology::new(2, 130, 1).apic_ids().max(), Some(256 + 129));
}

proptest! {
    #[test]
    fn ids_are_unique_increasing_and_decode_to_their_place(
        sockets in 1u32..9, cores in 1u32..40, threads in 1u32..9,
    ) {
        let topology = Topology::new(sockets, cores, threads);
        let ids: Vec<_> = topology.apic_ids().collect();
        prop_assert_eq!(ids.len(), (sockets * cores * threads) as usize);
        prop_assert!(ids.is_sorted());
        prop_assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
        for (index, &id) in (0..).zip(&ids) {
            prop_assert_eq!(topology.socket_of(id), index / (cores * threads));
            prop_assert_eq!(topology.core_of(id), index / threads % cores);
            prop_assert_eq!(id & ((1 << topology.thread_bits()) - 1), index % threads);
        }
    }
}
