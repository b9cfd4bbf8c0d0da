//! Guests that mean harm: the device lives on, holds no more than it says, and serves the next
//! connection.

use std::io::Write;
use std::os::unix::net::UnixListener;

use proptest::prelude::*;

use super::packet::{Header, LEN, op};
use super::test_guest::{CID, Guest, Stream, expect_end, read};
use super::*;
use crate::virtio::test_driver::{PATIENCE, Part, wait};

/// The device still does what it is for.
#[track_caller]
fn assert_alive(guest: &mut Guest, program: &UnixListener) {
    guest.flush();
    assert!(!guest.driver.signals.needs_reset());
    // Connections the test opened are on the backlog, and their packets in the inbox.
    while guest.try_receive().is_some() {}
    program.set_nonblocking(true).unwrap();
    while program.accept().is_ok() {}
    program.set_nonblocking(false).unwrap();
    guest.expect_silence_of_streams();
    let mut stream = Stream::new(0xffff_0000, 1024);
    guest.send(&stream.header(op::REQUEST), &[]);
    // Ends of the connections before may still arrive.
    let response = loop {
        let (header, _) = guest.receive();
        if header.dst_port == stream.guest_port {
            break header;
        }
    };
    assert_eq!(response.op, op::RESPONSE);
    stream.hear(&response);
    let (mut host, _) = program.accept().unwrap();
    host.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write(guest, b"alive");
    assert_eq!(read(&mut host, 5), b"alive");
}

impl Guest {
    /// Drops packets until there are none for a while.
    fn expect_silence_of_streams(&mut self) {
        let mut quiet = std::time::Instant::now();
        let deadline = quiet + PATIENCE;
        while quiet.elapsed().as_millis() < 20 {
            assert!(std::time::Instant::now() < deadline, "the device does not stop talking");
            if self.try_receive().is_some() {
                quiet = std::time::Instant::now();
            }
        }
    }
}

#[test]
fn a_packet_shorter_than_a_header_breaks_the_queue() {
    let mut guest = Guest::new();
    guest.send_raw(vec![0; LEN - 1]);
    guest.driver.signals.wait_for_reset_request();
    assert_eq!(guest.driver.device.quiesce().len(), 3);
}

#[test]
fn a_buffer_without_room_for_data_breaks_the_queue() {
    let mut guest = Guest::new();
    guest.starves = true;
    while !guest.is_drained() {
        guest.send(&Stream::new(1, 1).header(op::REQUEST), &[]);
        guest.expect(op::RST);
    }
    let queue = &mut guest.driver.queues[usize::from(RX)];
    queue.post(&[Part::In(LEN)]);
    queue.kick();
    let request = Stream::new(1, 1).header(op::REQUEST);
    guest.send(&request, &[]);
    guest.driver.signals.wait_for_reset_request();
}

#[test]
fn a_packet_shorter_than_it_says_ends_its_connection() {
    let mut guest = Guest::new();
    let (stream, mut host) = guest.accept(52);
    guest.send(&Header { len: 5, ..stream.header(op::RW) }, b"four");
    guest.expect(op::RST);
    expect_end(&mut host);
}

#[test]
fn packets_out_of_order_end_their_connection() {
    for op in [op::REQUEST, op::RESPONSE, 0, 8, 0xffff] {
        let mut guest = Guest::new();
        let (stream, mut host) = guest.accept(52);
        guest.send(&stream.header(op), &[]);
        guest.expect(op::RST);
        expect_end(&mut host);
    }
    for op in [op::RW, op::SHUTDOWN, op::CREDIT_UPDATE, op::REQUEST] {
        let mut guest = Guest::new();
        let mut host = guest.host_connects();
        host.write_all(b"CONNECT 52\n").unwrap();
        let stream = Stream::new(52, guest.expect(op::REQUEST).src_port);
        guest.send(&stream.header(op), &[]);
        guest.expect(op::RST);
        expect_end(&mut host);
    }
}

#[test]
fn an_answer_to_a_question_not_yet_asked_ends_the_connection() {
    let mut guest = Guest::new();
    guest.starves = true;
    while !guest.is_drained() {
        guest.send(&Stream::new(1, 1).header(op::REQUEST), &[]);
        guest.expect(op::RST);
    }
    let mut host = guest.host_connects();
    host.write_all(b"CONNECT 52\n").unwrap();
    // The first port the device chooses.
    let guess = Stream::new(52, 1 << 30);
    wait("the device knows", || {
        guest.send(&guess.header(op::RESPONSE), &[]);
        guest.flush();
        host.set_nonblocking(true).unwrap();
        !matches!(io::Read::read(&mut host, &mut [0; 8]), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    });
}

#[test]
fn a_guest_that_takes_no_resets_is_listened_to_no_more() {
    let mut guest = Guest::new();
    guest.starves = true;
    let request = Stream::new(1, 1).header(op::REQUEST);
    let mut sent = 0;
    let deadline = std::time::Instant::now() + std::time::Duration::from_millis(500);
    while std::time::Instant::now() < deadline {
        if guest.can_send() {
            guest.send(&request, &[]);
            sent += 1;
        }
    }
    // Its buffers, the resets held, and the packets left in the queue.
    assert!((1000..1400).contains(&sent), "{sent}");
    guest.starves = false;
    guest.poll();
    for _ in 0..sent {
        guest.expect(op::RST);
    }
    guest.expect_silence();
}

#[test]
fn connections_that_come_and_go_unseen_leave_nothing() {
    let mut guest = Guest::new();
    guest.starves = true;
    let program = guest.host_listens(1024);
    program.set_nonblocking(true).unwrap();
    let stream = Stream::new(7, 1024);
    for _ in 0..5000 {
        guest.send(&stream.header(op::REQUEST), &[]);
        guest.send(&stream.header(op::RST), &[]);
        while program.accept().is_ok() {}
    }
    guest.starves = false;
    assert_alive(&mut guest, &program);
}

#[test]
fn many_hosts_that_do_not_read_hold_little_each() {
    let mut guest = Guest::new();
    let program = guest.host_listens(1024);
    let mut all: Vec<_> = (0..450).map(|port| guest.connect(port, 1024, &program)).collect();
    let (stream, _host) = all.last_mut().unwrap();
    let granted = stream.peer.0;
    assert!(granted <= 16 << 10, "{granted}");
    let mut idle = std::time::Instant::now();
    while idle.elapsed().as_millis() < 100 {
        while let Some((header, _)) = guest.try_receive() {
            stream.hear(&header);
        }
        let len = stream.credit().min(4096);
        if len > 0 {
            stream.write(&mut guest, &[0; 4096][..len as usize]);
            idle = std::time::Instant::now();
        }
    }
    // The device's buffer, and the kernel's, which counts its own overhead too.
    assert!(stream.tx_cnt <= 4 * granted, "{} bytes were taken", stream.tx_cnt);
}

#[test]
fn questions_are_answered_once_however_often_they_are_asked() {
    let mut guest = Guest::new();
    let (stream, _host) = guest.accept(52);
    let answers = guest.starve();
    for _ in 0..1000 {
        guest.send(&stream.header(op::CREDIT_REQUEST), &[]);
    }
    guest.flush();
    guest.starves = false;
    guest.poll();
    let mut updates = 0;
    while guest.try_receive().is_some() {
        updates += 1;
    }
    assert!(updates <= answers + 2, "{updates}");
}

impl Guest {
    /// Gives no more buffers; how many it has given.
    fn starve(&mut self) -> usize {
        self.starves = true;
        self.buffers()
    }

    fn is_drained(&self) -> bool {
        self.buffers() == 0
    }
}

fn a_header() -> impl Strategy<Value = Header> {
    let port = prop_oneof![Just(1024u32), Just(52), Just(1 << 30), 0u32..4, any::<u32>()];
    let cid = || prop_oneof![8 => Just(CID), 1 => Just(2u64), 1 => any::<u64>()];
    let len = prop_oneof![4 => Just(8u32), 2 => 0u32..64, 1 => any::<u32>()];
    let kind = prop_oneof![9 => Just(1u16), 1 => any::<u16>()];
    let op = prop_oneof![9 => 0u16..9, 1 => any::<u16>()];
    let credit = prop_oneof![any::<u32>(), 0u32..1000];
    let dst = prop_oneof![9 => Just(2u64), 1 => any::<u64>()];
    (cid(), dst, (0u32..4, port), len, kind, op, 0u32..5, (credit.clone(), credit)).prop_map(
        |(src_cid, dst_cid, (src_port, dst_port), len, kind, op, flags, (buf_alloc, fwd_cnt))| {
            let mut header = Header { src_cid, dst_cid, len, kind, op, flags, ..Header::default() };
            (header.src_port, header.dst_port) = (src_port, dst_port);
            (header.buf_alloc, header.fwd_cnt) = (buf_alloc, fwd_cnt);
            header
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_sequence_of_packets_harms_the_device(
        packets in prop::collection::vec((a_header(), 0usize..80), 1..200),
        pause_at in 0usize..200,
        greets: bool,
    ) {
        let mut guest = Guest::new();
        let program = guest.host_listens(1024);
        let mut hosts = vec![];
        for (index, (header, payload)) in packets.iter().enumerate() {
            if greets && index % 8 == 0 {
                let mut host = guest.host_connects();
                host.write_all(b"CONNECT 1\nhello").unwrap();
                hosts.push(host);
            }
            if index == pause_at {
                guest.flush();
                guest.driver.pause_and_resume();
            }
            guest.send(header, &vec![0; *payload]);
            guest.poll();
        }
        guest.flush();
        drop(hosts);
        assert_alive(&mut guest, &program);
    }
}
