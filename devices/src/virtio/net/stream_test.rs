//! The protocol of stream sockets, from the other side.

use std::io::{Read, Write};

use super::*;
use crate::memory::anonymous;
use crate::virtio::test_driver::{DriverQueue, MEMORY, Part, Signals};

fn pair() -> (Box<dyn Port>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (StreamSocket::new(ours).unwrap().port(0).unwrap(), theirs)
}

/// Receives without any room: all of it spills.
fn receive(port: &mut dyn Port) -> io::Result<Vec<u8>> {
    let mut room = Room::new(Arc::new(anonymous(&[(0, 4096)])));
    let mut spill = vec![0; header::LEN + header::MAX_FRAME];
    let len = port.receive(&mut room, &mut spill)?;
    Ok(spill[..len - header::LEN].to_vec())
}

fn kind(result: io::Result<Vec<u8>>) -> io::ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn frames_are_taken_out_of_the_stream_however_it_is_cut() {
    let (mut port, mut peer) = pair();
    for byte in [0, 0, 0, 3, 1, 2] {
        peer.write_all(&[byte]).unwrap();
        assert_eq!(kind(receive(&mut *port)), io::ErrorKind::WouldBlock);
    }
    peer.write_all(&[3, 0, 0, 0, 1, 9, 0, 0]).unwrap();
    assert_eq!(receive(&mut *port).unwrap(), [1, 2, 3]);
    assert_eq!(receive(&mut *port).unwrap(), [9]);
    assert_eq!(kind(receive(&mut *port)), io::ErrorKind::WouldBlock);
}

#[test]
fn what_a_connection_has_begun_outlives_the_port() {
    let (ours, mut peer) = UnixStream::pair().unwrap();
    let backend = StreamSocket::new(ours).unwrap();
    peer.write_all(&[0, 0, 0, 2, 7]).unwrap();
    assert_eq!(kind(receive(&mut *backend.port(0).unwrap())), io::ErrorKind::WouldBlock);
    peer.write_all(&[8]).unwrap();
    assert_eq!(receive(&mut *backend.port(0).unwrap()).unwrap(), [7, 8]);
}

#[test]
fn impossible_lengths_and_ends_are_errors() {
    let (mut port, mut peer) = pair();
    peer.write_all(&u32::try_from(header::MAX_FRAME + 1).unwrap().to_be_bytes()).unwrap();
    assert_eq!(kind(receive(&mut *port)), io::ErrorKind::InvalidData);
    let (mut port, peer) = pair();
    drop(peer);
    assert_eq!(kind(receive(&mut *port)), io::ErrorKind::UnexpectedEof);
}

/// Receives into room for the longest frame in buffers of `size`.
fn receive_in_place(port: &mut dyn Port, size: usize) -> io::Result<Vec<u8>> {
    let memory = Arc::new(anonymous(&[(0, MEMORY)]));
    let mut driver = DriverQueue::new(&memory, 0, 256, true);
    let mut queue = driver.device_side(Arc::<Signals>::default()).unwrap();
    let (mut chain, mut room) = (queue.chain(), Room::new(memory));
    while room.len() < header::LEN + header::MAX_FRAME {
        driver.post(&[Part::In(size)]);
        assert!(queue.pop(&mut chain).unwrap() && room.append(&chain));
    }
    let len = port.receive(&mut room, &mut [])?;
    let mut frame = vec![0; len - header::LEN];
    assert_eq!(room.copy_out(header::LEN, &mut frame), frame.len());
    Ok(frame)
}

#[test]
fn frames_of_any_lengths_come_in_place_however_they_are_cut() {
    let mut seed = 7u64;
    let mut random = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(seed >> 33).unwrap() % below
    };
    for _ in 0..40 {
        let (mut port, mut peer) = pair();
        // Runs of long ones of one length, and others in between.
        let mut lengths = Vec::new();
        for _ in 0..4 {
            let len = [14, 1500, DIRECT + random(3) - 1, 9000, header::MAX_FRAME][random(5)];
            lengths.extend(vec![len; 1 + random(3)]);
        }
        let frame = |index: usize| -> Vec<u8> {
            (0..lengths[index]).map(|i| ((i * 7 + index * 31) % 251).to_le_bytes()[0]).collect()
        };
        let mut stream = Vec::new();
        for (index, len) in lengths.iter().enumerate() {
            stream.extend(u32::try_from(*len).unwrap().to_be_bytes());
            stream.extend(frame(index));
        }
        let (mut sent, mut index) = (0, 0);
        while index < lengths.len() {
            if random(3) == 0 || sent < stream.len() {
                let cut = [1, 5, 4000, 70_000, 200_000][random(5)].min(stream.len() - sent);
                peer.set_nonblocking(true).unwrap();
                sent += peer.write(&stream[sent..sent + cut]).unwrap_or(0);
            }
            match receive_in_place(&mut *port, 500 + random(70_000)) {
                Ok(received) => {
                    assert!(received == frame(index), "frame {index} of {lengths:?}");
                    index += 1;
                }
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
    }
}

#[test]
fn the_longest_frames_pass_one_after_another() {
    let (mut port, mut peer) = pair();
    let frame: Vec<u8> = (0..header::MAX_FRAME).map(|i| i.to_le_bytes()[0]).collect();
    let sent = frame.clone();
    let sender = std::thread::spawn(move || {
        for _ in 0..5 {
            peer.write_all(&u32::try_from(sent.len()).unwrap().to_be_bytes()).unwrap();
            peer.write_all(&sent).unwrap();
        }
        let _ = peer.read(&mut [0]);
    });
    let mut count = 0;
    while count < 5 {
        match receive(&mut *port) {
            Ok(received) => {
                assert!(received == frame);
                count += 1;
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    }
    drop(port);
    sender.join().unwrap();
}
