//! A driver for tests, fuzz targets and benchmarks: queues in memory of its own, requests put on them
//! as a guest would, and answers waited for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)]
#![allow(clippy::cast_possible_truncation)] // Sizes chosen by the test.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use std::time::{Duration, Instant};

use virtio_queue::QueueState;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::device::{Activation, VirtioDevice};
use super::interrupt::Interrupt;
use super::queue::{Broken, Queue};
use super::transport::feature;
use crate::memory::{self, GuestMemory};

pub mod mmio;

/// RAM of the guest, from address 0.
pub const MEMORY: usize = 64 << 20;
/// How long a device may take to answer.
pub const PATIENCE: Duration = Duration::from_secs(10);

const QUEUE_STRIDE: u64 = 0x1_0000;
/// Where buffers are taken from.
const HEAP: u64 = 0x100_0000;

/// Interrupts, counted.
#[derive(Debug, Default)]
pub struct Signals {
    queues: AtomicU32,
    config: AtomicU32,
    needs_reset: AtomicBool,
}

impl Signals {
    /// Queue interrupts so far.
    pub fn queues(&self) -> u32 {
        self.queues.load(Ordering::SeqCst)
    }

    /// Configuration change interrupts so far.
    pub fn config(&self) -> u32 {
        self.config.load(Ordering::SeqCst)
    }

    /// Whether the device asked to be reset.
    pub fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::SeqCst)
    }

    /// Waits until the device asks to be reset.
    #[track_caller]
    pub fn wait_for_reset_request(&self) {
        wait("the device asks for a reset", || self.needs_reset());
    }
}

impl Interrupt for Signals {
    fn signal_queue(&self, _: u16) {
        self.queues.fetch_add(1, Ordering::SeqCst);
    }

    fn signal_config(&self) {
        self.config.fetch_add(1, Ordering::SeqCst);
    }

    fn signal_needs_reset(&self) {
        self.needs_reset.store(true, Ordering::SeqCst);
    }
}

/// Waits, for [`PATIENCE`], until `condition` holds.
#[track_caller]
pub fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::yield_now();
    }
}

/// A buffer of a request.
#[derive(Clone, Debug)]
pub enum Part {
    /// Bytes for the device to read.
    Out(Vec<u8>),
    /// Room for the device to write.
    In(usize),
}

/// A raw descriptor, for chains no decent driver would make.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct RawDescriptor {
    pub address: u64,
    pub len: u32,
    pub flags: u16,
    pub next: u16,
}

impl RawDescriptor {
    /// As it lies in memory.
    pub fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// The driver's side of one queue.
pub struct DriverQueue {
    memory: Arc<GuestMemory>,
    doorbell: Arc<EventFd>,
    index: u16,
    size: u16,
    event_idx: bool,
    next_descriptor: u16,
    start: u16,
    avail: u16,
    /// The available index when the driver last thought about ringing.
    rang: u16,
    used: u16,
    heap: u64,
    /// Per head: the writable buffers of the request.
    rooms: Vec<Vec<(u64, usize)>>,
}

/// A request handed to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Posted(pub u16);

impl DriverQueue {
    /// Queue `index` of `size` entries, empty, at addresses of its own.
    pub fn new(memory: &Arc<GuestMemory>, index: u16, size: u16, event_idx: bool) -> Self {
        let queue = Self {
            memory: Arc::clone(memory),
            doorbell: Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap()),
            index,
            size,
            event_idx,
            next_descriptor: 0,
            start: 0,
            avail: 0,
            rang: 0,
            used: 0,
            heap: HEAP + u64::from(index) * 0x40_0000,
            rooms: vec![vec![]; usize::from(size)],
        };
        // Rings may hold what an earlier queue left.
        memory.write_slice(&vec![0; QUEUE_STRIDE as usize], GuestAddress(queue.base())).unwrap();
        queue
    }

    fn base(&self) -> u64 {
        0x10_0000 + u64::from(self.index) * QUEUE_STRIDE
    }

    /// Address of the descriptor table.
    pub fn descriptors(&self) -> u64 {
        self.base()
    }

    /// Address of the available ring.
    pub fn available(&self) -> u64 {
        self.base() + 0x8000
    }

    /// Address of the used ring.
    pub fn used_ring(&self) -> u64 {
        self.base() + 0xa000
    }

    /// As the driver would tell a transport.
    pub fn state(&self) -> QueueState {
        QueueState {
            max_size: self.size,
            size: self.size,
            ready: true,
            event_idx_enabled: self.event_idx,
            next_avail: self.start,
            next_used: self.start,
            desc_table: self.descriptors(),
            avail_ring: self.available(),
            used_ring: self.used_ring(),
        }
    }

    /// Moves a queue nothing was posted on to where `index` requests have been answered (modulo 2^16).
    pub fn start_at(&mut self, index: u16) {
        (self.start, self.used, self.rang) = (index, index, index);
        self.set_avail_index(index);
        self.memory.store(index, GuestAddress(self.used_ring() + 2), Ordering::SeqCst).unwrap();
    }

    /// The device's side of it.
    pub fn device_side(&self, interrupt: Arc<dyn Interrupt>) -> Result<Queue, Broken> {
        let (memory, doorbell) = (Arc::clone(&self.memory), Arc::clone(&self.doorbell));
        Queue::new(self.index, &self.state(), memory, doorbell, interrupt)
    }

    /// Guest RAM of `len` bytes that no other request uses; comes round again after 4 MiB.
    pub fn allocate(&mut self, len: usize) -> u64 {
        let base = HEAP + u64::from(self.index) * 0x40_0000;
        if self.heap + len as u64 > base + 0x40_0000 {
            self.heap = base;
        }
        let at = self.heap;
        self.heap += (len as u64).next_multiple_of(16);
        at
    }

    /// Writes one descriptor.
    pub fn write_descriptor(&self, index: u16, descriptor: RawDescriptor) {
        let at = self.descriptors() + 16 * u64::from(index);
        self.memory.write_slice(&descriptor.bytes(), GuestAddress(at)).unwrap();
    }

    /// Puts a head on the available ring without ringing.
    pub fn make_available(&mut self, head: u16) {
        let slot = self.available() + 4 + 2 * u64::from(self.avail % self.size);
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.avail = self.avail.wrapping_add(1);
        self.set_avail_index(self.avail);
    }

    /// Sets the available index to anything.
    pub fn set_avail_index(&mut self, index: u16) {
        self.avail = index;
        self.memory.store(index, GuestAddress(self.available() + 2), Ordering::SeqCst).unwrap();
    }

    /// Sets the flags of the available ring: 1 asks for no interrupts.
    pub fn set_avail_flags(&mut self, flags: u16) {
        self.memory.store(flags, GuestAddress(self.available()), Ordering::SeqCst).unwrap();
    }

    /// The flags of the used ring: 1 asks for no doorbell.
    pub fn used_flags(&self) -> u16 {
        self.memory.load(GuestAddress(self.used_ring()), Ordering::SeqCst).unwrap()
    }

    /// The index of the used ring.
    pub fn used_index(&self) -> u16 {
        self.memory.load(GuestAddress(self.used_ring() + 2), Ordering::SeqCst).unwrap()
    }

    /// At which available index the device wants the doorbell to ring (event indices only).
    pub fn avail_event(&self) -> u16 {
        let at = self.used_ring() + 4 + 8 * u64::from(self.size);
        self.memory.load(GuestAddress(at), Ordering::SeqCst).unwrap()
    }

    /// Asks for an interrupt once the used index passes `index` (event indices only).
    pub fn set_used_event(&self, index: u16) {
        let at = self.available() + 4 + 2 * u64::from(self.size);
        self.memory.write_obj(index, GuestAddress(at)).unwrap();
    }

    /// Makes a request of `parts` available, one descriptor each, without ringing.
    pub fn post(&mut self, parts: &[Part]) -> Posted {
        let head = self.next_descriptor;
        let (count, size) = (parts.len() as u16, self.size);
        for descriptor in self.place(head, parts, |i| (head + i) % size) {
            self.write_descriptor(self.next_descriptor, descriptor);
            self.next_descriptor = (self.next_descriptor + 1) % size;
        }
        assert_eq!(self.next_descriptor, (head + count) % size);
        self.make_available(head);
        Posted(head)
    }

    /// As [`post`](Self::post), with all but the first `direct` parts in an indirect table.
    pub fn post_indirect(&mut self, direct: usize, parts: &[Part]) -> Posted {
        let head = self.next_descriptor;
        let (direct, size) = (direct as u16, self.size);
        let position = |i| if i < direct { (head + i) % size } else { i - direct };
        let mut descriptors = self.place(head, parts, position);
        let table: Vec<u8> =
            descriptors.drain(usize::from(direct)..).flat_map(|d| d.bytes()).collect();
        // Tables may lie anywhere.
        let address = self.allocate(table.len() + 1) + 1;
        self.memory.write_slice(&table, GuestAddress(address)).unwrap();
        if let Some(last) = descriptors.last_mut() {
            last.next = (head + direct) % size;
        }
        descriptors.push(RawDescriptor { address, len: table.len() as u32, flags: 4, next: 0 });
        for descriptor in descriptors {
            self.write_descriptor(self.next_descriptor, descriptor);
            self.next_descriptor = (self.next_descriptor + 1) % size;
        }
        self.make_available(head);
        Posted(head)
    }

    /// Allocates the buffers of request `head` and describes them; `position`: the index of its nth
    /// descriptor.
    fn place(
        &mut self,
        head: u16,
        parts: &[Part],
        position: impl Fn(u16) -> u16,
    ) -> Vec<RawDescriptor> {
        self.rooms[usize::from(head)].clear();
        let mut descriptors = Vec::new();
        for (i, part) in (0u16..).zip(parts) {
            let (address, len, write) = match part {
                Part::Out(bytes) => {
                    let at = self.allocate(bytes.len());
                    self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
                    (at, bytes.len(), 0)
                }
                Part::In(len) => {
                    let at = self.allocate(*len);
                    self.rooms[usize::from(head)].push((at, *len));
                    (at, *len, 2)
                }
            };
            let more = u16::from(usize::from(i) + 1 < parts.len());
            let (len, flags) = (len as u32, write | more);
            descriptors.push(RawDescriptor { address, len, flags, next: position(i + 1) });
        }
        descriptors
    }

    /// Rings the doorbell.
    pub fn kick(&self) {
        self.doorbell.write(1).unwrap();
    }

    /// Rings the doorbell if the device wants that for what was made available since the last call.
    pub fn kick_if_wanted(&mut self) {
        fence(Ordering::SeqCst);
        let old = std::mem::replace(&mut self.rang, self.avail);
        let wanted = if self.event_idx {
            let past_event = self.avail.wrapping_sub(self.avail_event()).wrapping_sub(1);
            past_event < self.avail.wrapping_sub(old)
        } else {
            self.used_flags() & 1 == 0
        };
        if wanted {
            self.kick();
        }
    }

    /// Asks for an interrupt for the next answer, which may be there already.
    pub fn want_interrupt(&mut self) {
        if self.event_idx {
            self.set_used_event(self.used);
        } else {
            self.set_avail_flags(0);
        }
        fence(Ordering::SeqCst);
    }

    /// Posts, kicks and waits: the bytes the device says it wrote.
    #[track_caller]
    pub fn request(&mut self, parts: &[Part]) -> Vec<u8> {
        let posted = self.post(parts);
        self.kick();
        let (head, bytes) = self.wait_used();
        assert_eq!(head, posted, "another request was answered");
        bytes
    }

    /// The next answer, if there is one: which request, and the bytes written to it.
    pub fn poll_used(&mut self) -> Option<(Posted, Vec<u8>)> {
        let index: u16 =
            self.memory.load(GuestAddress(self.used_ring() + 2), Ordering::SeqCst).unwrap();
        if index == self.used {
            return None;
        }
        let at = self.used_ring() + 4 + 8 * u64::from(self.used % self.size);
        let [head, len]: [u32; 2] = self.memory.read_obj(GuestAddress(at)).unwrap();
        self.used = self.used.wrapping_add(1);
        let mut left = len as usize;
        let mut bytes = Vec::new();
        for &(address, room) in &self.rooms[head as usize] {
            let mut part = vec![0; room.min(left)];
            self.memory.read_slice(&mut part, GuestAddress(address)).unwrap();
            left -= part.len();
            bytes.extend(part);
        }
        assert_eq!(left, 0, "the device wrote more than there was room");
        Some((Posted(head as u16), bytes))
    }

    /// Everything in the writable buffers of a request, however much the device says it wrote.
    pub fn room(&self, posted: Posted) -> Vec<u8> {
        let read = |&(address, len): &(u64, usize)| {
            let mut part = vec![0; len];
            self.memory.read_slice(&mut part, GuestAddress(address)).unwrap();
            part
        };
        self.rooms[usize::from(posted.0)].iter().flat_map(read).collect()
    }

    /// The next answer, waited for.
    #[track_caller]
    pub fn wait_used(&mut self) -> (Posted, Vec<u8>) {
        let mut answer = None;
        wait("an answer", || {
            answer = self.poll_used();
            answer.is_some()
        });
        answer.unwrap()
    }
}

/// A device and the driver's side of all its queues.
pub struct Driver<D: VirtioDevice> {
    /// The device.
    pub device: D,
    /// Guest RAM.
    pub memory: Arc<GuestMemory>,
    /// The driver's side of each queue.
    pub queues: Vec<DriverQueue>,
    /// What the device signalled.
    pub signals: Arc<Signals>,
    features: u64,
}

impl<D: VirtioDevice> Driver<D> {
    /// Activates `device` with all its queues and those of its features that are in `features`
    /// (`u64::MAX`: all of them).
    pub fn new(device: D, features: u64) -> Self {
        let memory = Arc::new(memory::anonymous(&[(0, MEMORY)]));
        Self::with_memory(device, features, memory)
    }

    /// The same in a RAM of the test's own, of [`MEMORY`] bytes from address 0 at least.
    pub fn with_memory(device: D, features: u64, memory: Arc<GuestMemory>) -> Self {
        let features = (device.features() | feature::ALWAYS) & (features | feature::VERSION_1);
        let event_idx = features & feature::EVENT_IDX != 0;
        let sizes = device.queue_sizes().to_vec();
        let queues = (0..)
            .zip(&sizes)
            .map(|(index, &size)| DriverQueue::new(&memory, index, size, event_idx))
            .collect();
        let mut driver = Self { device, memory, queues, signals: Arc::default(), features };
        let queues = driver.queues.iter().map(|queue| {
            let interrupt: Arc<dyn Interrupt> = driver.signals.clone();
            queue.device_side(interrupt).unwrap()
        });
        let queues = queues.collect();
        driver.activate(queues);
        driver
    }

    fn activate(&mut self, queues: Vec<Queue>) {
        let activation = Activation {
            memory: Arc::clone(&self.memory),
            queues,
            interrupt: self.signals.clone(),
            features: self.features,
        };
        self.device.activate(activation).unwrap();
    }

    /// Starts the device again with what its `quiesce` gave back.
    pub fn restart(&mut self, queues: Vec<Queue>) {
        self.activate(queues);
    }

    /// Stops the device and starts it again, as pause and resume do.
    pub fn pause_and_resume(&mut self) {
        let queues = self.device.pause();
        assert_eq!(queues.len(), self.queues.len(), "queues given back");
        self.activate(queues);
    }

    /// Stops the device, carries its state over to `fresh`, and starts that with new queues whose
    /// doorbells are silent: snapshot and restore.
    pub fn save_and_restore(&mut self, fresh: D) {
        let mut queues = self.device.quiesce();
        assert_eq!(queues.len(), self.queues.len(), "queues given back");
        let state = self.device.save();
        for queue in &mut queues {
            queue.signal();
            let (memory, doorbell) = (Arc::clone(&self.memory), Arc::clone(queue.doorbell()));
            let _ = doorbell.read();
            let signals = self.signals.clone();
            *queue = Queue::new(queue.index(), &queue.state(), memory, doorbell, signals).unwrap();
        }
        self.device = fresh;
        self.device.restore(&state).unwrap();
        self.activate(queues);
    }
}

/// What every device must pass: requests posted before, between and after pauses and restores, with
/// and without a doorbell, are all answered, once each. `request`: the parts of the nth request, put on
/// the given queue.
#[track_caller]
pub fn pause_and_restore<D: VirtioDevice>(
    fresh: impl Fn() -> D,
    queue: usize,
    request: impl Fn(usize) -> Vec<Part>,
) {
    for features in [u64::MAX, !feature::EVENT_IDX] {
        let mut driver = Driver::new(fresh(), features);
        let room = usize::from(driver.queues[queue].size) / request(0).len();
        for round in 0..24 {
            let (mut posted, count) = (vec![], (1 + round % 5).min(room));
            for number in 0..count {
                posted.push(driver.queues[queue].post(&request(round * 5 + number)));
                if round % 2 == 0 {
                    driver.queues[queue].kick();
                }
            }
            for _ in 0..=round % 3 {
                match round % 4 {
                    0 | 1 => driver.save_and_restore(fresh()),
                    _ => driver.pause_and_resume(),
                }
            }
            for _ in 0..count {
                let (answered, _) = driver.queues[queue].wait_used();
                let at = posted.iter().position(|posted| *posted == answered);
                posted.swap_remove(at.expect("an answer to a request in flight"));
            }
        }
        assert!(driver.queues[queue].poll_used().is_none(), "answered twice");
        assert!(!driver.signals.needs_reset());
    }
}

/// The test [`pause_and_restore`](crate::virtio::test_driver::pause_and_restore) of a device: how to make
/// it, the number of a queue, and the parts of a request to put there.
///
/// ```ignore
/// survives_pause_and_restore!(Rng::default(), 0, [Part::In(32)]);
/// ```
#[cfg(test)]
macro_rules! survives_pause_and_restore {
    ($device:expr, $queue:expr, $parts:expr) => {
        #[test]
        fn answers_survive_pause_and_restore() {
            let parts = $parts;
            $crate::virtio::test_driver::pause_and_restore(|| $device, $queue, |_| parts.to_vec());
        }
    };
}
#[cfg(test)]
pub(crate) use survives_pause_and_restore;
