//! A disk's worker allocates nothing for requests once it has served some of their kind.
#![allow(unsafe_code)] // An allocator that counts.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use devices::virtio::block::backend::{Raw, RawOptions};
use devices::virtio::block::{Block, Properties};
use devices::virtio::test_driver::{Driver, Part};

/// Allocations of all threads but that of the test, whose driver may allocate.
static COUNT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static UNCOUNTED: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

// SAFETY: everything is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !UNCOUNTED.try_with(Cell::get).unwrap_or(true) {
            COUNT.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn header(kind: u32, sector: u64) -> Part {
    Part::Out([&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat())
}

/// A flush, a read, a write, a discard and zeroing.
fn requests(sector: u64) -> [Vec<Part>; 5] {
    let range = [&sector.to_le_bytes()[..], &8u32.to_le_bytes(), &[0; 4]].concat();
    [
        vec![header(4, 0), Part::In(1)],
        vec![header(0, sector), Part::In(4096), Part::In(1)],
        vec![header(1, sector), Part::Out(vec![1; 2048]), Part::Out(vec![2; 2048]), Part::In(1)],
        vec![header(11, 0), Part::Out(range.clone()), Part::In(1)],
        vec![header(13, 0), Part::Out(range), Part::In(1)],
    ]
}

#[test]
fn a_disk_in_use_allocates_nothing() {
    UNCOUNTED.set(true);
    for synchronous in [false, true] {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let storage = Raw::new(file, RawOptions { direct: false, synchronous }).unwrap();
        let device = Block::new(Arc::new(storage), Properties::default()).unwrap();
        let mut driver = Driver::new(device, u64::MAX);
        let queue = &mut driver.queues[0];
        // Every slot has met every kind after some time, whichever takes which.
        for round in 0..300 {
            if round == 200 {
                COUNT.store(0, Ordering::Relaxed);
            }
            for number in 0..8 {
                // Flushes take long, and are like other requests.
                let few = requests(number * 8).into_iter().skip(usize::from(number > 0));
                few.for_each(|parts| {
                    queue.post(&parts);
                });
                queue.kick_if_wanted();
            }
            for _ in 0..33 {
                assert_eq!(queue.wait_used().1.pop(), Some(0));
            }
        }
        assert_eq!(COUNT.load(Ordering::Relaxed), 0, "synchronous: {synchronous}");
    }
}
