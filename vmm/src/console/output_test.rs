//! Console output against slow, closed and absent readers.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use super::*;

fn pipe() -> (std::io::PipeReader, Output) {
    let (reader, writer) = std::io::pipe().unwrap();
    (reader, Output::new(writer.into()).unwrap())
}

fn wait(output: &Output) {
    let start = Instant::now();
    while output.event().read().is_err() {
        assert!(start.elapsed() < Duration::from_secs(10), "the event does not come");
        thread::sleep(Duration::from_millis(1));
    }
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
    output.write_all(&vec![0; 2 * CAPACITY]).unwrap();
    assert!(output.finish());
}

#[test]
fn silence_starts_no_thread() {
    let (_reader, output) = pipe();
    assert!(output.finish());
    assert!(output.0.lock().writer.is_none());
}
