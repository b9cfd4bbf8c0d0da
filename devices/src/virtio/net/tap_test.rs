//! The network device on taps of the host's kernel, each test in a network namespace of its own. Needs
//! the right to make one; says so and passes without.
#![allow(unsafe_code)] // Namespaces and packet sockets.
#![allow(clippy::cast_possible_truncation)] // Constants, and bytes of a pattern.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::time::{Duration, Instant};

use super::super::{Link, Net, Options, features, header};
use super::*;
use crate::virtio::VirtioDevice;
use crate::virtio::test_driver::{Driver, Part, wait};

const MAC: [u8; 6] = [0x02, 0xca, 0x4e, 0, 0, 1];
const OTHER: [u8; 6] = [0x02, 0xca, 0x4e, 0, 0, 2];
/// Local experimental Ethertype 1 (IEEE 802): the kernel sends none of its own.
const TYPE: [u8; 2] = [0x88, 0xb5];
const BUFFER: usize = header::LEN + 1514;

/// Runs `test` on a thread that is alone in a network namespace.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let body = move || {
        // SAFETY: concerns this thread only.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            eprintln!("skipped: no network namespace: {}", io::Error::last_os_error());
        } else if let Err(error) = OpenOptions::new().read(true).open("/dev/net/tun") {
            eprintln!("skipped: /dev/net/tun: {error}");
        } else {
            let _ = std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
            let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
            test();
        }
    };
    std::thread::spawn(body).join().unwrap();
}

fn open() -> File {
    OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap()
}

/// A tap of `pairs` queues that is up, and a packet socket on it.
fn tap(pairs: usize, mtu: u16) -> (Arc<Tap>, File) {
    let files: Vec<_> = (0..pairs).map(|_| open()).collect();
    for file in &files {
        assert_eq!(attach(file, "tap0", pairs > 1).unwrap(), "tap0");
    }
    let tap = Arc::new(Tap::new(files).unwrap());
    bring_up("tap0", mtu);
    (tap, packet_socket("tap0"))
}

fn bring_up(name: &str, mtu: u16) {
    // SAFETY: makes a descriptor.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0) };
    // SAFETY: a descriptor of ours.
    let socket = unsafe { File::from_raw_fd(socket) };
    let mut request = InterfaceRequest::default();
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    request.flags = mtu;
    interface_ioctl(&socket, libc::SIOCSIFMTU as c_ulong, &mut request).unwrap();
    request.flags = flags(libc::IFF_UP);
    interface_ioctl(&socket, libc::SIOCSIFFLAGS as c_ulong, &mut request).unwrap();
}

fn packet_socket(name: &str) -> File {
    let protocol = u16::from_ne_bytes(TYPE);
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: makes a descriptor.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, protocol.into()) };
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    let name = std::ffi::CString::new(name).unwrap();
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        // SAFETY: a string with its end.
        sll_ifindex: unsafe { libc::if_nametoindex(name.as_ptr()) } as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let len = size_of::<libc::sockaddr_ll>() as u32;
    // SAFETY: reads the address.
    assert_eq!(unsafe { libc::bind(fd, (&raw const address).cast(), len) }, 0);
    let timeout = libc::timeval { tv_sec: 10, tv_usec: 0 };
    let len = size_of::<libc::timeval>() as u32;
    let option = libc::SO_RCVTIMEO;
    // SAFETY: reads the time.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, (&raw const timeout).cast(), len) };
    // SAFETY: a descriptor of ours.
    unsafe { File::from_raw_fd(fd) }
}

fn device(tap: &Arc<Tap>) -> Net {
    let options = Options {
        name: "net0".to_owned(),
        mac: MAC,
        mtu: None,
        queue_size: 256,
        link: Link::new(true),
        receive_limit: None,
        send_limit: None,
    };
    Net::new(Arc::clone(tap) as Arc<dyn Backend>, options)
}

fn frame(to: [u8; 6], seed: usize, len: usize) -> Vec<u8> {
    let mut frame = [&to[..], &OTHER, &TYPE].concat();
    frame.extend((frame.len()..len).map(|i| ((i + seed * 7) % 251) as u8));
    frame
}

fn outgoing(frame: &[u8]) -> Part {
    Part::Out([&[0; header::LEN], frame].concat())
}

fn post_buffers(driver: &mut Driver<Net>, queue: usize, count: usize) {
    for _ in 0..count {
        driver.queues[queue].post(&[Part::In(BUFFER)]);
    }
    driver.queues[queue].kick();
}

/// The next frame received by queue `queue`, its header taken off.
#[track_caller]
fn received(driver: &mut Driver<Net>, queue: usize) -> Vec<u8> {
    let (_, mut bytes) = driver.queues[queue].wait_used();
    for _ in 1..u16::from_le_bytes([bytes[10], bytes[11]]) {
        bytes.extend(driver.queues[queue].wait_used().1);
    }
    bytes.split_off(header::LEN)
}

fn read(socket: &mut File) -> Vec<u8> {
    let mut frame = vec![0; 70_000];
    let len = socket.read(&mut frame).unwrap();
    frame.truncate(len);
    frame
}

#[test]
fn frames_pass_between_driver_and_interface() {
    in_namespace(|| {
        let (tap, mut socket) = tap(1, 1500);
        let mut driver = Driver::new(device(&tap), u64::MAX);
        post_buffers(&mut driver, 0, 8);
        for i in 0..8 {
            let out = frame(OTHER, i, 60 + i * 200);
            driver.queues[1].request(&[outgoing(&out)]);
            assert_eq!(read(&mut socket), out);
            let inwards = frame(MAC, i, 60 + i * 200);
            socket.write_all(&inwards).unwrap();
            assert_eq!(received(&mut driver, 0), inwards);
        }
    });
}

#[test]
fn a_jumbo_frame_fills_several_buffers() {
    in_namespace(|| {
        let (tap, mut socket) = tap(1, 9000);
        let mut driver = Driver::new(device(&tap), u64::MAX);
        post_buffers(&mut driver, 0, 3);
        for round in 0..3 {
            let long = frame(MAC, round, 9000);
            socket.write_all(&long).unwrap();
            // Room for it comes late at first.
            post_buffers(&mut driver, 0, 10);
            assert!(received(&mut driver, 0) == long);
        }
        let long = frame(OTHER, 1, 9000);
        driver.queues[1].request(&[outgoing(&long)]);
        assert!(read(&mut socket) == long);
    });
}

#[test]
fn frames_of_the_wrong_kind_are_dropped_by_the_kernel_and_counted() {
    in_namespace(|| {
        let (tap, mut socket) = tap(1, 1500);
        let mut driver = Driver::new(device(&tap), u64::MAX);
        // Segmentation of nothing, of an unknown kind, and a checksum past the end.
        let headers: [[u8; header::LEN]; 3] = [
            [1, 1, 54, 0, 0, 0, 14, 0, 16, 0, 0, 0],
            [0, 77, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
            [1, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 0],
        ];
        for header in headers {
            let hostile = [&header[..], &frame(OTHER, 1, 60)].concat();
            driver.queues[1].request(&[Part::Out(hostile)]);
        }
        driver.queues[1].request(&[outgoing(&frame(OTHER, 2, 60))]);
        assert_eq!(read(&mut socket), frame(OTHER, 2, 60));
        let counters = driver.device.shared.link.counters();
        assert_eq!(counters.pair(0).send_dropped, 3);
    });
}

#[test]
fn pairs_of_queues_are_used_when_the_driver_says_so() {
    in_namespace(|| {
        let (tap, mut socket) = tap(4, 1500);
        let attached = |tap: &Tap| -> Vec<bool> {
            tap.queues.iter().map(|queue| queue.attached.load(Ordering::Acquire)).collect()
        };
        let mut driver = Driver::new(device(&tap), u64::MAX);
        assert_eq!(driver.queues.len(), 9);
        assert_eq!(attached(&tap), [true, false, false, false]);
        let pairs = |driver: &mut Driver<Net>, count: u16| {
            let data = [&[4, 0], &count.to_le_bytes()[..]].concat();
            driver.queues[8].request(&[Part::Out(data), Part::In(1)])[0]
        };
        assert_eq!((pairs(&mut driver, 0), pairs(&mut driver, 5)), (1, 1));
        assert_eq!(pairs(&mut driver, 3), 0);
        assert_eq!(attached(&tap), [true, true, true, false]);
        (0..3).for_each(|pair| post_buffers(&mut driver, 2 * pair, 60));
        for pair in 0..3 {
            let out = frame(OTHER, pair, 60);
            driver.queues[2 * pair + 1].request(&[outgoing(&out)]);
            assert_eq!(read(&mut socket), out);
        }
        for i in 0..50 {
            socket.write_all(&frame(MAC, i, 60)).unwrap();
        }
        let mut count = 0;
        wait("every frame on some queue", || {
            let queues = driver.queues[..6].iter_mut().step_by(2);
            count += queues.filter_map(|queue| queue.poll_used()).count();
            count == 50
        });
        driver.save_and_restore(device(&tap));
        assert_eq!(attached(&tap), [true, true, true, false], "restored");
        driver.device.quiesce();
        driver.device.reset();
        assert_eq!(attached(&tap), [true, false, false, false], "reset");
    });
}

#[test]
fn headers_of_noise_harm_no_other_frame() {
    in_namespace(|| {
        let (tap, _) = tap(1, 1500);
        let mut driver = Driver::new(device(&tap), u64::MAX);
        let mut seed = 3u64;
        for round in 0..2000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let mut header = [0; header::LEN];
            header[..8].copy_from_slice(&seed.rotate_left(21).to_le_bytes());
            header[8..].copy_from_slice(&seed.to_be_bytes()[..4]);
            // Most often near what might pass: known kinds and small numbers.
            if round % 4 != 0 {
                header[0] &= 7;
                header[1] &= 0x87;
                header.iter_mut().skip(3).step_by(2).for_each(|byte| *byte &= 1);
            }
            // IPv4 and TCP, cut off anywhere; or no protocol at all.
            let mut bytes = frame(OTHER, round, 14 + round % 1500);
            if round % 2 == 0 && bytes.len() > 24 {
                bytes[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
                bytes[23] = 6;
            }
            driver.queues[1].request(&[Part::Out([&header[..], &bytes].concat())]);
        }
        let mut socket = packet_socket("tap0");
        driver.queues[1].request(&[outgoing(&frame(OTHER, 2, 60))]);
        assert_eq!(read(&mut socket), frame(OTHER, 2, 60));
        let counters = driver.device.shared.link.counters();
        let dropped = counters.pair(0).send_dropped;
        assert!(dropped > 500 && dropped < 2000, "{dropped} refused");
    });
}

#[test]
fn pairs_come_and_go_while_frames_pass() {
    in_namespace(|| {
        let (tap, mut socket) = tap(4, 1500);
        let mut driver = Driver::new(device(&tap), u64::MAX);
        (0..4).for_each(|pair| post_buffers(&mut driver, 2 * pair, 60));
        let receive = |driver: &mut Driver<Net>| {
            let mut count = 0;
            for pair in 0..4 {
                while driver.queues[2 * pair].poll_used().is_some() {
                    post_buffers(driver, 2 * pair, 1);
                    count += 1;
                }
            }
            count
        };
        for round in 0..32u16 {
            let data = [&[4, 0], &(1 + round * 7 % 4).to_le_bytes()[..]].concat();
            driver.queues[8].post(&[Part::Out(data), Part::In(1)]);
            driver.queues[8].kick();
            for pair in 0..4 {
                // Those out of use too.
                driver.queues[2 * pair + 1].request(&[outgoing(&frame(OTHER, pair, 60))]);
                socket.write_all(&frame(MAC, pair, 60)).unwrap();
            }
            assert_eq!(driver.queues[8].wait_used().1, [0]);
            receive(&mut driver);
        }
        // What was in the queue of a pair that went is lost; nothing is from now on.
        std::thread::sleep(Duration::from_millis(20));
        receive(&mut driver);
        (0..50).for_each(|i| socket.write_all(&frame(MAC, i, 60)).unwrap());
        let mut count = 0;
        wait("every frame", || {
            count += receive(&mut driver);
            count == 50
        });
    });
}

#[test]
fn a_driver_that_knows_one_pair_finds_its_control_queue() {
    in_namespace(|| {
        let (tap, _socket) = tap(2, 1500);
        let mut driver = Driver::new(device(&tap), !features::MQ);
        assert_eq!(driver.queues[2].request(&[Part::Out(vec![0, 0, 1]), Part::In(1)]), [0]);
        assert_eq!(driver.device.quiesce().len(), 5, "queues it should not have enabled");
    });
}

#[test]
fn offloads_are_switched_by_the_driver() {
    in_namespace(|| {
        let (tap, _socket) = tap(1, 1500);
        let mut driver = Driver::new(device(&tap), u64::MAX);
        let mut set = |offloads: u64| {
            let data = [&[5, 0], &offloads.to_le_bytes()[..]].concat();
            driver.queues[2].request(&[Part::Out(data), Part::In(1)])[0]
        };
        for good in [0, GUEST_CSUM, GUEST_TSO4, GUEST_ECN, features::GUEST_OFFLOADS] {
            assert_eq!(set(good), 0, "{good:#x}");
        }
        assert_eq!(set(1), 1);
        assert_eq!(set(1 << 63), 1);
    });
}

#[test]
fn a_driver_cannot_change_the_interface_all_the_time() {
    in_namespace(|| {
        let (tap, mut socket) = tap(2, 1500);
        let mut driver = Driver::new(device(&tap), u64::MAX);
        let start = Instant::now();
        for round in 0..46u16 {
            let data = [&[4, 0], &(round % 2 + 1).to_le_bytes()[..]].concat();
            assert_eq!(driver.queues[4].request(&[Part::Out(data), Part::In(1)]), [0]);
        }
        // The first changes nothing, 40 go at once, and the others every 50 ms.
        assert!(start.elapsed() > Duration::from_millis(240), "{:?}", start.elapsed());
        driver.queues[1].request(&[outgoing(&frame(OTHER, 2, 60))]);
        assert_eq!(read(&mut socket), frame(OTHER, 2, 60));
    });
}

#[test]
fn frames_in_flight_survive_pause_and_restore() {
    in_namespace(|| {
        let (tap, mut socket) = tap(1, 9000);
        let mut driver = Driver::new(device(&tap), u64::MAX);
        post_buffers(&mut driver, 0, 40);
        for round in 0..12 {
            let (out, inwards) = (frame(OTHER, round, 500), frame(MAC, round, 5000));
            driver.queues[1].post(&[outgoing(&out)]);
            socket.write_all(&inwards).unwrap();
            if round % 2 == 0 {
                driver.queues[1].kick();
                std::thread::sleep(Duration::from_millis(2));
            }
            if round % 3 == 0 {
                driver.save_and_restore(device(&tap));
            } else {
                driver.pause_and_resume();
            }
            post_buffers(&mut driver, 0, 4);
            assert!(received(&mut driver, 0) == inwards, "round {round}");
            assert_eq!(read(&mut socket), out);
        }
    });
}

#[test]
fn an_interface_that_is_down_swallows_frames_and_comes_back() {
    in_namespace(|| {
        let file = open();
        attach(&file, "tap0", false).unwrap();
        let tap = Arc::new(Tap::new(vec![file]).unwrap());
        let mut driver = Driver::new(device(&tap), u64::MAX);
        post_buffers(&mut driver, 0, 4);
        driver.queues[1].request(&[outgoing(&frame(OTHER, 1, 60))]);
        bring_up("tap0", 1500);
        let mut socket = packet_socket("tap0");
        driver.queues[1].request(&[outgoing(&frame(OTHER, 2, 60))]);
        assert_eq!(read(&mut socket), frame(OTHER, 2, 60));
        socket.write_all(&frame(MAC, 3, 60)).unwrap();
        assert_eq!(received(&mut driver, 0), frame(MAC, 3, 60));
    });
}

#[test]
fn an_attached_file_tells_what_it_is() {
    in_namespace(|| {
        let file = open();
        assert!(info(&file).is_err());
        assert!(
            attach(&file, "", false).is_err() && attach(&file, &"x".repeat(16), false).is_err()
        );
        assert_eq!(attach(&file, "cable%d", true).unwrap(), "cable0");
        let name = "cable0".to_owned();
        let expected = TapInfo { name, is_tap: true, has_vnet_header: true, multi_queue: true };
        assert_eq!(info(&file).unwrap(), expected);
        let mismatch = attach(&open(), "cable0", false).unwrap_err();
        assert_eq!(mismatch.kind(), io::ErrorKind::InvalidInput);
    });
}

#[test]
fn the_kernel_is_asked_for_combinations_it_takes() {
    assert_eq!(tun_offloads(GUEST_TSO4 | GUEST_UFO), 0);
    assert_eq!(tun_offloads(GUEST_CSUM | GUEST_ECN), libc::TUN_F_CSUM);
    assert_eq!(tun_offloads(features::GUEST_OFFLOADS), 0x1f);
}
