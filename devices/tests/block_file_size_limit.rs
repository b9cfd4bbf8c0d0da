//! A disk whose file may not be written as far as its size says, as on a host that is full: a test of its
//! own, because the limit is the whole process's.
#![allow(unsafe_code)] // Ignores a signal.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use devices::virtio::block::backend::{Raw, RawOptions};
use devices::virtio::block::{Block, Properties};
use devices::virtio::test_driver::{Driver, Part};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn header(kind: u32, sector: u64) -> Part {
    Part::Out([&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat())
}

#[test]
fn a_write_past_the_limit_of_file_sizes_fails_and_leaves_the_rest_as_it_was() {
    let files: Vec<_> = (0..2).map(|_| tempfile::tempfile().unwrap()).collect();
    for file in &files {
        file.set_len(1 << 20).unwrap();
    }
    // SAFETY: nothing else in this process cares.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let limit = Rlimit { current: Some(512 << 10), ..getrlimit(Resource::Fsize) };
    setrlimit(Resource::Fsize, limit).unwrap();
    for (file, synchronous) in files.into_iter().zip([false, true]) {
        let storage = Raw::new(file, RawOptions { direct: false, synchronous }).unwrap();
        let device = Block::new(Arc::new(storage), Properties::default()).unwrap();
        let mut driver = Driver::new(device, u64::MAX);
        let queue = &mut driver.queues[0];
        let mut write = |sector, byte| {
            let parts = [header(1, sector), Part::Out(vec![byte; 8192]), Part::In(1)];
            let posted = queue.post(&parts);
            queue.kick();
            assert_eq!(queue.wait_used().0, posted);
            queue.room(posted)[0]
        };
        assert_eq!(write(0, 1), 0);
        // 4 KiB of it fit.
        assert_eq!(write(1016, 2), 1);
        assert_eq!(write(1024, 3), 1);
        assert_eq!(write(1008, 4), 0);
        for (sector, byte) in [(0, 1), (1008, 4), (1032, 0)] {
            let bytes = queue.request(&[header(0, sector), Part::In(8192), Part::In(1)]);
            assert_eq!(bytes[..8192], [byte; 8192], "sector {sector}");
        }
        assert_eq!(queue.request(&[header(4, 0), Part::In(1)]), [0]);
    }
}
