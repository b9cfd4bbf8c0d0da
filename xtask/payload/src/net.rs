//! Network workloads against the host's own kernel: frames it drops (`tx`), and pings it answers (`echo`), a fixed number
//! of which is under way.

use crate::mmio::{Device, EVENT_IDX, VERSION_1};
use crate::queue::{Buffer, Queue};
use crate::{Outcome, io, report};

const ID: u32 = 1;
const CSUM: u64 = 1 << 0;
const HOST_TSO4: u64 = 1 << 11;
const MRG_RXBUF: u64 = 1 << 15;

const QUEUE_SIZE: u16 = 256;
const RX: u16 = 0;
const TX: u16 = 1;
/// Most frames under way.
const MOST: usize = 64;

const RINGS: usize = 0x400_0000;
const RX_DATA: usize = 0x410_0000;
const RX_EACH: usize = 2048;
const TX_DATA: usize = 0x420_0000;
const TX_EACH: usize = 0x2_0000;
const END: usize = TX_DATA + MOST * TX_EACH;

/// `virtio_net_hdr_v1`.
const HEADER: usize = 12;
/// A frame longer than this one is left to the host to be cut into such.
const LONGEST: usize = 1514;
/// Most bytes of a frame in one buffer.
const PIECE: usize = 4096;
/// Ethernet, IPv4 and the first byte of ICMP.
const ECHO_TYPE: usize = 34;

/// The host's interface, nobody, and this guest. `xtask bench net` gives the host's interface these addresses.
const HOST: [u8; 6] = [2, 0, 0, 0, 0, 1];
const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 2];
const NOBODY: [u8; 6] = [2, 0, 0, 0, 0, 3];
const HOST_IP: [u8; 4] = [198, 18, 77, 1];
const GUEST_IP: [u8; 4] = [198, 18, 77, 2];

const ICMP: u8 = 1;
const TCP: u8 = 6;

/// After so many cycles without an answer, some 20 ms, pings are taken as lost.
const LOST: u64 = 50_000_000;
/// The host takes a while to notice that somebody is at the other end of the cable.
const MOST_LOST: usize = 200;

/// How frames look.
struct Shape {
    echo: bool,
    bytes: usize,
    depth: usize,
}

/// Workloads by their names: what, bytes of a frame and depth.
fn shape(name: &str) -> Option<Shape> {
    let mut words = name.split('-');
    let (what, bytes, depth) = (words.next()?, words.next()?, words.next()?);
    let echo = match what {
        "tx" => false,
        "echo" => true,
        _ => return None,
    };
    let longest = if echo { LONGEST } else { 65_000 };
    let bytes = bytes.parse().ok().filter(|bytes| (60..=longest).contains(bytes))?;
    let depth = depth.parse().ok().filter(|depth| (1..=MOST).contains(depth))?;
    Some(Shape { echo, bytes, depth })
}

/// Runs the workloads `names` for `cycles` each.
pub fn run<'a>(names: impl Iterator<Item = &'a str>, cycles: u64) -> Result<(), &'static str> {
    // Memory that was touched costs nothing later.
    for page in (RINGS..END).step_by(4096) {
        // SAFETY: RAM that nothing else uses.
        unsafe { (page as *mut u64).write_volatile(0) };
    }
    let device = Device::find(ID)?;
    for name in names {
        let shape = shape(name).ok_or("an unknown workload")?;
        let features = device.negotiate(VERSION_1 | EVENT_IDX | MRG_RXBUF | CSUM | HOST_TSO4)?;
        if features & MRG_RXBUF == 0 || shape.bytes > LONGEST && features & HOST_TSO4 == 0 {
            return Err("the device lacks a feature");
        }
        let rx = device.queue(RX, QUEUE_SIZE, RINGS, features)?;
        let tx = device.queue(TX, QUEUE_SIZE, RINGS + 0x4000, features)?;
        device.start();
        let chain = 1 + (shape.bytes / PIECE) as u16;
        let mut link = Link { rx, tx, shape, chain, idle: 0 };
        link.set_up();
        // Warms caches, and the threads of the monitor.
        link.work(cycles / 8)?;
        report(name, || link.work(cycles))?;
    }
    Ok(())
}

struct Link {
    rx: Queue,
    tx: Queue,
    shape: Shape,
    /// Descriptors of a frame.
    chain: u16,
    /// A bit for each frame that is not under way to the host.
    idle: u64,
}

impl Link {
    fn set_up(&mut self) {
        for slot in 0..QUEUE_SIZE {
            let address = RX_DATA + usize::from(slot) * RX_EACH;
            self.rx.describe(slot, &[Buffer { address, len: RX_EACH as u32, device_writes: true }]);
            self.rx.offer(slot);
        }
        self.rx.kick();
        for slot in 0..self.slots() {
            let start = TX_DATA + slot * TX_EACH;
            self.write_frame(start);
            // The first buffer holds the device's header too.
            let end = start + HEADER + self.shape.bytes;
            let mut buffers =
                [Buffer { address: 0, len: 0, device_writes: false }; 1 + 65_536 / PIECE];
            for (index, buffer) in buffers[..usize::from(self.chain)].iter_mut().enumerate() {
                let address = start + index * PIECE;
                let last = index + 1 == usize::from(self.chain);
                let len = if last { end - address } else { PIECE } as u32;
                *buffer = Buffer { address, len, device_writes: false };
            }
            self.tx.describe(slot as u16 * self.chain, &buffers[..usize::from(self.chain)]);
            self.idle |= 1 << slot;
        }
    }

    fn slots(&self) -> usize {
        self.shape.depth.min(usize::from(QUEUE_SIZE / self.chain))
    }

    fn write_frame(&self, start: usize) {
        // SAFETY: RAM of this slot's, which no device has.
        let all =
            unsafe { core::slice::from_raw_parts_mut(start as *mut u8, HEADER + self.shape.bytes) };
        all.fill(0);
        let (header, frame) = all.split_at_mut(HEADER);
        let (protocol, to) = if self.shape.echo { (ICMP, HOST) } else { (TCP, NOBODY) };
        frame[..6].copy_from_slice(&to);
        frame[6..12].copy_from_slice(&GUEST);
        frame[12..14].copy_from_slice(&0x0800u16.to_be_bytes());
        let packet = &mut frame[14..];
        let len = packet.len() as u16;
        packet[..2].copy_from_slice(&[0x45, 0]);
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet[8..10].copy_from_slice(&[64, protocol]);
        packet[12..16].copy_from_slice(&GUEST_IP);
        packet[16..20].copy_from_slice(&HOST_IP);
        let sum = checksum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        let content = &mut packet[20..];
        if self.shape.echo {
            content[0] = 8;
            let sum = checksum(content);
            content[2..4].copy_from_slice(&sum.to_be_bytes());
        } else {
            // 20 bytes of TCP header, an acknowledgement.
            content[12..14].copy_from_slice(&[0x50, 0x10]);
        }
        if self.shape.bytes > LONGEST {
            // Flags, TCPv4, length of headers, of segments, start and place of the checksum.
            header[..2].copy_from_slice(&[1, 1]);
            for (at, value) in [(2, 54u16), (4, 1460), (6, 34), (8, 16)] {
                header[at..at + 2].copy_from_slice(&value.to_le_bytes());
            }
        }
    }

    /// Keeps frames under way for `cycles` and then waits for the last ones.
    fn work(&mut self, cycles: u64) -> Result<Outcome, &'static str> {
        let start = io::now();
        let (mut operations, mut last, mut lost) = (0, start, 0);
        let mut under_way = self.send(self.slots());
        let ended = loop {
            let done = if self.shape.echo {
                self.reclaim();
                self.answered()
            } else {
                self.reclaim()
            };
            let now = io::now();
            if done > 0 {
                under_way -= done.min(under_way);
                operations += done as u64;
                last = now;
            } else if now - last > LOST {
                lost += 1;
                if operations == 0 && lost > MOST_LOST {
                    return Err("nothing comes back");
                }
                (under_way, last) = (0, now);
            } else {
                core::hint::spin_loop();
            }
            if now - start >= cycles && operations > 0 {
                break now - start;
            }
            under_way += self.send(self.slots() - under_way);
        };
        last = io::now();
        while self.idle.count_ones() as usize != self.slots() || under_way > 0 && self.shape.echo {
            self.reclaim();
            under_way -= self.answered().min(under_way);
            if io::now() - last > LOST {
                break;
            }
        }
        Ok(Outcome { operations, cycles: ended })
    }

    /// Sends `count` frames, or as many as are idle; how many.
    fn send(&mut self, count: usize) -> usize {
        let mut sent = 0;
        while sent < count && self.idle != 0 {
            let slot = self.idle.trailing_zeros();
            self.idle &= self.idle - 1;
            self.tx.offer(slot as u16 * self.chain);
            sent += 1;
        }
        if sent > 0 {
            self.tx.kick();
        }
        sent
    }

    /// Takes back the frames that the device has sent.
    fn reclaim(&mut self) -> usize {
        let mut count = 0;
        while let Some((head, _)) = self.tx.take() {
            self.idle |= 1 << (head / self.chain);
            count += 1;
        }
        count
    }

    /// Takes the answers there are and offers their buffers anew.
    fn answered(&mut self) -> usize {
        let (mut count, mut some) = (0, false);
        while let Some((head, _)) = self.rx.take() {
            let frame = RX_DATA + usize::from(head) * RX_EACH + HEADER;
            // SAFETY: RAM; the device is through with it. Type 0 is the answer to a ping.
            let protocol = unsafe { ((frame + 23) as *const u8).read_volatile() };
            // SAFETY: as above.
            let kind = unsafe { ((frame + ECHO_TYPE) as *const u8).read_volatile() };
            if protocol == ICMP && kind == 0 {
                count += 1;
            }
            self.rx.offer(head);
            some = true;
        }
        if some {
            self.rx.kick();
        }
        count
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
