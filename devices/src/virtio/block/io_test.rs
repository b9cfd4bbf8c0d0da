//! Data on raw disks: nothing lost, nothing mixed up, host errors told.
#![allow(clippy::cast_possible_truncation)] // Sizes chosen by the test, and bytes of a pattern.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

use super::backend::{Raw, RawOptions};
use super::test_disk::*;
use super::*;
use crate::virtio::test_driver::{Driver, Part, Posted, survives_pause_and_restore};

const MIB: u64 = 1 << 20;

/// A temporary file on a real file system.
fn temporary(len: u64) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(len).unwrap();
    file
}

fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 512 * 7 + at + seed * 13) as u8).collect()
}

#[test]
fn what_is_written_is_read_back_and_is_in_the_file() {
    for file in [memfd(4 * MIB), temporary(4 * MIB)] {
        for (seed, options) in BOTH.into_iter().enumerate() {
            let mut driver = driver(&raw(&file, options));
            let queue = &mut driver.queues[0];
            let data = pattern(seed, 300 * 512);
            write(queue, 5, &data);
            assert_eq!(ask(queue, &[header(FLUSH, 0), Part::In(1)]).0, 0);
            assert_eq!(read(queue, 5, data.len()), data);
            let mut bytes = vec![0; data.len()];
            file.read_exact_at(&mut bytes, 5 * 512).unwrap();
            assert_eq!(bytes, data);
            // In pieces of all sizes, header and status split over buffers.
            let Part::Out(head) = header(OUT, 9) else { unreachable!() };
            let parts = [
                Part::Out(head[..3].to_vec()),
                Part::Out([&head[3..], &data[..100]].concat()),
                Part::Out(data[100..1024].to_vec()),
                Part::In(1),
            ];
            assert_eq!(ask(queue, &parts).0, 0);
            let (status, got) =
                ask(queue, &[header(IN, 9), Part::In(1), Part::In(1000), Part::In(24)]);
            assert_eq!((status, got.len()), (0, 1024));
            assert_eq!(got, data[..1024]);
        }
    }
}

#[test]
fn ranges_are_discarded_and_zeroed_as_far_as_the_host_can() {
    // The first kind of file has no ZERO_RANGE: zeros are written.
    for file in [memfd(8 * MIB), temporary(8 * MIB)] {
        for options in BOTH {
            let mut driver = driver(&raw(&file, options));
            let queue = &mut driver.queues[0];
            let all = |byte: u8| vec![byte; 3 * MIB as usize];
            for (kind, flags) in [(DISCARD, 0), (WRITE_ZEROES, 1), (WRITE_ZEROES, 0)] {
                write(queue, 0, &all(0xaa));
                file.sync_all().unwrap();
                let before = file.metadata().unwrap().blocks();
                let sectors = 2 * MIB as u32 / 512;
                let status = ranges(queue, kind, &[segment(1, sectors, flags)]);
                assert_eq!(status, 0);
                let got = read(queue, 0, 3 * MIB as usize);
                let end = 512 + 2 * MIB as usize;
                assert!(got[..512].iter().chain(&got[end..]).all(|&byte| byte == 0xaa));
                assert!(got[512..end].iter().all(|&byte| byte == 0));
                let freed = file.metadata().unwrap().blocks() < before;
                assert!(freed || flags == 0 && kind == WRITE_ZEROES, "no space came back");
            }
            write(queue, 0, &all(0xbb));
            let both = [segment(0, 8, 0), segment(16, 8, 0)];
            assert_eq!(ranges(queue, DISCARD, &both), 0);
            let got = read(queue, 0, 16 * 512);
            assert!(got[..4096].iter().all(|&byte| byte == 0));
            assert!(got[4096..].iter().all(|&byte| byte == 0xbb));
        }
    }
}

#[test]
fn errors_of_the_host_become_errors_of_the_request() {
    let file = temporary(MIB);
    let read_only = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)));
    for options in BOTH {
        file.set_len(MIB).unwrap();
        let mut driver = driver(&raw(&file, options));
        let queue = &mut driver.queues[0];
        // Truncated under us, at a point inside the request.
        file.set_len(MIB / 2 + 100).unwrap();
        let parts = [header(IN, MIB / 1024 - 1), Part::In(1024), Part::In(1)];
        assert_eq!(ask(queue, &parts).0, 1);
        assert_eq!(ask(queue, &[header(IN, MIB / 512 - 1), Part::In(512), Part::In(1)]).0, 1);
        assert_eq!(read(queue, 0, 512).len(), 512);
        // Opened for reading only, which the device was not told.
        let mut driver = super::test_disk::driver(&raw(read_only.as_ref().unwrap(), options));
        let queue = &mut driver.queues[0];
        assert_eq!(ask(queue, &[header(OUT, 0), Part::Out(vec![1; 512]), Part::In(1)]).0, 1);
        assert_eq!(ranges(queue, WRITE_ZEROES, &[segment(0, 1, 1)]), 1);
        assert_eq!(read(queue, 0, 512).len(), 512);
    }
}

/// Runs a host command; false, with the reason printed, where that is not possible.
fn host(command: &str) -> bool {
    let output = Command::new("sh").args(["-c", command]).output();
    let done = output.as_ref().is_ok_and(|output| output.status.success());
    if !done {
        println!("skipped: `{command}` does not work here: {output:?}");
    }
    done
}

#[test]
fn a_full_file_system_fails_the_write_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    if !host(&format!("mount -t tmpfs -o size=256k carve-test {path}")) {
        return;
    }
    let file =
        OpenOptions::new().read(true).write(true).create_new(true).open(folder.path().join("disk"));
    let file = file.unwrap();
    // It is there as long as the file is open.
    assert!(host(&format!("umount --lazy {path}")));
    file.set_len(4 * MIB).unwrap();
    for options in BOTH {
        let mut driver = driver(&raw(&file, options));
        let queue = &mut driver.queues[0];
        write(queue, 0, &[1; 4096]);
        let parts = [header(OUT, 0), Part::Out(vec![2; MIB as usize]), Part::In(1)];
        assert_eq!(ask(queue, &parts).0, 1, "there is no space");
        assert_eq!(ranges(queue, DISCARD, &[segment(0, 2048, 0)]), 0);
        write(queue, 0, &[3; 4096]);
        assert_eq!(read(queue, 0, 4096), [3; 4096]);
    }
}

fn open_direct(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path)
}

#[test]
fn direct_io_takes_buffers_of_any_alignment() {
    let path = tempfile::NamedTempFile::new().unwrap();
    path.as_file().set_len(4 * MIB).unwrap();
    let Ok(file) = open_direct(path.path()) else {
        println!("skipped: no direct I/O on this file system");
        return;
    };
    for synchronous in [false, true] {
        let options = RawOptions { direct: true, synchronous };
        let storage = Raw::new(file.try_clone().unwrap(), options).unwrap();
        assert!([512, 4096].contains(&storage.alignment()));
        let align = storage.alignment() as usize;
        let storage: Arc<dyn Storage> = Arc::new(storage);
        let mut driver = driver(&storage);
        let queue = &mut driver.queues[0];
        let data = pattern(synchronous.into(), 80 * 4096);
        // Buffers of this driver are aligned to 16 bytes only, unless it takes care.
        queue.allocate(16);
        write(queue, 8, &data);
        assert_eq!(read(queue, 8, data.len()), data);
        let misfit = queue.allocate(1) as usize % align;
        queue.allocate(align - misfit - 16);
        assert_eq!(read(queue, 8, 4096), data[..4096]);
    }
}

#[test]
fn block_devices_are_read_written_discarded_and_zeroed() {
    let path = tempfile::NamedTempFile::new().unwrap();
    path.as_file().set_len(8 * MIB).unwrap();
    let output = Command::new("losetup").args(["--find", "--show"]).arg(path.path()).output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else {
        println!("skipped: no loop devices here");
        return;
    };
    let device = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    let file = OpenOptions::new().read(true).write(true).open(&device).unwrap();
    for options in BOTH {
        let mut driver = driver(&raw(&file, options));
        let queue = &mut driver.queues[0];
        let data = pattern(1, MIB as usize);
        for (kind, flags) in [(DISCARD, 0), (WRITE_ZEROES, 1), (WRITE_ZEROES, 0)] {
            write(queue, 2048, &data);
            assert_eq!(read(queue, 2048, data.len()), data);
            assert_eq!(ranges(queue, kind, &[segment(2048, 2048, flags)]), 0);
            assert_eq!(ask(queue, &[header(FLUSH, 0), Part::In(1)]).0, 0);
            let zero = read(queue, 2048, data.len()).iter().all(|&byte| byte == 0);
            assert!(zero || kind == DISCARD);
        }
        assert_eq!(ask(queue, &[header(IN, 16384), Part::In(512), Part::In(1)]).0, 1);
        assert!(driver.device.handle().grow(16 * MIB).is_err());
    }
    drop(file);
    assert!(host(&format!("losetup --detach {device}")));
}

#[test]
fn queues_work_side_by_side() {
    let file = temporary(16 * MIB);
    for options in BOTH {
        let properties = Properties { queues: 4, ..Properties::default() };
        let mut driver = Driver::new(block(&raw(&file, options), properties), u64::MAX);
        std::thread::scope(|scope| {
            for (index, queue) in driver.queues.iter_mut().enumerate() {
                scope.spawn(move || {
                    let base = index as u64 * 4 * MIB / 512;
                    for round in 0..40usize {
                        let data = pattern(index * 100 + round, 16 * 512);
                        let sector = base + round as u64 * 100 % 4000;
                        write(queue, sector, &data);
                        assert_eq!(read(queue, sector, data.len()), data);
                    }
                });
            }
        });
    }
}

survives_pause_and_restore!(
    block(&raw(&memfd(MIB), BOTH[0]), Properties::default()),
    0,
    [header(OUT, 8), Part::Out(vec![1; 4096]), Part::In(1)]
);

#[test]
fn requests_survive_pause_and_restore() {
    let file = temporary(4 * MIB);
    for options in BOTH {
        let storage = raw(&file, options);
        let mut driver = driver(&storage);
        for round in 0..20u8 {
            let queue = &mut driver.queues[0];
            let mut posted: Vec<Posted> = (0..32u64)
                .map(|at| {
                    let data = vec![round ^ at as u8; 4096];
                    queue.post(&[header(OUT, at * 8), Part::Out(data), Part::In(1)])
                })
                .collect();
            if round % 2 == 0 {
                queue.kick();
            }
            if round % 3 == 0 {
                driver.save_and_restore(block(&storage, Properties::default()));
            } else {
                driver.pause_and_resume();
            }
            let queue = &mut driver.queues[0];
            while !posted.is_empty() {
                let (done, bytes) = queue.wait_used();
                assert_eq!(bytes, [0]);
                let at = posted.iter().position(|&other| other == done);
                posted.remove(at.expect("answered twice"));
            }
            assert!(queue.poll_used().is_none());
            let got = read(queue, 0, 32 * 4096);
            assert!(got.chunks(4096).zip(0u8..).all(|(chunk, at)| chunk == [round ^ at; 4096]));
        }
    }
}

#[test]
fn a_queue_whose_requests_come_one_upon_the_other_can_be_stopped_at_any_time() {
    let file = temporary(MIB);
    for options in BOTH {
        let storage = raw(&file, options);
        let mut driver = driver(&storage);
        for round in 0..40 {
            for number in 0..100u8 {
                let queue = &mut driver.queues[0];
                let data = vec![number ^ round; 4096];
                let request = [header(OUT, u64::from(number) * 8), Part::Out(data), Part::In(1)];
                assert_eq!(queue.request(&request), [0]);
            }
            // One is left for the next worker to find.
            let last = driver.queues[0].post(&[header(IN, 792), Part::In(4096), Part::In(1)]);
            driver.pause_and_resume();
            let (done, bytes) = driver.queues[0].wait_used();
            assert!(done == last && bytes[..4096] == [99 ^ round; 4096]);
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Write { sector: u64, sectors: usize, byte: u8 },
    Read { sector: u64, sectors: usize },
    Zero { sector: u64, sectors: u32, unmap: bool },
    Flush,
    Pause,
}

/// Sectors of the disks that random steps are made on.
const SECTORS: u64 = 512;

fn step() -> impl Strategy<Value = Step> {
    let place = (0..SECTORS + 8, 1usize..64);
    prop_oneof![
        4 => (place.clone(), 1u8..).prop_map(|((sector, sectors), byte)| Step::Write { sector, sectors, byte }),
        4 => place.clone().prop_map(|(sector, sectors)| Step::Read { sector, sectors }),
        2 => (place, any::<bool>()).prop_map(|((sector, sectors), unmap)| Step::Zero { sector, sectors: sectors as u32, unmap }),
        1 => Just(Step::Flush),
        1 => Just(Step::Pause),
    ]
}

/// Random steps, all that do not overlap at once, compared with a model.
pub(super) fn check_against_model(storage: &Arc<dyn Storage>, steps: &[Step]) {
    let mut model = vec![0u8; SECTORS as usize * 512];
    let mut driver = driver(storage);
    for step in steps {
        let queue = &mut driver.queues[0];
        let span = |sector: u64, sectors: usize| {
            let start = sector as usize * 512;
            (start + sectors * 512 <= model.len()).then_some(start..start + sectors * 512)
        };
        match *step {
            Step::Write { sector, sectors, byte } => {
                let data: Vec<u8> = pattern(byte.into(), sectors * 512);
                let parts = [header(OUT, sector), Part::Out(data.clone()), Part::In(1)];
                let status = ask(queue, &parts).0;
                let span = span(sector, sectors);
                assert_eq!(status, u8::from(span.is_none()));
                if let Some(span) = span {
                    model[span].copy_from_slice(&data);
                }
            }
            Step::Read { sector, sectors } => {
                let parts = [header(IN, sector), Part::In(sectors * 512), Part::In(1)];
                let (status, data) = ask(queue, &parts);
                let span = span(sector, sectors);
                assert_eq!(status, u8::from(span.is_none()));
                if let Some(span) = span {
                    assert!(data == model[span], "{step:?} differs");
                }
            }
            Step::Zero { sector, sectors, unmap } => {
                let range = segment(sector, sectors, unmap.into());
                let status = ranges(queue, WRITE_ZEROES, &[range]);
                let span = span(sector, sectors as usize);
                assert_eq!(status, u8::from(span.is_none()));
                if let Some(span) = span {
                    model[span].fill(0);
                }
            }
            Step::Flush => assert_eq!(ask(queue, &[header(FLUSH, 0), Part::In(1)]).0, 0),
            Step::Pause => driver.pause_and_resume(),
        }
    }
    assert!(read(&mut driver.queues[0], 0, model.len()) == model);
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(step(), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn random_requests_do_what_a_model_does(steps in steps(), synchronous: bool) {
        let options = RawOptions { direct: false, synchronous };
        check_against_model(&raw(&memfd(SECTORS * 512), options), &steps);
        check_against_model(&raw(&temporary(SECTORS * 512), options), &steps);
    }
}
