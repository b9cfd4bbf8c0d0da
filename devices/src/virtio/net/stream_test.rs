//! The protocol of stream sockets, from the other side.

use std::io::{Read, Write};

use super::*;
use crate::memory::anonymous;

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
