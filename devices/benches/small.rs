//! How many requests a second pass through the queues of the small devices (console, entropy, balloon), workers and
//! their notifications included; and that none of them allocates.
//!
//!     cargo bench -p devices --features test-utils --bench small
#![allow(unsafe_code)] // Counts allocations.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use devices::virtio::VirtioDevice;
use devices::virtio::balloon::{self, Balloon, Options};
use devices::virtio::console::{self, BackEnd, Console, Port};
use devices::virtio::rng::Rng;
use devices::virtio::test_driver::{Driver, Part};

/// Requests that a driver makes available at once.
const BATCH: u16 = 32;

/// Allocations of all threads but the driver's, which makes requests.
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static UNCOUNTED: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: the system's allocator, and a counter.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !UNCOUNTED.try_with(Cell::get).unwrap_or(true) {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Makes a batch of requests of `parts` available and waits until they are all used.
fn batch<D: VirtioDevice>(driver: &mut Driver<D>, queue: usize, parts: &[Part]) {
    let queue = &mut driver.queues[queue];
    let target = queue.used_index().wrapping_add(BATCH);
    (0..BATCH).for_each(|_| _ = queue.post(parts));
    queue.kick_if_wanted();
    while queue.used_index() != target {
        std::hint::spin_loop();
    }
    while queue.poll_used().is_some() {}
}

fn measure<D: VirtioDevice>(
    criterion: &mut Criterion,
    name: &str,
    device: D,
    queue: usize,
    parts: &[Part],
) {
    UNCOUNTED.set(true);
    let mut driver = Driver::new(device, u64::MAX);
    (0..16).for_each(|_| batch(&mut driver, queue, parts));
    let before = ALLOCATIONS.load(Ordering::SeqCst);
    (0..64).for_each(|_| batch(&mut driver, queue, parts));
    assert_eq!(ALLOCATIONS.load(Ordering::SeqCst), before, "allocations of {name}");
    let mut group = criterion.benchmark_group("small devices");
    group.throughput(Throughput::Elements(BATCH.into()));
    group.bench_function(name, |bencher| bencher.iter(|| batch(&mut driver, queue, parts)));
    group.finish();
}

fn port(input: Option<UnixStream>, output: Option<File>) -> Port {
    let back_end = BackEnd::Files { input: input.map(Into::into), output: output.map(Into::into) };
    Port { name: None, console: true, back_end }
}

fn devices(criterion: &mut Criterion) {
    measure(criterion, "64 bytes of entropy", Rng::default(), 0, &[Part::In(64)]);

    let output = File::options().write(true).open("/dev/null").unwrap();
    let handle = console::Handle::new().unwrap();
    let device = Console::new(vec![port(None, Some(output))], handle).unwrap();
    measure(criterion, "64 bytes of console output", device, 1, &[Part::Out(vec![b'.'; 64])]);

    let handle = balloon::Handle::new(0).unwrap();
    let options = Options { deflate_on_oom: true, reporting: true, statistics_interval: None };
    let device = Balloon::new(options, handle);
    let pages: Vec<u8> = (0x2000..0x2010_u32).flat_map(u32::to_le_bytes).collect();
    measure(criterion, "16 pages of the balloon", device, 0, &[Part::Out(pages)]);
}

criterion_group!(benches, devices);
criterion_main!(benches);
