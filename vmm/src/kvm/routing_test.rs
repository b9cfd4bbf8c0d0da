//! The shape of routing entries.
#![allow(unsafe_code)]

use super::*;

fn msi(entry: &kvm_irq_routing_entry) -> kvm_irq_routing_msi {
    // SAFETY: `entry` is an MSI route, made by `entry()`.
    unsafe { entry.u.msi }
}

#[test]
fn destination_ids_below_256_stay_in_the_low_word() {
    let route = entry(5, Msi { address: 0xfee0_0000 | (0xab << 12), data: 0x31 });
    assert_eq!(route.gsi, 5);
    assert_eq!(msi(&route).address_lo, 0xfeea_b000);
    assert_eq!(msi(&route).address_hi, 0);
    assert_eq!(msi(&route).data, 0x31);
}

#[test]
fn extended_destination_ids_move_to_the_high_word() {
    // Destination 0x12ab: low byte in bits 19:12, next seven bits in bits 11:5.
    let address = 0xfee0_0000 | (0xab << 12) | (0x12 << 5);
    let route = entry(0, Msi { address, data: 0 });
    assert_eq!(msi(&route).address_lo, 0xfeea_b000);
    assert_eq!(msi(&route).address_hi, 0x1200);
}
