//! Data in quantity: order, credit, many connections, pauses in the middle.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::packet::{Header, LEN, op, shutdown};
use super::test_guest::{Guest, ROOM, Stream, expect_end, header_len, impatient, read};
use super::*;
use crate::virtio::test_driver::wait;

/// Bytes `at..at + len` of a stream that repeats itself after a prime number of bytes.
fn pattern(at: usize, len: usize) -> Vec<u8> {
    const PERIOD: usize = 8191;
    let period: Vec<u8> = (0..PERIOD).map(|i| u8::try_from(i * 31 % 251).unwrap()).collect();
    period.iter().copied().cycle().skip(at % PERIOD).take(len).collect()
}

/// The same for any place, out of one copy.
struct Pattern(Vec<u8>);

impl Pattern {
    fn new() -> Self {
        Self(pattern(0, 8191 + (256 << 10)))
    }

    fn at(&self, at: usize, len: usize) -> &[u8] {
        &self.0[at % 8191..][..len]
    }
}

/// A program that sends back what it receives, until its end.
fn echo(mut socket: UnixStream) -> JoinHandle<usize> {
    thread::spawn(move || {
        let mut total = 0;
        let mut bytes = vec![0; 64 << 10];
        loop {
            let count = socket.read(&mut bytes).unwrap();
            if count == 0 {
                return total;
            }
            socket.write_all(&bytes[..count]).unwrap();
            total += count;
        }
    })
}

/// Sends `total` bytes in packets of up to `packet` and checks that all come back; `meanwhile` is
/// called at every round.
fn exchange(
    guest: &mut Guest,
    stream: &mut Stream,
    total: usize,
    packet: usize,
    mut meanwhile: impl FnMut(&mut Guest, usize),
) {
    let pattern = Pattern::new();
    let (mut sent, mut received, mut told) = (0, 0, 0);
    let mut progress = Instant::now();
    while received < total {
        let len = packet.min(total - sent).min(stream.credit() as usize);
        if len > 0 && guest.can_send() {
            stream.write(guest, pattern.at(sent, len));
            sent += len;
        }
        while let Some((header, data)) = guest.try_receive() {
            stream.hear(&header);
            assert_eq!(data, pattern.at(received, data.len()), "at {received}");
            received += data.len();
            stream.fwd_cnt = stream.fwd_cnt.wrapping_add(header_len(data.len()));
            progress = Instant::now();
        }
        if received - told > 64 << 10 {
            told = received;
            guest.send(&stream.header(op::CREDIT_UPDATE), &[]);
        }
        meanwhile(guest, received);
        assert!(progress.elapsed().as_secs() < 10, "{sent} sent, {received} received: stuck");
    }
    assert_eq!((sent, received), (total, total));
}

#[test]
fn a_gigabyte_goes_both_ways_unharmed() {
    let mut guest = Guest::new();
    let (mut stream, host) = guest.accept(52);
    let program = echo(host);
    exchange(&mut guest, &mut stream, 1 << 30, 64 << 10, |_, _| {});
    stream.shut(&mut guest, shutdown::SEND);
    assert_eq!(program.join().unwrap(), 1 << 30);
}

#[test]
fn buffers_of_any_shape_are_filled_without_gaps() {
    let mut guest = Guest::new();
    let (mut stream, host) = guest.accept(52);
    guest.shape = |number| match number % 7 {
        0 => vec![LEN + 1],
        1 => vec![20, 25],
        2 => vec![1; LEN + 200],
        3 => vec![LEN, 1, 5000],
        4 => vec![LEN + ROOM],
        5 => vec![7, 4000, 1, 1, 300],
        _ => vec![LEN + 64, 10],
    };
    let program = echo(host);
    exchange(&mut guest, &mut stream, 4 << 20, 64 << 10, |_, _| {});
    stream.shut(&mut guest, shutdown::SEND);
    assert_eq!(program.join().unwrap(), 4 << 20);
}

#[test]
fn packets_that_wait_together_arrive_in_order_at_a_host_that_has_no_room_for_all() {
    let mut guest = Guest::new();
    let (mut stream, mut host) = guest.accept(52);
    let (mut other, mut other_host) = guest.accept(53);
    let pattern = Pattern::new();
    let queues = guest.driver.device.quiesce();
    for number in 0..20 {
        stream.write(&mut guest, pattern.at(number * 12_000, 12_000));
        if number % 7 == 6 {
            other.write(&mut guest, b"x");
        }
    }
    guest.driver.restart(queues);
    assert_eq!(read(&mut other_host, 2), b"xx");
    for number in 0..20 {
        assert_eq!(read(&mut host, 12_000), pattern.at(number * 12_000, 12_000), "{number}");
    }
}

#[test]
fn pauses_lose_nothing_on_its_way() {
    let mut guest = Guest::new();
    let (mut stream, host) = guest.accept(52);
    let program = echo(host);
    let mut paused = 0;
    exchange(&mut guest, &mut stream, 4 << 20, 5000, |guest, received| {
        if received / (64 << 10) > paused {
            guest.driver.pause_and_resume();
            paused += 1;
        }
    });
    assert!(paused > 20);
    stream.shut(&mut guest, shutdown::SEND);
    assert_eq!(program.join().unwrap(), 4 << 20);
}

#[test]
fn the_host_sends_no_more_than_the_guest_has_room_for() {
    let mut guest = Guest::new();
    let mut host = guest.host_connects();
    host.write_all(b"CONNECT 52\n").unwrap();
    let mut stream = Stream::new(52, guest.expect(op::REQUEST).src_port);
    stream.buf_alloc = 1000;
    guest.send(&stream.header(op::RESPONSE), &[]);
    let sent = pattern(0, 2500);
    host.write_all(&sent).unwrap();
    assert_eq!(stream.read(&mut guest, 1000), sent[..1000]);
    guest.expect(op::CREDIT_REQUEST);
    // Asked once: an answer that there is still none is taken as one.
    let none = Header { fwd_cnt: 0, ..stream.header(op::CREDIT_UPDATE) };
    guest.send(&none, &[]);
    guest.expect_silence();
    guest.send(&stream.header(op::CREDIT_UPDATE), &[]);
    assert_eq!(stream.read(&mut guest, 1000), sent[1000..2000]);
    guest.expect(op::CREDIT_REQUEST);
    guest.send(&stream.header(op::CREDIT_UPDATE), &[]);
    assert_eq!(stream.read(&mut guest, 500), sent[2000..]);
}

/// Fills the way to a host that does not read; how many bytes that took.
fn fill(guest: &mut Guest, stream: &mut Stream) -> usize {
    let (pattern, mut sent) = (Pattern::new(), 0);
    loop {
        while stream.credit() > 0 {
            let len = stream.credit().min(64 << 10) as usize;
            stream.write(guest, pattern.at(sent, len));
            sent += len;
        }
        guest.flush();
        guest.send(&stream.header(op::CREDIT_REQUEST), &[]);
        let (header, _) = guest.receive();
        stream.hear(&header);
        // An update that was under way may come before the answer.
        if stream.credit() == 0 && guest.try_receive().is_none() {
            return sent;
        }
    }
}

#[test]
fn a_slow_host_gets_everything_and_the_guest_its_credit_back() {
    let mut guest = Guest::new();
    let (mut stream, mut host) = guest.accept(52);
    let sent = fill(&mut guest, &mut stream);
    assert!(sent > 256 << 10, "{sent}");
    guest.driver.pause_and_resume();
    assert_eq!(read(&mut host, sent), pattern(0, sent));
    wait("the credit is back", || {
        if let Some((header, _)) = guest.try_receive() {
            stream.hear(&header);
        }
        stream.credit() >= 128 << 10
    });
    stream.write(&mut guest, b"more");
    assert_eq!(read(&mut host, 4), b"more");
}

#[test]
fn a_guest_that_ignores_its_credit_is_reset() {
    let mut guest = Guest::new();
    let (mut stream, mut host) = guest.accept(52);
    let sent = fill(&mut guest, &mut stream);
    guest.send(&Header { len: 1, ..stream.header(op::RW) }, &[0]);
    while guest.receive().0.op != op::RST {}
    let mut rest = vec![];
    host.read_to_end(&mut rest).unwrap();
    assert!(rest.len() < sent);
}

#[test]
fn what_a_guest_sent_before_it_closed_reaches_a_slow_host() {
    let mut guest = Guest::new();
    let (mut stream, mut host) = guest.accept(52);
    let sent = fill(&mut guest, &mut stream);
    stream.shut(&mut guest, shutdown::BOTH);
    // Nor does it help to lose patience.
    guest.send(&stream.header(op::RST), &[]);
    guest.flush();
    let mut all = vec![];
    host.read_to_end(&mut all).unwrap();
    assert_eq!(all, pattern(0, sent));
    guest.expect_silence();
}

#[test]
fn a_host_that_never_reads_is_given_up() {
    let mut guest = Guest::with(impatient());
    let (mut stream, host) = guest.accept(52);
    fill(&mut guest, &mut stream);
    stream.shut(&mut guest, shutdown::BOTH);
    while guest.receive().0.op != op::RST {}
    drop(host);
}

#[test]
fn sockets_are_not_read_while_the_guest_has_no_buffers() {
    let mut guest = Guest::new();
    let (mut stream, mut host) = guest.accept(52);
    guest.starves = true;
    stream.buf_alloc = u32::MAX;
    guest.send(&stream.header(op::CREDIT_UPDATE), &[]);
    // All the buffers it has given, and what the socket holds.
    host.set_nonblocking(true).unwrap();
    let sent = pattern(0, 16 << 20);
    let mut taken = 0;
    let mut stuck = 0;
    while stuck < 20 {
        match host.write(&sent[taken..]) {
            Ok(count) => (taken, stuck) = (taken + count, 0),
            Err(_) => {
                stuck += 1;
                thread::sleep(std::time::Duration::from_millis(5));
            }
        }
    }
    assert!(taken < 2 << 20, "{taken}");
    host.set_nonblocking(false).unwrap();
    guest.starves = false;
    assert_eq!(stream.read(&mut guest, taken), sent[..taken]);
}

#[test]
fn two_hosts_that_never_stop_share_the_guests_buffers() {
    let mut guest = Guest::new();
    let sockets = [guest.accept(1), guest.accept(2)];
    let ports = [sockets[0].0.host_port, sockets[1].0.host_port];
    let programs = sockets.map(|(stream, mut host)| {
        let all = Stream { buf_alloc: u32::MAX, ..stream };
        guest.send(&all.header(op::CREDIT_UPDATE), &[]);
        thread::spawn(move || while host.write_all(&[0; 64 << 10]).is_ok() {})
    });
    let mut bytes = [0, 0];
    while bytes[0] + bytes[1] < 16 << 20 {
        let (header, data) = guest.receive();
        bytes[usize::from(header.src_port == ports[1])] += data.len();
    }
    assert!(bytes.iter().all(|&bytes| bytes > 4 << 20), "{bytes:?}");
    guest.driver.device.quiesce();
    guest.driver.device.reset();
    for program in programs {
        program.join().unwrap();
    }
}

fn many_connections(count: u32) {
    let mut guest = Guest::new();
    let program = guest.host_listens(1024);
    let mut all: Vec<_> = (0..count).map(|port| guest.connect(port, 1024, &program)).collect();
    for (index, (stream, host)) in all.iter_mut().enumerate() {
        stream.write(&mut guest, &index.to_le_bytes());
        host.write_all(&index.to_be_bytes()).unwrap();
    }
    for (index, (_, host)) in all.iter_mut().enumerate() {
        assert_eq!(read(host, 8), index.to_le_bytes());
    }
    let mut left = count;
    while left > 0 {
        let (header, data) = guest.receive();
        if header.op == op::RW {
            assert_eq!(data, (header.dst_port as usize).to_be_bytes());
            left -= 1;
        }
    }
    for (stream, _) in &all {
        stream.shut(&mut guest, shutdown::BOTH);
        guest.poll();
    }
    for _ in &all {
        guest.expect(op::RST);
    }
    for (_, host) in &mut all {
        expect_end(host);
    }
}

#[test]
fn a_thousand_connections_are_open_at_once() {
    many_connections(1000);
}

#[test]
#[ignore = "needs 20,000 descriptors"]
fn ten_thousand_connections_are_open_at_once() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let start = Instant::now();
    many_connections(1000);
    let thousand = start.elapsed();
    many_connections(9900);
    println!("1,000: {thousand:?}; 9,900: {:?}", start.elapsed() - thousand);
}
