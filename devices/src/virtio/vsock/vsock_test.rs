//! Connections from their first packet to their last, from the driver's side.

use std::io::Write;
use std::net::Shutdown;
use std::time::Duration;

use super::packet::{Header, op, shutdown};
use super::test_guest::{CID, Guest, Stream, expect_end, impatient, read};
use super::*;
use crate::virtio::test_driver::{Part, survives_pause_and_restore};

#[test]
fn the_configuration_holds_the_cid() {
    let guest = Guest::new();
    let mut space = [0xff; 12];
    guest.driver.device.read_config(0, &mut space);
    assert_eq!(space, [42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn the_host_connects_and_both_sides_talk() {
    let mut guest = Guest::new();
    let (mut stream, mut host) = guest.accept(52);
    host.write_all(b"from the host").unwrap();
    assert_eq!(stream.read(&mut guest, 13), b"from the host");
    stream.write(&mut guest, b"from the guest");
    assert_eq!(read(&mut host, 14), b"from the guest");
}

#[test]
fn the_guest_connects_and_both_sides_talk() {
    let mut guest = Guest::new();
    let program = guest.host_listens(1024);
    let (mut stream, mut host) = guest.connect(7, 1024, &program);
    host.write_all(b"from the host").unwrap();
    assert_eq!(stream.read(&mut guest, 13), b"from the host");
    stream.write(&mut guest, b"from the guest");
    assert_eq!(read(&mut host, 14), b"from the guest");
}

#[test]
fn what_follows_the_hosts_line_belongs_to_the_stream() {
    let mut guest = Guest::new();
    let mut host = guest.host_connects();
    host.write_all(b"CONN").unwrap();
    guest.expect_silence();
    host.write_all(b"ECT 52\nhello").unwrap();
    let request = guest.expect(op::REQUEST);
    let mut stream = Stream::new(52, request.src_port);
    guest.send(&stream.header(op::RESPONSE), &[]);
    assert_eq!(stream.read(&mut guest, 5), b"hello");
}

#[test]
fn a_refused_host_is_hung_up_on() {
    let mut guest = Guest::new();
    let mut host = guest.host_connects();
    host.write_all(b"CONNECT 52\n").unwrap();
    let request = guest.expect(op::REQUEST);
    guest.send(&Stream::new(52, request.src_port).header(op::RST), &[]);
    expect_end(&mut host);
}

#[test]
fn a_host_that_talks_nonsense_is_hung_up_on() {
    let mut guest = Guest::new();
    let mut host = guest.host_connects();
    host.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    expect_end(&mut host);
    guest.expect_silence();
}

#[test]
fn a_guest_is_refused_where_nobody_listens() {
    let mut guest = Guest::new();
    let stream = Stream::new(7, 1024);
    guest.send(&stream.header(op::REQUEST), &[]);
    let reset = guest.expect(op::RST);
    assert_eq!((reset.src_port, reset.dst_port, reset.src_cid), (1024, 7, 2));
    // Nor does any other packet find somebody there, and resets are not answered.
    for op in [op::RESPONSE, op::SHUTDOWN, op::CREDIT_UPDATE, op::CREDIT_REQUEST, 77] {
        guest.send(&stream.header(op), &[]);
        guest.expect(op::RST);
    }
    guest.send(&stream.header(op::RST), &[]);
    guest.expect_silence();
}

#[test]
fn other_types_and_other_cids_are_refused() {
    let mut guest = Guest::new();
    let program = guest.host_listens(1024);
    let request = Stream::new(7, 1024).header(op::REQUEST);
    guest.send(&Header { kind: 2, ..request }, &[]);
    assert_eq!(guest.expect(op::RST).kind, 2);
    guest.send(&Header { dst_cid: 5, ..request }, &[]);
    assert_eq!(guest.expect(op::RST).src_cid, 5);
    guest.send(&Header { src_cid: 5, ..request }, &[]);
    guest.expect_silence();
    let _ = guest.connect(7, 1024, &program);
}

#[test]
fn a_guest_that_shuts_down_hears_the_rest_of_the_host() {
    let mut guest = Guest::new();
    let (mut stream, mut host) = guest.accept(52);
    stream.write(&mut guest, b"question");
    stream.shut(&mut guest, shutdown::SEND);
    assert_eq!(read(&mut host, 8), b"question");
    expect_end(&mut host);
    host.write_all(b"answer").unwrap();
    assert_eq!(stream.read(&mut guest, 6), b"answer");
    drop(host);
    while guest.expect(op::SHUTDOWN).flags != shutdown::BOTH {}
    guest.send(&stream.header(op::RST), &[]);
    guest.expect_silence();
}

#[test]
fn a_host_that_shuts_down_hears_the_rest_of_the_guest() {
    let mut guest = Guest::new();
    let (mut stream, mut host) = guest.accept(52);
    host.write_all(b"question").unwrap();
    host.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut guest, 8), b"question");
    assert_eq!(guest.expect(op::SHUTDOWN).flags, shutdown::SEND);
    stream.write(&mut guest, b"answer");
    stream.shut(&mut guest, shutdown::BOTH);
    guest.expect(op::RST);
    assert_eq!(read(&mut host, 6), b"answer");
    expect_end(&mut host);
}

#[test]
fn a_guest_that_receives_no_more_makes_the_hosts_writes_fail() {
    let mut guest = Guest::new();
    let (mut stream, mut host) = guest.accept(52);
    stream.shut(&mut guest, shutdown::RECEIVE);
    guest.flush();
    assert_eq!(host.write_all(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    stream.write(&mut guest, b"still talking");
    assert_eq!(read(&mut host, 13), b"still talking");
}

#[test]
fn a_reset_of_the_guests_ends_the_connection() {
    let mut guest = Guest::new();
    let (stream, mut host) = guest.accept(52);
    guest.send(&stream.header(op::RST), &[]);
    expect_end(&mut host);
    guest.send(&stream.header(op::CREDIT_UPDATE), &[]);
    guest.expect(op::RST);
}

#[test]
fn a_host_that_vanishes_is_missed() {
    let mut guest = Guest::new();
    let (mut stream, host) = guest.accept(52);
    drop(host);
    while guest.expect(op::SHUTDOWN).flags != shutdown::BOTH {}
    // What is on its way to nobody costs credit no more than other data does.
    for _ in 0..20 {
        stream.write(&mut guest, &[0; 4096]);
    }
    guest.send(&stream.header(op::CREDIT_REQUEST), &[]);
    assert_eq!(guest.expect(op::CREDIT_UPDATE).fwd_cnt, 20 * 4096);
    guest.send(&stream.header(op::RST), &[]);
    guest.expect_silence();
}

#[test]
fn a_guest_that_never_agrees_to_the_end_is_reset() {
    let mut guest = Guest::with(impatient());
    let (_, host) = guest.accept(52);
    drop(host);
    while guest.expect(op::SHUTDOWN).flags != shutdown::BOTH {}
    guest.expect(op::RST);
}

#[test]
fn handshakes_take_only_so_long() {
    let mut guest = Guest::with(impatient());
    expect_end(&mut guest.host_connects());
    let mut host = guest.host_connects();
    host.write_all(b"CONNECT 52\n").unwrap();
    guest.expect(op::REQUEST);
    guest.expect(op::RST);
    expect_end(&mut host);
}

#[test]
fn a_host_that_leaves_before_the_guest_answers_is_forgotten() {
    let mut guest = Guest::new();
    let mut host = guest.host_connects();
    host.write_all(b"CONNECT 52\n").unwrap();
    guest.expect(op::REQUEST);
    drop(host);
    guest.expect(op::RST);
}

#[test]
fn connections_past_the_limit_are_refused_or_wait() {
    let mut guest = Guest::with(Limits { connections: 2, ..Limits::default() });
    let program = guest.host_listens(1024);
    let (first, _first) = guest.connect(1, 1024, &program);
    let (_, _second) = guest.connect(2, 1024, &program);
    guest.send(&Stream::new(3, 1024).header(op::REQUEST), &[]);
    guest.expect(op::RST);
    let mut host = guest.host_connects();
    host.write_all(b"CONNECT 52\n").unwrap();
    guest.expect_silence();
    guest.send(&first.header(op::RST), &[]);
    guest.expect(op::REQUEST);
}

#[test]
fn ports_of_a_connection_that_ended_can_be_used_again() {
    let mut guest = Guest::new();
    let program = guest.host_listens(1024);
    for _ in 0..100 {
        let (mut stream, mut host) = guest.connect(7, 1024, &program);
        stream.write(&mut guest, b"x");
        stream.shut(&mut guest, shutdown::BOTH);
        guest.expect(op::RST);
        assert_eq!(read(&mut host, 1), b"x");
        expect_end(&mut host);
    }
}

#[test]
fn a_driver_that_starts_over_ends_all_connections() {
    let mut guest = Guest::new();
    let (_, mut host) = guest.accept(52);
    assert_eq!(guest.driver.device.quiesce().len(), 3);
    guest.driver.device.reset();
    expect_end(&mut host);
}

#[test]
fn a_restored_device_says_that_its_connections_are_gone() {
    let mut guest = Guest::new();
    let (stream, mut host) = guest.accept(52);
    let fresh = guest.device();
    guest.driver.save_and_restore(fresh);
    expect_end(&mut host);
    // The event waits until there is a buffer for it.
    let event = guest.driver.queues[usize::from(EVENT)].request(&[Part::In(4)]);
    assert_eq!(event, [0; 4]);
    guest.send(&stream.header(op::CREDIT_UPDATE), &[]);
    guest.expect(op::RST);
    let (_, _host) = guest.accept(52);
    guest.driver.pause_and_resume();
    guest.driver.queues[usize::from(EVENT)].post(&[Part::In(4)]);
    guest.driver.queues[usize::from(EVENT)].kick();
    guest.expect_silence();
    assert!(guest.driver.queues[usize::from(EVENT)].poll_used().is_none());
}

/// The end of a connection that there is none of.
fn stray() -> Part {
    let header = Stream::new(52, 7).header(op::RST);
    Part::Out(header.encode().to_vec())
}

survives_pause_and_restore!(Guest::new().device(), usize::from(TX), [stray()]);

#[test]
fn states_that_are_none_are_refused() {
    let mut device = Guest::new().device();
    assert!(device.restore(&[]).is_err());
    assert!(device.restore(&[2, 1]).is_err());
    assert!(device.restore(&[3, 7]).is_err());
    assert!(device.restore(&[3, 1]).is_ok());
}

#[test]
fn time_stands_still_while_the_guest_does() {
    let limits = Limits { handshake: Duration::from_secs(1), ..Limits::default() };
    let mut guest = Guest::with(limits);
    let mut host = guest.host_connects();
    host.write_all(b"CONNECT 52\n").unwrap();
    let request = guest.expect(op::REQUEST);
    let queues = guest.driver.device.quiesce();
    std::thread::sleep(Duration::from_millis(1200));
    let activation = Activation {
        memory: guest.driver.memory.clone(),
        queues,
        interrupt: guest.driver.signals.clone(),
        features: 0,
    };
    guest.driver.device.activate(activation).unwrap();
    guest.send(&Stream::new(52, request.src_port).header(op::RESPONSE), &[]);
    assert_eq!(read(&mut host, 3), b"OK ");
    assert_eq!(request.dst_cid, CID);
}
