//! The receive filter.

use super::*;

const OWN: MacAddress = [2, 0, 0, 0, 0, 1];
const OTHER: MacAddress = [2, 0, 0, 0, 0, 2];
const GROUP: MacAddress = [0x33, 0x33, 0, 0, 0, 1];

fn to(destination: MacAddress, vlan: Option<u16>) -> Vec<u8> {
    let mut frame = destination.to_vec();
    frame.extend([2, 0, 0, 0, 0, 9]);
    if let Some(id) = vlan {
        frame.extend([0x81, 0x00]);
        frame.extend((0xe000 | id).to_be_bytes());
    }
    frame.extend([0x08, 0x00, 0, 0]);
    frame
}

fn strict() -> Filter {
    Filter { promiscuous: false, ..Filter::new(OWN) }
}

#[test]
fn everything_passes_until_the_driver_says_otherwise() {
    assert!(Filter::new(OWN).wants(&to(OTHER, Some(7))));
    assert!(!strict().wants(&to(OTHER, None)));
}

#[test]
fn the_own_address_broadcasts_and_the_table_pass() {
    let mut filter = strict();
    assert!(filter.wants(&to(OWN, None)) && filter.wants(&to([0xff; 6], None)));
    assert!(!filter.wants(&to(GROUP, None)));
    filter.multicast.addresses.push(GROUP);
    filter.unicast.addresses.push(OTHER);
    assert!(filter.wants(&to(GROUP, None)) && filter.wants(&to(OTHER, None)));
    assert!(!filter.wants(&to([2, 2, 2, 2, 2, 2], None)));
}

#[test]
fn full_tables_and_all_multicast_pass_their_kind_only() {
    let unicast = Table { overflown: true, ..Table::default() };
    let filter = Filter { unicast, ..strict() };
    assert!(filter.wants(&to(OTHER, None)) && !filter.wants(&to(GROUP, None)));
    let filter = Filter { all_multicast: true, ..strict() };
    assert!(!filter.wants(&to(OTHER, None)) && filter.wants(&to(GROUP, None)));
}

#[test]
fn vlans_pass_one_by_one_and_frames_without_always() {
    let mut filter = strict();
    assert!(filter.wants(&to(OWN, Some(4095))), "VLANs are not filtered unless asked for");
    assert!(!filter.set_vlan(7, true));
    filter.filter_vlans();
    assert!(filter.set_vlan(7, true) && filter.set_vlan(4095, true));
    assert!(filter.wants(&to(OWN, Some(7))) && filter.wants(&to(OWN, Some(4095))));
    assert!(!filter.wants(&to(OWN, Some(8))) && filter.wants(&to(OWN, None)));
    assert!(filter.set_vlan(7, false) && !filter.set_vlan(4096, true));
    assert!(!filter.wants(&to(OWN, Some(7))));
    assert!(filter.is_valid());
}

#[test]
fn stumps_are_not_wanted() {
    for len in 0..6 {
        assert!(!strict().wants(&OWN[..len]));
    }
    assert!(strict().wants(&to(OWN, None)[..15]));
}
