//! How many requests a second go through a disk's queue and its worker to a file in the host's page cache
//! and back, one at a time and 32 at a time.
//!
//!     cargo bench -p devices --features test-utils --bench block

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use devices::virtio::block::backend::{Raw, RawOptions, Storage};
use devices::virtio::block::{Block, Properties};
use devices::virtio::test_driver::{Driver, Part};

const SIZE: u64 = 64 << 20;
const BLOCK: usize = 4096;

/// A disk of [`SIZE`] bytes, all of them there.
fn storage(synchronous: bool) -> std::io::Result<Arc<dyn Storage>> {
    let file = tempfile::tempfile()?;
    for at in (0..SIZE).step_by(1 << 20) {
        file.write_all_at(&[1; 1 << 20], at)?;
    }
    Ok(Arc::new(Raw::new(file, RawOptions { direct: false, synchronous })?))
}

fn request(write: bool, block: u64) -> [Part; 3] {
    let sector = block % (SIZE / BLOCK as u64) * (BLOCK as u64 / 512);
    let kind = u32::from(write).to_le_bytes();
    let header = Part::Out([&kind[..], &[0; 4], &sector.to_le_bytes()].concat());
    let data = if write { Part::Out(vec![2; BLOCK]) } else { Part::In(BLOCK) };
    [header, data, Part::In(1)]
}

/// The requests are ready when the clock starts: only kicks, the worker and the wait are timed.
fn requests(criterion: &mut Criterion) {
    for (engine, synchronous) in [("io_uring", false), ("system calls", true)] {
        let mut group = criterion.benchmark_group(format!("block, {engine}"));
        for (name, write, depth) in [
            ("read 4K, 1", false, 1),
            ("read 4K, 32", false, 32),
            ("write 4K, 1", true, 1),
            ("write 4K, 32", true, 32),
        ] {
            let Ok(storage) = storage(synchronous) else { return };
            let Ok(device) = Block::new(storage, Properties::default()) else { return };
            let driver = std::cell::RefCell::new(Driver::new(device, u64::MAX));
            let mut block = 0;
            group.throughput(Throughput::Elements(depth));
            group.bench_function(name, |bencher| {
                let post = || {
                    for _ in 0..depth {
                        block += 7;
                        driver.borrow_mut().queues[0].post(&request(write, block));
                    }
                };
                let serve = |()| {
                    let queue = &mut driver.borrow_mut().queues[0];
                    queue.kick_if_wanted();
                    (0..depth).for_each(|_| drop(queue.wait_used()));
                };
                bencher.iter_batched(post, serve, BatchSize::PerIteration);
            });
        }
        group.finish();
    }
}

criterion_group!(benches, requests);
criterion_main!(benches);
