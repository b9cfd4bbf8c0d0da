//! The network device from its driver's side, on a stream socket whose other side is the test: frames,
//! commands, and what a hostile driver does.
#![allow(clippy::cast_possible_truncation)] // Sizes chosen here, and bytes of a pattern.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::*;
use crate::virtio::test_driver::{Driver, Part, RawDescriptor};

pub(super) const MAC: MacAddress = [0x02, 0xca, 0x4e, 0, 0, 1];
pub(super) const OTHER: MacAddress = [0x02, 0xca, 0x4e, 0, 0, 2];
pub(super) const RX: usize = 0;
pub(super) const TX: usize = 1;
pub(super) const CONTROL: usize = 2;
pub(super) const BUFFER: usize = header::LEN + 1514;

pub(super) fn options() -> Options {
    Options {
        name: "net0".to_owned(),
        mac: MAC,
        mtu: Some(1400),
        queue_size: 64,
        link: Link::new(true),
        receive_limit: None,
        send_limit: None,
    }
}

/// The other end of the cable.
pub(super) struct Peer(pub UnixStream);

impl Peer {
    pub fn send(&mut self, frame: &[u8]) {
        self.0.write_all(&u32::try_from(frame.len()).unwrap().to_be_bytes()).unwrap();
        self.0.write_all(frame).unwrap();
    }

    pub fn receive(&mut self) -> Vec<u8> {
        let mut prefix = [0; 4];
        self.0.read_exact(&mut prefix).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(prefix) as usize];
        self.0.read_exact(&mut frame).unwrap();
        frame
    }
}

pub(super) fn cable() -> (Arc<dyn Backend>, Peer) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (Arc::new(StreamSocket::new(ours).unwrap()), Peer(theirs))
}

pub(super) fn driver_of(options: Options, features: u64) -> (Driver<Net>, Peer) {
    let (backend, peer) = cable();
    (Driver::new(Net::new(backend, options), features), peer)
}

pub(super) fn driver() -> (Driver<Net>, Peer) {
    driver_of(options(), u64::MAX)
}

/// A frame of `len` bytes to `to`, filled by `seed`.
pub(super) fn frame(to: MacAddress, seed: usize, len: usize) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend(OTHER);
    frame.extend([0x88, 0xb5]);
    frame.extend((frame.len()..len).map(|i| ((i + seed * 7) % 251) as u8));
    frame
}

pub(super) fn outgoing(frame: &[u8]) -> Part {
    Part::Out([&[0; header::LEN], frame].concat())
}

pub(super) fn post_buffers(driver: &mut Driver<Net>, count: usize) {
    for _ in 0..count {
        driver.queues[RX].post(&[Part::In(BUFFER)]);
    }
    driver.queues[RX].kick();
}

/// The next received frame, put together from its buffers.
#[track_caller]
pub(super) fn received(driver: &mut Driver<Net>) -> Vec<u8> {
    let (_, mut bytes) = driver.queues[RX].wait_used();
    let buffers = u16::from_le_bytes([bytes[10], bytes[11]]);
    assert_eq!(bytes[..10], [0; 10]);
    for _ in 1..buffers {
        bytes.extend(driver.queues[RX].wait_used().1);
    }
    bytes.split_off(header::LEN)
}

#[track_caller]
pub(super) fn command(driver: &mut Driver<Net>, class: u8, command: u8, data: &[u8]) -> u8 {
    let mut parts = vec![Part::Out(vec![class, command]), Part::In(1)];
    if !data.is_empty() {
        parts.insert(1, Part::Out(data.to_vec()));
    }
    driver.queues[CONTROL].request(&parts)[0]
}

pub(super) fn status(driver: &Driver<Net>) -> u16 {
    let mut status = [0; 2];
    driver.device.read_config(6, &mut status);
    u16::from_le_bytes(status)
}

pub(super) fn counter(driver: &Driver<Net>, which: fn(&Passed) -> u64) -> u64 {
    let counters = driver.device.shared.link.counters();
    (0..driver.device.backend.pairs()).map(|pair| which(&counters.pair(pair))).sum()
}

#[test]
fn the_configuration_space_says_address_status_pairs_and_mtu() {
    let (backend, _peer) = cable();
    let device = Net::new(Arc::clone(&backend), options());
    let mut space = [0xff; 16];
    device.read_config(0, &mut space);
    assert_eq!(space[..6], MAC);
    assert_eq!(space[6..], [1, 0, 1, 0, 0x78, 5, 0, 0, 0, 0]);
    assert_eq!(device.features() & (features::GUEST_OFFLOADS | features::CSUM), 0);
    assert_ne!(device.features() & features::MTU, 0);
    let silent = Net::new(backend, Options { mtu: None, ..options() });
    assert_eq!(silent.features() & (features::MTU | features::MQ), 0);
}

#[test]
fn frames_pass_in_both_directions() {
    let (mut driver, mut peer) = driver();
    let out = frame(OTHER, 1, 60);
    assert_eq!(driver.queues[TX].request(&[outgoing(&out)]), []);
    assert_eq!(peer.receive(), out);
    post_buffers(&mut driver, 4);
    for len in [14, 60, 1514] {
        let inwards = frame(MAC, len, len);
        peer.send(&inwards);
        assert_eq!(received(&mut driver), inwards);
    }
    assert_eq!(counter(&driver, |c| c.received_bytes), 14 + 60 + 1514);
    assert_eq!(counter(&driver, |c| c.sent_frames), 1);
}

#[test]
fn a_frame_may_lie_in_any_pieces() {
    let (mut driver, mut peer) = driver();
    let out = frame(OTHER, 3, 500);
    let pieces =
        [&[0; 5][..], &[0; 10][..3], &[&[0; 4], &out[..1]].concat(), &out[1..3], &out[3..]];
    let parts: Vec<_> = pieces.iter().map(|piece| Part::Out(piece.to_vec())).collect();
    driver.queues[TX].request(&parts);
    assert_eq!(peer.receive(), out);
    driver.queues[RX].post(&[Part::In(1), Part::In(10), Part::In(4), Part::In(600)]);
    driver.queues[RX].kick();
    peer.send(&out);
    assert_eq!(received(&mut driver), out);
}

#[test]
fn a_long_frame_fills_as_many_buffers_as_it_needs() {
    let (mut driver, mut peer) = driver();
    post_buffers(&mut driver, 60);
    for len in [9000, 64, header::MAX_FRAME] {
        let long = frame(MAC, len, len);
        peer.send(&long);
        assert!(received(&mut driver) == long, "{len}");
    }
}

#[test]
fn a_frame_that_does_not_fit_yet_waits_for_more_room() {
    let (mut driver, mut peer) = driver();
    post_buffers(&mut driver, 2);
    let long = frame(MAC, 5, 9000);
    peer.send(&long);
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(20));
        assert!(driver.queues[RX].poll_used().is_none());
        post_buffers(&mut driver, 1);
    }
    post_buffers(&mut driver, 4);
    assert!(received(&mut driver) == long);
}

#[test]
fn without_mergeable_buffers_a_frame_that_does_not_fit_is_dropped() {
    let (mut driver, mut peer) = driver_of(options(), !features::MRG_RXBUF);
    post_buffers(&mut driver, 2);
    peer.send(&frame(MAC, 1, 1515));
    let fits = frame(MAC, 2, 1514);
    peer.send(&fits);
    assert_eq!(received(&mut driver), fits);
    assert_eq!(counter(&driver, |c| c.receive_dropped), 1);
}

#[test]
fn the_filter_does_what_commands_say() {
    let (mut driver, mut peer) = driver();
    let group = [0x33, 0x33, 0, 0, 0, 5];
    post_buffers(&mut driver, 60);
    // Each step: a command, and whether frames to another station and to a group then pass.
    let table = [&[1, 0, 0, 0], &OTHER[..], &[1, 0, 0, 0], &group].concat();
    let steps: [(u8, u8, &[u8], bool, bool); 6] = [
        (0, 0, &[0], false, false),
        (0, 1, &[1], false, true),
        (0, 1, &[0], false, false),
        (1, 0, &table, true, true),
        (1, 0, &[0; 8], false, false),
        (0, 0, &[1], true, true),
    ];
    for (class, number, data, other, multicast) in steps {
        assert_eq!(command(&mut driver, class, number, data), 0);
        peer.send(&frame(OTHER, 1, 60));
        peer.send(&frame(group, 2, 60));
        peer.send(&frame(MAC, 3, 60));
        for (to, passes) in [(OTHER, other), (group, multicast), (MAC, true)] {
            if passes {
                assert_eq!(received(&mut driver)[..6], to, "{class} {number} {data:?}");
            }
        }
    }
    assert!(driver.queues[RX].poll_used().is_none());
}

#[test]
fn the_address_can_be_changed() {
    let (mut driver, mut peer) = driver();
    post_buffers(&mut driver, 2);
    assert_eq!(command(&mut driver, 1, 1, &OTHER), 0);
    assert_eq!(command(&mut driver, 1, 1, &[1, 0, 0, 0, 0, 1]), 1, "a group's");
    assert_eq!(command(&mut driver, 0, 0, &[0]), 0);
    let mut mac = [0; 6];
    driver.device.read_config(0, &mut mac);
    assert_eq!(mac, OTHER);
    peer.send(&frame(MAC, 1, 60));
    peer.send(&frame(OTHER, 2, 60));
    assert_eq!(received(&mut driver)[..6], OTHER);
}

#[test]
fn vlans_are_filtered_once_negotiated() {
    let (mut driver, mut peer) = driver();
    post_buffers(&mut driver, 4);
    assert_eq!(command(&mut driver, 0, 0, &[0]), 0);
    assert_eq!(command(&mut driver, 2, 0, &7u16.to_le_bytes()), 0);
    assert_eq!(command(&mut driver, 2, 0, &4096u16.to_le_bytes()), 1);
    let tagged = |id: u8| [&MAC[..], &OTHER, &[0x81, 0, 0, id, 8, 0], &[id; 50]].concat();
    peer.send(&tagged(8));
    peer.send(&tagged(7));
    assert_eq!(received(&mut driver), tagged(7));
}

#[test]
fn commands_that_are_malformed_or_not_negotiated_are_refused() {
    let (mut driver, _peer) = driver();
    let huge = u32::MAX.to_le_bytes();
    let commands: [(u8, u8, &[u8]); 11] = [
        (0, 6, &[1]),
        (9, 0, &[1]),
        (1, 0, &[1, 0, 0, 0, 1]),
        (1, 0, &huge),
        (1, 0, &[0, 0, 0, 0, 1]),
        (1, 1, &[2, 0, 0]),
        (2, 0, &[1]),
        (4, 0, &[1, 0]),
        (5, 0, &[0; 8]),
        (4, 1, &[0; 2]),
        (255, 255, &[255; 64]),
    ];
    for (class, number, data) in commands {
        assert_eq!(command(&mut driver, class, number, data), 1, "{class} {number} {data:?}");
    }
    let refused = driver.queues[CONTROL].request(&[Part::Out(vec![0]), Part::In(1)]);
    assert_eq!(refused, [1]);
    let mut table = 100u32.to_le_bytes().to_vec();
    table.extend([2; 600]);
    table.extend([0; 4]);
    assert_eq!(command(&mut driver, 1, 0, &table), 0, "more than the table holds");
    assert!(driver.device.shared.settings().filter.unicast.overflown);
}

#[test]
fn hostile_frames_are_dropped_and_counted() {
    let (mut driver, mut peer) = driver();
    let longest = header::LEN + header::MAX_FRAME;
    for len in [1, 11, 12, 25, longest + 1, 1 << 20] {
        assert_eq!(driver.queues[TX].request(&[Part::Out(vec![1; len])]), []);
    }
    driver.queues[TX].request(&[Part::In(100)]);
    assert_eq!(counter(&driver, |c| c.malformed), 7);
    let good = frame(OTHER, 1, header::MAX_FRAME);
    driver.queues[TX].post(&[outgoing(&good)]);
    driver.queues[TX].kick();
    assert!(peer.receive() == good);
    assert!(!driver.signals.needs_reset());
}

#[test]
fn hostile_rings_break_the_device_and_nothing_else() {
    let breakers: [fn(&mut Driver<Net>); 7] = [
        |driver| driver.queues[RX].set_avail_index(1000),
        |driver| driver.queues[TX].set_avail_index(1000),
        |driver| driver.queues[CONTROL].set_avail_index(1000),
        |driver| _ = driver.queues[RX].post(&[Part::Out(vec![0; 64])]),
        |driver| _ = driver.queues[RX].post(&[Part::In(11)]),
        |driver| _ = driver.queues[CONTROL].post(&[Part::Out(vec![0, 0, 1])]),
        |driver| {
            let outside = RawDescriptor { address: u64::MAX - 4, len: 64, flags: 0, next: 0 };
            driver.queues[TX].write_descriptor(9, outside);
            driver.queues[TX].make_available(9);
        },
    ];
    for break_it in breakers {
        let (mut driver, _peer) = driver();
        break_it(&mut driver);
        driver.queues.iter().for_each(|queue| queue.kick());
        driver.signals.wait_for_reset_request();
        assert_eq!(driver.device.quiesce().len(), 3);
    }
}

#[test]
fn rings_of_noise_do_no_harm() {
    let mut seed = 1u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        seed >> 33
    };
    for _ in 0..60 {
        let (mut driver, mut peer) = driver();
        for queue in &mut driver.queues {
            for index in 0..64 {
                let bits = random();
                queue.write_descriptor(
                    index,
                    RawDescriptor {
                        address: random() % (40 << 20),
                        len: (random() % 3000) as u32,
                        flags: (bits & 7) as u16 & if bits & 0x30 == 0 { 7 } else { 3 },
                        next: (random() % 65) as u16,
                    },
                );
            }
            for _ in 0..random() % 64 {
                queue.make_available((random() % 64) as u16);
            }
            queue.kick();
        }
        let _ = peer.0.set_nonblocking(true);
        for _ in 0..3 {
            let noise = frame([0xff; 6], 1, 60 + (random() % 1000) as usize);
            let _ = peer.0.write(&[&(noise.len() as u32).to_be_bytes()[..], &noise].concat());
        }
        assert_eq!(driver.device.quiesce().len(), 3);
    }
}

#[test]
fn a_full_socket_holds_frames_back_and_loses_none() {
    let (mut driver, mut peer) = driver();
    let frames: Vec<_> = (0..60).map(|i| frame(OTHER, i, 20_000)).collect();
    for frame in &frames {
        driver.queues[TX].post(&[outgoing(frame)]);
    }
    driver.queues[TX].kick();
    std::thread::sleep(Duration::from_millis(50));
    assert!(counter(&driver, |c| c.sent_frames) < 60, "the socket should have been full");
    for frame in &frames {
        assert!(peer.receive() == *frame);
    }
    for _ in 0..60 {
        driver.queues[TX].wait_used();
    }
}
