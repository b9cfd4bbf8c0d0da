//! How many requests a second go through a virtqueue, for the lengths of chains that drivers use:
//! from making one available to seeing it used, without threads and notifications.
//!
//!     cargo bench -p devices --features test-utils --bench queue

use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use devices::memory::anonymous;
use devices::virtio::Queue;
use devices::virtio::test_driver::{DriverQueue, MEMORY, Part, Signals};

const SIZE: u16 = 256;
/// Requests at a time: as many as the longest chains leave room for.
const REQUESTS: u16 = 64;

/// A queue full of requests of `parts`, over and over: only pop, push and signal are timed.
fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("virtqueue");
    let one = [Part::In(4096)];
    let three = [Part::Out(vec![0; 16]), Part::In(4096), Part::In(1)];
    for (name, parts, indirect) in [
        ("1 descriptor", &one[..], false),
        ("3 descriptors", &three, false),
        ("1 descriptor, indirect", &one, true),
        ("3 descriptors, indirect", &three, true),
    ] {
        let memory = Arc::new(anonymous(&[(0, MEMORY)]));
        let mut driver = DriverQueue::new(&memory, 0, SIZE, true);
        let Ok(mut queue) = driver.device_side(Arc::<Signals>::default()) else { return };
        let mut chain = queue.chain();
        for _ in 0..REQUESTS {
            if indirect {
                driver.post_indirect(0, parts)
            } else {
                driver.post(parts)
            };
        }
        let state = queue.state();
        group.throughput(Throughput::Elements(REQUESTS.into()));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                // The same requests again: a queue that has seen none of them.
                let doorbell = Arc::clone(queue.doorbell());
                let signals = Arc::<Signals>::default();
                if let Ok(fresh) = Queue::new(0, &state, Arc::clone(&memory), doorbell, signals) {
                    queue = fresh;
                }
                while queue.pop(&mut chain) == Ok(true) {
                    queue.push(chain.head(), 1);
                }
                queue.signal();
            });
        });
    }
    group.finish();
}

criterion_group!(benches, requests);
criterion_main!(benches);
