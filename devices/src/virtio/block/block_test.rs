//! The block device from its driver's side: what it shows, what it refuses, how it stops.
#![allow(clippy::cast_possible_truncation)] // Sizes chosen by the test, and bytes of a pattern.

use std::sync::mpsc;

use super::test_disk::*;
use super::*;
use crate::token_bucket::{Limits, Rate};
use crate::virtio::test_driver::{Driver, Part, wait};

const MIB: u64 = 1 << 20;

fn config_u32(device: &Block, at: u64) -> u32 {
    let mut bytes = [0; 4];
    device.read_config(at, &mut bytes);
    u32::from_le_bytes(bytes)
}

#[test]
fn the_configuration_space_says_what_the_disk_is_like() {
    let storage = raw(&memfd(MIB + 100), BOTH[1]);
    let properties =
        Properties { queues: 4, queue_size: 128, block_size: 4096, ..Properties::default() };
    let mut device = block(&storage, properties);
    assert_eq!(device.queue_sizes(), [128; 4]);
    assert_eq!(config_u32(&device, 0), 2048, "whole sectors");
    assert_eq!(config_u32(&device, 12), 126);
    assert_eq!(config_u32(&device, 20), 4096);
    assert_eq!(config_u32(&device, 32), 1 | 4 << 16, "write-back, four queues");
    assert_eq!(config_u32(&device, 44), 8, "discards of whole blocks");
    assert_eq!(config_u32(&device, 58), 0, "past the end");
    assert_ne!(device.features() & feature::MQ, 0);
    device.write_config(32, &[0]);
    device.write_config(0, &[9]);
    assert_eq!((config_u32(&device, 0), config_u32(&device, 32)), (2048, 4 << 16));
    device.reset();
    assert_eq!(config_u32(&device, 32), 1 | 4 << 16);
}

#[test]
fn properties_out_of_range_are_refused() {
    let storage = raw(&memfd(MIB), BOTH[1]);
    let ok = Properties::default;
    for bad in [
        Properties { queues: 0, ..ok() },
        Properties { queues: 17, ..ok() },
        Properties { queue_size: 100, ..ok() },
        Properties { queue_size: 2, ..ok() },
        Properties { block_size: 1024, ..ok() },
    ] {
        assert!(Block::new(Arc::clone(&storage), bad).is_err());
    }
}

#[test]
fn the_serial_number_is_told_in_twenty_bytes() {
    let storage = raw(&memfd(MIB), BOTH[1]);
    let properties =
        Properties { serial: "a serial of more than twenty bytes".into(), ..Properties::default() };
    let mut driver = Driver::new(block(&storage, properties), u64::MAX);
    let (status, id) = ask(&mut driver.queues[0], &[header(GET_ID, 0), Part::In(20), Part::In(1)]);
    assert_eq!((status, &id[..]), (0, &b"a serial of more tha"[..]));
}

#[test]
fn malformed_requests_get_an_error_and_nothing_else() {
    let file = memfd(MIB);
    for options in BOTH {
        let mut driver = driver(&raw(&file, options));
        let queue = &mut driver.queues[0];
        let (last, len) = (MIB / 512 - 1, MIB / 512);
        let data = |len: usize| Part::Out(vec![0xff; len]);
        let cases: Vec<(u8, Vec<Part>)> = vec![
            (1, vec![header(IN, len), Part::In(512)]),
            (1, vec![header(IN, last), Part::In(1024)]),
            (1, vec![header(IN, u64::MAX), Part::In(512)]),
            (1, vec![header(IN, u64::MAX / 512), Part::In(512)]),
            (1, vec![header(IN, 0), Part::In(511)]),
            (1, vec![header(IN, 0)]),
            (1, vec![header(OUT, len), data(512)]),
            (1, vec![header(OUT, last), data(1024)]),
            (1, vec![header(OUT, 0), data(100)]),
            (1, vec![header(OUT, 0)]),
            (1, vec![Part::Out(vec![0; 15])]),
            (1, vec![]),
            (1, vec![header(GET_ID, 0), Part::In(19)]),
            (2, vec![header(2, 0)]),
            (2, vec![header(u32::MAX, 0), data(512)]),
            (2, vec![header(14, 0)]),
            (1, vec![header(DISCARD, 0)]),
            (1, vec![header(DISCARD, 0), data(15)]),
            (1, vec![header(DISCARD, 0), Part::Out(segment(0, 1, 0).repeat(17))]),
            (1, vec![header(DISCARD, 0), Part::Out(segment(last, 2, 0))]),
            (1, vec![header(DISCARD, 0), Part::Out(segment(u64::MAX, u32::MAX, 0))]),
            (1, vec![header(DISCARD, 0), Part::Out(segment(0, 0, 0))]),
            (2, vec![header(DISCARD, 0), Part::Out(segment(0, 1, 1))]),
            (2, vec![header(WRITE_ZEROES, 0), Part::Out(segment(0, 1, 2))]),
            (1, vec![header(WRITE_ZEROES, 0), Part::Out(segment(0, u32::MAX, 0))]),
            (1, vec![header(WRITE_ZEROES, 0), Part::Out(segment(0, 1, 0).repeat(2))]),
        ];
        for (wanted, mut parts) in cases {
            parts.push(Part::In(1));
            assert_eq!(ask(queue, &parts).0, wanted, "{parts:?}");
        }
        assert!(
            read(queue, 0, MIB as usize / 2).iter().all(|&byte| byte == 0),
            "something was written"
        );
        assert!(!driver.signals.needs_reset());
    }
}

#[test]
fn a_request_without_room_for_its_status_breaks_the_queue() {
    let mut driver = driver(&raw(&memfd(MIB), BOTH[0]));
    driver.queues[0].post(&[header(FLUSH, 0)]);
    driver.queues[0].kick();
    driver.signals.wait_for_reset_request();
    assert_eq!(driver.device.quiesce().len(), 1);
}

#[test]
fn a_read_only_disk_takes_no_writes() {
    let file = memfd(MIB);
    let properties = Properties { read_only: true, ..Properties::default() };
    let device = block(&raw(&file, BOTH[0]), properties);
    assert_eq!(device.features() & (feature::DISCARD | feature::WRITE_ZEROES), 0);
    assert_ne!(device.features() & feature::RO, 0);
    let mut driver = Driver::new(device, u64::MAX);
    let queue = &mut driver.queues[0];
    assert_eq!(ask(queue, &[header(OUT, 0), Part::Out(vec![1; 512]), Part::In(1)]).0, 1);
    assert_eq!(ranges(queue, DISCARD, &[segment(0, 1, 0)]), 2);
    assert_eq!(ask(queue, &[header(FLUSH, 0), Part::In(1)]).0, 0);
    assert_eq!(read(queue, 0, 512), [0; 512]);
}

#[test]
fn requests_of_features_that_were_not_agreed_on_are_unknown() {
    let device = block(&raw(&memfd(MIB), BOTH[0]), Properties::default());
    let mut driver = Driver::new(device, feature::FLUSH);
    assert_eq!(ranges(&mut driver.queues[0], DISCARD, &[segment(0, 1, 0)]), 2);
    assert_eq!(ranges(&mut driver.queues[0], WRITE_ZEROES, &[segment(0, 1, 0)]), 2);
}

/// The operations that requests of each kind come to.
fn operations(features: u64, writeback: u8) -> Vec<String> {
    let (allow, control) = mpsc::channel();
    let slow = Slow { control: Mutex::new(Some(control)), ..Slow::default() };
    let log = Arc::clone(&slow.log);
    let storage: Arc<dyn Storage> = Arc::new(slow);
    let mut driver = Driver::new(block(&storage, Properties::default()), features);
    driver.device.write_config(32, &[writeback]);
    (0..100).for_each(|_| allow.send(()).unwrap());
    let queue = &mut driver.queues[0];
    read(queue, 0, 512);
    write(queue, 0, &[1; 512]);
    ranges(queue, DISCARD, &[segment(0, 1, 0), segment(8, 1, 0)]);
    let log = lock(&log);
    log.clone()
}

#[test]
fn without_flush_every_write_is_durable_when_it_is_answered() {
    let all = feature::DISCARD | feature::FLUSH | feature::CONFIG_WCE;
    let back = ["Read", "Write", "Discard", "Discard"];
    let through = ["Read", "Write", "Flush", "Discard", "Discard", "Flush"];
    assert_eq!(operations(all, 1), back);
    assert_eq!(operations(all, 0), through);
    assert_eq!(operations(feature::DISCARD | feature::FLUSH, 0), back, "no choice was agreed on");
    assert_eq!(operations(feature::DISCARD, 1), through);
}

#[test]
fn a_disk_grows_while_it_runs() {
    let file = memfd(MIB);
    for (options, size) in BOTH.into_iter().zip([2 * MIB, 3 * MIB]) {
        let mut driver = driver(&raw(&file, options));
        let handle = driver.device.handle();
        handle.grow(size).unwrap();
        assert_eq!(driver.signals.config(), 1);
        assert_eq!(u64::from(config_u32(&driver.device, 0)), size / 512);
        write(&mut driver.queues[0], size / 512 - 1, &[7; 512]);
        assert_eq!(file.metadata().unwrap().len(), size);
        assert!(handle.grow(size + 1).is_err());
        assert!(handle.grow(size - 512).is_err());
    }
}

#[test]
fn what_the_host_adds_to_a_disk_is_shown_when_asked_for() {
    let file = memfd(MIB);
    let properties = Properties { read_only: true, block_size: 4096, ..Properties::default() };
    let driver = Driver::new(block(&raw(&file, BOTH[0]), properties), u64::MAX);
    let handle = driver.device.handle();
    assert!(handle.grow(2 * MIB).is_err() && handle.grow(MIB + 512).is_err());
    assert_eq!(handle.follow_host().unwrap(), MIB);
    assert_eq!(driver.signals.config(), 0);
    file.set_len(2 * MIB + 1000).unwrap();
    assert_eq!(handle.follow_host().unwrap(), 2 * MIB);
    assert_eq!(u64::from(config_u32(&driver.device, 0)), 2 * MIB / 512);
    file.set_len(MIB).unwrap();
    assert_eq!(handle.follow_host().unwrap(), 2 * MIB);
    assert_eq!(driver.signals.config(), 1);
}

#[test]
fn a_saved_state_is_looked_at_before_it_is_believed() {
    let file = memfd(MIB);
    let storage = raw(&file, BOTH[1]);
    let fresh = || block(&storage, Properties::default());
    let state = fresh().save();
    assert!(fresh().restore(&state).is_ok());
    assert!(fresh().restore(&[]).is_err());
    assert!(fresh().restore(&[state.clone(), vec![0]].concat()).is_err());
    assert!(fresh().restore(&[0xff; 30]).is_err());
    let larger = block(&raw(&memfd(2 * MIB), BOTH[1]), Properties::default()).save();
    let error = fresh().restore(&larger).unwrap_err().to_string();
    assert!(error.contains("2097152") && error.contains("1048576"), "{error}");
    let read_only = Properties { read_only: true, ..Properties::default() };
    assert!(block(&storage, read_only).restore(&state).is_err());
}

#[test]
fn a_disk_that_grew_while_it_was_saved_is_announced() {
    let small = raw(&memfd(MIB), BOTH[0]);
    let mut driver = driver(&small);
    driver.device.write_config(32, &[0]);
    driver.save_and_restore(block(&raw(&memfd(2 * MIB), BOTH[0]), Properties::default()));
    assert_eq!(driver.signals.config(), 1);
    assert_eq!(config_u32(&driver.device, 0), 4096);
    assert_eq!(config_u32(&driver.device, 32) & 1, 0, "the driver's choice is kept");
}

#[test]
fn requests_wait_for_the_rate_limit_in_order_and_stopping_does_not_wait_for_them() {
    let limits = Limits { bandwidth: None, operations: Some(Rate { per_second: 50, burst: 1 }) };
    let handle = LimitsHandle::new(limits);
    let properties = || Properties { limits: Arc::clone(&handle), ..Properties::default() };
    let storage = raw(&memfd(MIB), BOTH[0]);
    let mut driver = Driver::new(block(&storage, properties()), u64::MAX);
    let start = Instant::now();
    let posted: Vec<_> =
        (0..11).map(|_| driver.queues[0].post(&[header(FLUSH, 0), Part::In(1)])).collect();
    driver.queues[0].kick();
    for (index, posted) in posted.into_iter().enumerate() {
        assert_eq!(driver.queues[0].wait_used().0, posted);
        if index == 5 {
            driver.pause_and_resume();
            driver.save_and_restore(block(&storage, properties()));
        }
    }
    // A restored device starts with a full bucket again.
    assert!(start.elapsed() >= Duration::from_millis(170), "{:?}", start.elapsed());

    handle.set(Limits { bandwidth: Some(Rate { per_second: 1, burst: 1 }), operations: None });
    let queue = &mut driver.queues[0];
    queue.post(&[header(IN, 0), Part::In(4096), Part::In(1)]);
    queue.post(&[header(IN, 0), Part::In(4096), Part::In(1)]);
    queue.kick();
    let stopping = Instant::now();
    driver.pause_and_resume();
    assert!(stopping.elapsed() < Duration::from_secs(2));
    handle.set(Limits::default());
    driver.queues[0].wait_used();
    driver.queues[0].wait_used();
}

#[test]
fn stopping_waits_for_what_is_in_flight() {
    let (allow, control) = mpsc::channel();
    let slow = Slow { control: Mutex::new(Some(control)), ..Slow::default() };
    let log = Arc::clone(&slow.log);
    let mut driver = driver(&(Arc::new(slow) as Arc<dyn Storage>));
    let queue = &mut driver.queues[0];
    let posted: Vec<_> = (0..3).map(|_| queue.post(&[header(FLUSH, 0), Part::In(1)])).collect();
    queue.kick();
    wait("three operations", || lock(&log).len() == 3);
    let later = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        (0..3).for_each(|_| allow.send(()).unwrap());
        allow
    });
    assert_eq!(driver.device.quiesce().len(), 1);
    for posted in posted {
        assert_eq!(driver.queues[0].poll_used().unwrap().0, posted);
        assert_eq!(driver.queues[0].room(posted), [0]);
    }
    later.join().unwrap();
}

#[test]
fn what_does_not_end_in_time_is_given_up() {
    for cancellable in [true, false] {
        let slow = Slow { cancellable, ..Slow::default() };
        let log = Arc::clone(&slow.log);
        let mut device = block(&(Arc::new(slow) as Arc<dyn Storage>), Properties::default());
        device.patience = Duration::from_millis(100);
        let mut driver = Driver::new(device, u64::MAX);
        let posted = driver.queues[0].post(&[header(FLUSH, 0), Part::In(1)]);
        driver.queues[0].kick();
        wait("the operation", || lock(&log).len() == 1);
        assert_eq!(driver.device.quiesce().len(), 1);
        // Given up, it is answered with an error; if not even that is possible, the device is lost.
        let answer = driver.queues[0].poll_used();
        assert_eq!(answer.is_some(), cancellable);
        assert_eq!(driver.signals.needs_reset(), !cancellable);
        if cancellable {
            assert_eq!(driver.queues[0].room(posted), [1]);
        }
    }
}

#[test]
fn no_more_is_in_flight_than_the_queue_has_entries() {
    let (allow, control) = mpsc::channel();
    let slow = Slow { control: Mutex::new(Some(control)), cancellable: true, ..Slow::default() };
    let log = Arc::clone(&slow.log);
    let storage: Arc<dyn Storage> = Arc::new(slow);
    let properties = Properties { queue_size: 4, ..Properties::default() };
    let mut device = block(&storage, properties);
    device.patience = Duration::from_millis(100);
    let mut driver = Driver::new(device, u64::MAX);
    let queue = &mut driver.queues[0];
    // The same descriptors again and again: a driver that does not care.
    let posted = queue.post(&[header(FLUSH, 0), Part::In(1)]);
    (0..3).for_each(|_| queue.make_available(posted.0));
    queue.kick();
    wait("four operations", || lock(&log).len() == 4);
    (0..4).for_each(|_| queue.make_available(posted.0));
    queue.kick();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(lock(&log).len(), 4);
    (0..4).for_each(|_| allow.send(()).unwrap());
    (0..4).for_each(|_| drop(queue.wait_used()));
}

#[test]
fn a_disk_that_is_held_finishes_what_it_has_and_takes_no_more() {
    let (allow, control) = mpsc::channel();
    let slow = Slow { control: Mutex::new(Some(control)), ..Slow::default() };
    let log = Arc::clone(&slow.log);
    let mut driver = driver(&(Arc::new(slow) as Arc<dyn Storage>));
    let handle = driver.device.handle();
    let flush = [header(FLUSH, 0), Part::In(1)];
    let first = driver.queues[0].post(&flush);
    driver.queues[0].kick();
    wait("an operation", || lock(&log).len() == 1);
    handle.hold(true);
    let second = driver.queues[0].post(&flush);
    driver.queues[0].kick();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!((handle.in_flight(), lock(&log).len()), (1, 1));
    allow.send(()).unwrap();
    assert_eq!(driver.queues[0].wait_used().0, first);
    wait("nothing in flight", || handle.in_flight() == 0);
    assert_eq!(lock(&log).len(), 1);
    // Let go, it looks at its queue unasked.
    handle.hold(false);
    allow.send(()).unwrap();
    assert_eq!(driver.queues[0].wait_used().0, second);
}

#[test]
fn a_disk_that_grows_while_the_device_rests_is_told_when_it_carries_on() {
    let file = memfd(MIB);
    let mut driver = driver(&raw(&file, BOTH[0]));
    let handle = driver.device.handle();
    let queues = driver.device.pause();
    handle.grow(2 * MIB).unwrap();
    assert_eq!(driver.signals.config(), 0);
    driver.restart(queues);
    assert_eq!((driver.signals.config(), config_u32(&driver.device, 0)), (1, 4096));
    driver.pause_and_resume();
    assert_eq!(driver.signals.config(), 1);
}

#[test]
fn what_a_disk_does_is_counted_over_pauses() {
    for options in BOTH {
        let mut driver = driver(&raw(&memfd(MIB), options));
        let counters = Arc::clone(&driver.device.properties.counters);
        write(&mut driver.queues[0], 0, &[1; 4096]);
        driver.pause_and_resume();
        read(&mut driver.queues[0], 0, 512);
        let (status, _) =
            ask(&mut driver.queues[0], &[header(IN, 1 << 20), Part::In(512), Part::In(1)]);
        assert_ne!(status, 0);
        let done = counters.queue(0);
        assert_eq!(
            (done.writes, done.written_bytes, done.reads, done.read_bytes),
            (1, 4096, 1, 512)
        );
        assert_eq!((done.others, done.errors, counters.in_flight()), (1, 1, 0));
        assert_eq!(done.latency.iter().sum::<u64>(), 2);
        assert!(done.time > Duration::ZERO);
    }
}
