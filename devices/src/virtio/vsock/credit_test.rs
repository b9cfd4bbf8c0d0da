use proptest::prelude::*;

use super::*;

fn says(buf_alloc: u32, fwd_cnt: u32) -> Header {
    Header { buf_alloc, fwd_cnt, ..Header::default() }
}

#[test]
fn room_is_what_the_guest_has_less_what_is_on_its_way() {
    let mut credit = Credit::new(1000);
    assert_eq!(credit.peer_free(), 0);
    credit.hear(&says(100, 0));
    credit.sent(60);
    assert_eq!(credit.peer_free(), 40);
    credit.hear(&says(100, 60));
    assert_eq!(credit.peer_free(), 100);
}

#[test]
fn counters_wrap() {
    let mut credit = Credit::new(1000);
    credit.advance(u32::MAX - 10);
    credit.hear(&says(100, u32::MAX - 10));
    credit.sent(50);
    assert_eq!(credit.peer_free(), 50);
    credit.hear(&says(100, 39));
    assert_eq!(credit.peer_free(), 100);
    credit.forwarded(499);
    assert!(!credit.owes_update());
    credit.forwarded(1);
    assert!(credit.owes_update());
    let mut header = Header::default();
    credit.tell(&mut header);
    assert_eq!((header.fwd_cnt, credit.owes_update()), (489, false));
}

#[test]
fn room_that_shrinks_below_what_is_on_its_way_is_none() {
    let mut credit = Credit::new(1000);
    credit.hear(&says(100, 0));
    credit.sent(60);
    credit.hear(&says(10, 0));
    assert_eq!(credit.peer_free(), 0);
}

proptest! {
    #[test]
    fn no_counters_allow_more_than_the_guest_has(alloc: u32, fwd: u32, sent: u32) {
        let mut credit = Credit::new(0);
        credit.hear(&says(alloc, fwd));
        credit.sent(sent);
        prop_assert!(credit.peer_free() <= alloc);
    }

    #[test]
    fn we_never_hold_more_than_we_promised(buffered in 0usize..300_000, len: u32) {
        let credit = Credit::new(262_144);
        prop_assert_eq!(credit.allows(buffered, len), buffered as u64 + u64::from(len) <= 262_144);
    }
}
