//! The entropy device from its driver's side.

use super::*;
use crate::virtio::test_driver::{Driver, Part, survives_pause_and_restore};

#[test]
fn buffers_are_filled_with_bytes_that_differ() {
    let mut driver = Driver::new(Rng::default(), u64::MAX);
    let first = driver.queues[0].request(&[Part::In(16), Part::In(48)]);
    let second = driver.queues[0].request(&[Part::In(64)]);
    assert_eq!((first.len(), second.len()), (64, 64));
    assert_ne!(first, second);
    assert!(driver.signals.queues() > 0);
}

#[test]
fn a_large_request_is_answered_in_part() {
    let mut driver = Driver::new(Rng::default(), u64::MAX);
    assert_eq!(driver.queues[0].request(&[Part::In(1 << 20)]).len(), 4096);
}

#[test]
fn a_request_without_room_breaks_the_queue() {
    let mut driver = Driver::new(Rng::default(), u64::MAX);
    driver.queues[0].post(&[Part::Out(vec![1])]);
    driver.queues[0].kick();
    driver.signals.wait_for_reset_request();
    assert_eq!(driver.device.quiesce().len(), 1);
}

survives_pause_and_restore!(Rng::default(), 0, [Part::In(32)]);

#[test]
fn more_requests_than_the_ring_holds_are_answered_without_another_kick() {
    let mut driver = Driver::new(Rng::default(), u64::MAX);
    for _ in 0..1000 {
        driver.queues[0].post(&[Part::In(1)]);
        driver.queues[0].kick();
        driver.queues[0].wait_used();
    }
    for _ in 0..64 {
        driver.queues[0].post(&[Part::In(1)]);
    }
    driver.queues[0].kick();
    (0..64).for_each(|_| drop(driver.queues[0].wait_used()));
}
