//! Threads come and go.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::memory;
use crate::virtio::test_driver::{DriverQueue, MEMORY, Signals, wait};

/// Counts how often it is served, and finds its queue broken once told so.
struct Counting {
    queue: Queue,
    served: Arc<AtomicU32>,
    breaks_at: u32,
}

impl Handler for Counting {
    fn run(&mut self, stop: &EventFd) {
        serve_until(
            stop,
            self,
            |this| &this.queue,
            |this| {
                let count = this.served.fetch_add(1, Ordering::SeqCst) + 1;
                if count == this.breaks_at { Err(Broken::Request) } else { Ok(()) }
            },
        );
    }
}

fn start(breaks_at: u32) -> (Worker<Counting>, DriverQueue, Arc<AtomicU32>, Arc<Signals>) {
    let memory = Arc::new(memory::anonymous(&[(0, MEMORY)]));
    let driver = DriverQueue::new(&memory, 0, 16, false);
    let (signals, served) = (Arc::<Signals>::default(), Arc::<AtomicU32>::default());
    let queue = driver.device_side(signals.clone()).unwrap();
    let handler = Counting { queue, served: Arc::clone(&served), breaks_at };
    (Worker::start(Role::Rng, "counting".to_owned(), handler).unwrap(), driver, served, signals)
}

#[test]
fn a_queue_is_looked_at_once_unasked_and_then_when_the_doorbell_rings() {
    let (worker, driver, served, _) = start(u32::MAX);
    wait("the first look", || served.load(Ordering::SeqCst) == 1);
    driver.kick();
    wait("the second look", || served.load(Ordering::SeqCst) == 2);
    assert_eq!(worker.stop().unwrap().queue.index(), 0);
}

#[test]
fn a_broken_queue_is_reported_once_and_not_served_again() {
    let (worker, driver, served, signals) = start(1);
    signals.wait_for_reset_request();
    (0..100).for_each(|_| driver.kick());
    assert!(worker.stop().is_some());
    assert_eq!(served.load(Ordering::SeqCst), 1);
}

#[test]
fn a_worker_that_is_dropped_has_stopped() {
    let (worker, _driver, served, _) = start(u32::MAX);
    drop(worker);
    // Only the thread and this test held it.
    assert_eq!(Arc::strong_count(&served), 1);
}

#[test]
fn a_panic_is_survived_and_told_to_the_driver() {
    struct Panics(#[allow(dead_code)] Queue);
    impl Handler for Panics {
        fn run(&mut self, _: &EventFd) {
            panic!("expected by the test");
        }
    }
    let (worker, _driver, _, signals) = start(u32::MAX);
    let queue = worker.stop().unwrap().queue;
    let worker = Worker::start(Role::Rng, "panics".to_owned(), Panics(queue)).unwrap();
    signals.wait_for_reset_request();
    assert!(worker.stop().is_none());
}
