//! Disk workloads: a fixed number of requests in flight, each offered anew as soon as it ends.

use crate::mmio::{Device, EVENT_IDX, VERSION_1};
use crate::queue::{Buffer, Queue};
use crate::{Outcome, io, report};

const ID: u32 = 2;
const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const SECTOR: u64 = 512;
const QUEUE_SIZE: u16 = 128;
/// Most requests in flight.
const MOST: usize = 32;

/// Rings, then headers and status bytes, then data.
const RINGS: usize = 0x400_0000;
const HEADERS: usize = RINGS + 0x1_0000;
const DATA: usize = 0x420_0000;
const DATA_EACH: usize = 1 << 20;

/// How requests look.
struct Shape {
    write: bool,
    bytes: u64,
    depth: usize,
    random: bool,
}

/// Workloads by their names: what, bytes and depth.
fn shape(name: &str) -> Option<Shape> {
    let mut words = name.split('-');
    let (what, bytes, depth) = (words.next()?, words.next()?, words.next()?);
    let (write, random) = match what {
        "randread" => (false, true),
        "randwrite" => (true, true),
        "read" => (false, false),
        "write" => (true, false),
        _ => return None,
    };
    let kib: u64 = bytes.strip_suffix('k')?.parse().ok()?;
    let depth = depth.parse().ok().filter(|depth| (1..=MOST).contains(depth))?;
    let bytes = kib << 10;
    (bytes as usize <= DATA_EACH && bytes > 0).then_some(Shape { write, bytes, depth, random })
}

/// Runs the workloads `names` for `cycles` each.
pub fn run<'a>(names: impl Iterator<Item = &'a str>, cycles: u64) -> Result<(), &'static str> {
    // Memory that was touched costs nothing later.
    for page in (RINGS..DATA + MOST * DATA_EACH).step_by(4096) {
        // SAFETY: RAM that nothing else uses.
        unsafe { (page as *mut u64).write_volatile(page as u64) };
    }
    let device = Device::find(ID)?;
    for name in names {
        let shape = shape(name).ok_or("an unknown workload")?;
        let features = device.negotiate(VERSION_1 | EVENT_IDX)?;
        let queue = device.queue(0, QUEUE_SIZE, RINGS, features)?;
        device.start();
        let blocks = device.config_u64(0) * SECTOR / shape.bytes;
        let mut disk = Disk { queue, shape, blocks, next: 0, random: 0x9e37_79b9_7f4a_7c15 };
        disk.set_up();
        // Warms caches, and the threads of the monitor.
        disk.work(cycles / 8)?;
        report(name, || disk.work(cycles))?;
    }
    Ok(())
}

struct Disk {
    queue: Queue,
    shape: Shape,
    /// Of this size on the disk.
    blocks: u64,
    next: u64,
    random: u64,
}

impl Disk {
    fn set_up(&mut self) {
        for slot in 0..self.shape.depth {
            let kind = if self.shape.write { T_OUT } else { T_IN };
            // SAFETY: RAM that nothing else uses.
            unsafe { (header(slot) as *mut [u32; 2]).write_volatile([kind, 0]) };
            let data = DATA + slot * DATA_EACH;
            let buffers = [
                Buffer { address: header(slot), len: 16, device_writes: false },
                Buffer {
                    address: data,
                    len: self.shape.bytes as u32,
                    device_writes: !self.shape.write,
                },
                Buffer { address: status(slot), len: 1, device_writes: true },
            ];
            self.queue.describe(3 * slot as u16, &buffers);
        }
    }

    /// Keeps requests in flight for `cycles` and then waits for the last ones.
    fn work(&mut self, cycles: u64) -> Result<Outcome, &'static str> {
        let start = io::now();
        for slot in 0..self.shape.depth {
            self.offer(slot);
        }
        self.queue.kick();
        let (mut operations, mut in_flight) = (0, self.shape.depth);
        let mut ended = None;
        while in_flight > 0 {
            let mut some = false;
            while let Some((head, _)) = self.queue.take() {
                let slot = usize::from(head / 3);
                // SAFETY: RAM; the device is through with it.
                if unsafe { (status(slot) as *const u8).read_volatile() } != 0 {
                    return Err("a request failed");
                }
                in_flight -= 1;
                if ended.is_none() {
                    operations += 1;
                    self.offer(slot);
                    in_flight += 1;
                    some = true;
                }
            }
            if some {
                self.queue.kick();
            } else {
                core::hint::spin_loop();
            }
            let now = io::now() - start;
            if ended.is_none() && now >= cycles {
                ended = Some(now);
            }
        }
        Ok(Outcome { operations, cycles: ended.unwrap_or(1) })
    }

    fn offer(&mut self, slot: usize) {
        let block = if self.shape.random {
            // xorshift64
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            self.random % self.blocks
        } else {
            self.next += 1;
            self.next % self.blocks
        };
        let sector = block * self.shape.bytes / SECTOR;
        // SAFETY: RAM; the device is through with it.
        unsafe { ((header(slot) + 8) as *mut u64).write_volatile(sector) };
        // SAFETY: as above; no success that is an old one's.
        unsafe { (status(slot) as *mut u8).write_volatile(0xff) };
        self.queue.offer(3 * slot as u16);
    }
}

fn header(slot: usize) -> usize {
    HEADERS + 64 * slot
}

fn status(slot: usize) -> usize {
    header(slot) + 32
}
