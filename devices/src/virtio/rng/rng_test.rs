//! The entropy device from its driver's side.

use super::*;
use crate::virtio::test_driver::{Driver, Part, survives_pause_and_restore, wait};
use crate::virtio::transport::feature;

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

#[test]
fn no_wake_up_is_lost_when_both_sides_suppress_all_they_may() {
    for features in [u64::MAX, !feature::EVENT_IDX] {
        let mut driver = Driver::new(Rng::default(), features);
        let (queue, signals) = (&mut driver.queues[0], &driver.signals);
        for round in 0..20_000 {
            let count = 1 + round % 5;
            for _ in 0..count {
                queue.post(&[Part::In(1)]);
                queue.kick_if_wanted();
            }
            for _ in 0..count {
                while queue.poll_used().is_none() {
                    let before = signals.queues();
                    queue.want_interrupt();
                    if queue.poll_used().is_some() {
                        break;
                    }
                    wait("an interrupt", || signals.queues() != before);
                }
                queue.set_avail_flags(1);
            }
        }
        assert!(signals.queues() < 60_000, "nothing was suppressed");
    }
}
