//! Bytes a second through the socket device, between a guest's queue and a socket of the host, one stream in one
//! direction; and that none of it allocates.
//!
//!     cargo bench -p devices --features test-utils --bench vsock
#![allow(unsafe_code)] // Counts allocations.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // Sizes chosen here.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use devices::virtio::test_driver::{Driver, RawDescriptor};
use devices::virtio::vsock::{Connector, Limits, Vsock};
use vm_memory::{Bytes, GuestAddress};

const CID: u64 = 3;
const HEADER: usize = 44;
const RX: usize = 0;
const TX: usize = 1;
/// Buffers on a queue.
const BUFFERS: u16 = 32;
/// What the guest sends before the host has read it.
const IN_FLIGHT: u64 = 192 << 10;
/// What the guest reads before it says so; it claims to have room for much more.
const UNTOLD: u64 = 256 << 20;
/// Bytes of one measurement.
const BATCH: u64 = 64 << 20;

/// Where buffers are: past what the driver's own requests use.
const BASE: u64 = 0x280_0000;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: the system's allocator, and a counter.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, len) }
    }
}

/// The one program of the host, which the guest connects to.
struct Program(Mutex<Option<UnixStream>>);

impl Connector for Program {
    fn connect(&self, _: u32) -> io::Result<UnixStream> {
        self.0.lock().unwrap().take().ok_or_else(|| io::ErrorKind::ConnectionRefused.into())
    }
}

/// A guest with one connection to the host, and the host's end.
struct Guest {
    driver: Driver<Vsock>,
    room: usize,
    /// Packets of either queue that have been seen used.
    seen: [u16; 2],
    /// Bytes received, and how many of those the device knows of.
    received: u64,
    told: u64,
}

impl Guest {
    /// `room`: bytes of payload in a packet.
    fn new(room: usize) -> (Self, UnixStream) {
        let name = std::env::temp_dir().join(format!("carve-bench-{}", std::process::id()));
        let listener = UnixListener::bind(&name).unwrap();
        std::fs::remove_file(&name).unwrap();
        let (device, host) = UnixStream::pair().unwrap();
        let program = Arc::new(Program(Mutex::new(Some(device))));
        let vsock = Vsock::new(CID as u32, Arc::new(listener), program, Limits::default());
        let driver = Driver::new(vsock, u64::MAX);
        let mut guest = Self { driver, room, seen: [0; 2], received: 0, told: 0 };
        for number in 0..BUFFERS {
            guest.describe(RX, number, 2);
            guest.describe(TX, number, 0);
        }
        (0..BUFFERS).for_each(|number| guest.driver.queues[RX].make_available(number));
        guest.driver.queues[RX].kick();
        // A request, and its answer.
        guest.send(1, 0);
        while guest.driver.queues[RX].used_index() == 0 {
            thread::yield_now();
        }
        (guest, host)
    }

    fn buffer(&self, queue: usize, number: u16) -> u64 {
        let stride = (HEADER + self.room).next_multiple_of(4096) as u64;
        BASE + (queue as u64 * u64::from(BUFFERS) + u64::from(number)) * stride
    }

    /// Makes descriptor `number` of a queue its buffer.
    fn describe(&self, queue: usize, number: u16, flags: u16) {
        let len = (HEADER + self.room) as u32;
        let address = self.buffer(queue, number);
        let descriptor = RawDescriptor { address, len, flags, next: 0 };
        self.driver.queues[queue].write_descriptor(number, descriptor);
    }

    /// Sends a packet of operation `op` with `len` bytes of whatever its buffer holds, once there is a buffer.
    fn send(&mut self, op: u16, len: usize) {
        let sent = self.seen[TX];
        while sent.wrapping_sub(self.driver.queues[TX].used_index()) >= BUFFERS {
            thread::yield_now();
        }
        let number = sent % BUFFERS;
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&CID.to_le_bytes());
        header[8] = 2;
        header[16..20].copy_from_slice(&1024u32.to_le_bytes());
        header[20..24].copy_from_slice(&1u32.to_le_bytes());
        header[24..28].copy_from_slice(&(len as u32).to_le_bytes());
        header[28] = 1;
        header[30..32].copy_from_slice(&op.to_le_bytes());
        header[36..40].copy_from_slice(&(1u32 << 30).to_le_bytes());
        header[40..44].copy_from_slice(&(self.received as u32).to_le_bytes());
        let at = GuestAddress(self.buffer(TX, number));
        self.driver.memory.write_slice(&header, at).unwrap();
        self.driver.queues[TX].make_available(number);
        self.seen[TX] = sent.wrapping_add(1);
        self.driver.queues[TX].kick_if_wanted();
    }

    /// Takes what has arrived, and gives the buffers back; whether there was anything.
    fn take(&mut self) -> bool {
        let used = self.driver.queues[RX].used_index();
        if used == self.seen[RX] {
            return false;
        }
        while self.seen[RX] != used {
            // The device answers in order.
            let number = self.seen[RX] % BUFFERS;
            let at = GuestAddress(self.buffer(RX, number) + 24);
            self.received += u64::from(self.driver.memory.read_obj::<u32>(at).unwrap());
            self.seen[RX] = self.seen[RX].wrapping_add(1);
            self.driver.queues[RX].make_available(number);
        }
        self.driver.queues[RX].kick_if_wanted();
        if self.received - self.told > UNTOLD {
            self.told = self.received;
            // A credit update.
            self.send(6, 0);
        }
        true
    }

    /// Sends `bytes` to the host, of which `read` counts what it has read.
    fn write(&mut self, bytes: u64, sent: &mut u64, read: &AtomicU64) {
        let until = *sent + bytes;
        while *sent < until {
            while *sent + self.room as u64 - read.load(Ordering::Acquire) > IN_FLIGHT {
                self.take();
                thread::yield_now();
            }
            self.send(5, self.room);
            *sent += self.room as u64;
        }
        while read.load(Ordering::Acquire) < *sent {
            self.take();
            thread::yield_now();
        }
    }

    fn receive(&mut self, bytes: u64) {
        let until = self.received + bytes;
        while self.received < until {
            if !self.take() {
                thread::yield_now();
            }
        }
    }
}

/// Nothing that `work` does, in any thread, may allocate.
fn assert_no_allocation(what: &str, mut work: impl FnMut()) {
    work();
    let before = ALLOCATIONS.load(Ordering::SeqCst);
    work();
    let count = ALLOCATIONS.load(Ordering::SeqCst) - before;
    assert_eq!(count, 0, "allocations {what}");
}

fn timed(iterations: u64, mut batch: impl FnMut()) -> Duration {
    let start = Instant::now();
    (0..iterations).for_each(|_| batch());
    start.elapsed()
}

fn streams(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("vsock");
    group.throughput(Throughput::Bytes(BATCH)).sample_size(10);
    for room in [4096, 64 << 10] {
        let (mut guest, mut host) = Guest::new(room);
        let read = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&read);
        let reader = thread::spawn(move || {
            let mut bytes = vec![0; 256 << 10];
            while let Ok(len @ 1..) = host.read(&mut bytes) {
                count.fetch_add(len as u64, Ordering::AcqRel);
            }
        });
        let mut sent = 0;
        assert_no_allocation("of a guest that writes", || guest.write(BATCH, &mut sent, &read));
        group.bench_function(format!("guest to host, {room} bytes a packet"), |bencher| {
            bencher.iter_custom(|iterations| {
                timed(iterations, || guest.write(BATCH, &mut sent, &read))
            });
        });
        drop(guest);
        reader.join().unwrap();

        let (mut guest, mut host) = Guest::new(room);
        let writer = thread::spawn(move || {
            let bytes = vec![0x55; 256 << 10];
            while host.write_all(&bytes).is_ok() {}
        });
        assert_no_allocation("of a host that writes", || guest.receive(BATCH));
        group.bench_function(format!("host to guest, {room} bytes a packet"), |bencher| {
            bencher.iter_custom(|iterations| timed(iterations, || guest.receive(BATCH)));
        });
        drop(guest);
        writer.join().unwrap();
    }
    group.finish();
}

criterion_group!(benches, streams);
criterion_main!(benches);
