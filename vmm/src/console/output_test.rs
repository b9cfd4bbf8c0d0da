//! Console output against slow, closed and absent readers.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use super::*;

fn pipe() -> (std::io::PipeReader, Output) {
    let (reader, writer) = std::io::pipe().unwrap();
    (reader, Output::new(Some(writer.into()), Ring::default()).unwrap())
}

fn wait(output: &Output) {
    let start = Instant::now();
    while output.event().read().is_err() {
        assert!(start.elapsed() < Duration::from_secs(10), "the event does not come");
        thread::sleep(Duration::from_millis(1));
    }
}

fn finish(output: &Output) {
    if !output.finish() {
        wait(output);
    }
    assert!(output.is_drained());
}

#[test]
fn every_byte_arrives_in_order_though_the_reader_is_slow() {
    let (mut reader, mut output) = pipe();
    let sent: Vec<u8> = (0..1u32 << 20).map(|i| (i * 7 + (i >> 8)).to_le_bytes()[0]).collect();
    let expected = sent.clone();
    let writer = thread::spawn(move || {
        sent.iter().for_each(|byte| output.write_all(&[*byte]).unwrap());
        let drained = output.finish();
        if !drained {
            wait(&output);
        }
        drop(output);
    });
    thread::sleep(Duration::from_millis(50));
    let mut received = vec![0; expected.len()];
    reader.read_exact(&mut received).unwrap();
    writer.join().unwrap();
    assert!(received == expected);
}

#[test]
fn a_writer_that_waits_for_room_can_be_released() {
    let (_reader, output) = pipe();
    let mut stuck = output.clone();
    // The first may be on its way to the reader, which takes less, when the second comes; the third waits for room.
    let writer = thread::spawn(move || {
        let bytes = vec![b'x'; 4 << 20];
        (0..3).try_for_each(|_| stuck.write_all(&bytes))
    });
    let start = Instant::now();
    while output.0.lock().buffer.len() < CAPACITY {
        assert!(start.elapsed() < Duration::from_secs(10));
        thread::yield_now();
    }
    output.set_unbounded(true);
    writer.join().unwrap().unwrap();
}

#[test]
fn a_closed_reader_is_reported_and_output_goes_on_into_the_void() {
    let (reader, mut output) = pipe();
    drop(reader);
    output.write_all(b"hello").unwrap();
    wait(&output);
    assert_eq!(output.take_error().unwrap().kind(), io::ErrorKind::BrokenPipe);
    for _ in 0..10 {
        output.write_all(&[b'x'; CAPACITY]).unwrap();
    }
    finish(&output);
    assert_eq!(output.0.ring.end(), 5 + 10 * CAPACITY as u64);
}

#[test]
fn a_file_that_takes_nothing_for_a_while_takes_what_comes_later() {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create("out", flags).unwrap());
    // Full, until there is room at its beginning.
    file.write_all(b"12345678").unwrap();
    fcntl_add_seals(&file, SealFlags::GROW).unwrap();
    let target = file.try_clone().unwrap().into();
    let mut output = Output::new(Some(target), Ring::default()).unwrap();
    output.write_all(b"lost").unwrap();
    wait(&output);
    assert!(output.take_error().is_some());
    file.rewind().unwrap();
    output.write_all(b"kept").unwrap();
    finish(&output);
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "kept5678");
}

#[test]
fn without_a_descriptor_everything_reaches_the_ring() {
    let ring = Ring::default();
    let mut output = Output::new(None, ring.clone()).unwrap();
    output.write_all(b"login: ").unwrap();
    finish(&output);
    assert_eq!(ring.tail(100), b"login: ");
}

fn wake() -> Arc<EventFd> {
    Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap())
}

#[test]
fn the_end_waits_for_a_keeper_that_reads() {
    let ring = Ring::default();
    let mut output = Output::new(None, ring.clone()).unwrap();
    let keeper = ring.follow(Some(0), true, wake());
    output.write_all(b"the last words").unwrap();
    assert!(!output.finish());
    thread::sleep(Duration::from_millis(50));
    assert!(output.event().read().is_err());
    keeper.confirm(14);
    wait(&output);
    assert!(output.is_drained());
}

#[test]
fn an_end_at_once_waits_a_moment_and_only_for_a_keeper() {
    let ring = Ring::default();
    let mut output = Output::new(None, ring.clone()).unwrap();
    let plain = ring.follow(Some(0), false, wake());
    output.write_all(b"the last words").unwrap();
    let began = Instant::now();
    output.settle(Duration::from_secs(10));
    assert!(began.elapsed() < Duration::from_secs(5));
    drop(plain);
    let _keeper = ring.follow(Some(0), true, wake());
    output.finish();
    let began = Instant::now();
    output.settle(Duration::from_millis(100));
    assert!((100..4000).contains(&began.elapsed().as_millis()));
}

#[test]
fn what_is_in_a_pipe_at_the_end_is_passed_on_though_the_reader_is_slow() {
    let (mut reader, output) = pipe();
    let (carried, device) = std::io::pipe().unwrap();
    for end in [OwnedFd::from(carried.try_clone().unwrap()), device.try_clone().unwrap().into()] {
        rustix::io::ioctl_fionbio(&end, true).unwrap();
    }
    output.carry(carried.into()).unwrap();
    let mut sent = 0;
    while let Ok(count @ 1..) = rustix::io::write(&device, &[b'x'; 1000]) {
        sent += count;
        output.set_unbounded(true);
        assert!(sent < 1 << 20, "nothing holds the device back");
        thread::sleep(Duration::from_micros(100));
    }
    assert!(!output.finish());
    let mut received = vec![0; sent];
    reader.read_exact(&mut received).unwrap();
    wait(&output);
    assert!(output.is_drained());
}

#[test]
fn silence_starts_no_thread() {
    let (_reader, output) = pipe();
    assert!(output.finish());
    assert!(output.0.lock().writer.is_none());
}
