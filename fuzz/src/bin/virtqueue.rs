//! A virtqueue: any memory, any rings, any order of what a worker does with them.

#![no_main]

use std::sync::Arc;

use carve_fuzz::MEMORY;
use carve_fuzz::rings::{Address, Descriptor};
use devices::memory::{GuestMemory, anonymous};
use devices::virtio::test_driver::Signals;
use devices::virtio::{Chain, Queue};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use virtio_queue::QueueState;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};
use vmm_sys_util::eventfd::EventFd;

#[derive(Arbitrary, Debug)]
struct Input {
    size: Size,
    /// Where the rings are, if not where they should be.
    rings: Option<[Address; 3]>,
    event_idx: bool,
    start: u16,
    in_flight: u8,
    table: Vec<Descriptor>,
    indirect: Vec<Descriptor>,
    heads: Vec<u8>,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Size {
    Power(u8),
    Any(u16),
}

#[derive(Arbitrary, Debug)]
enum Step {
    // The driver's.
    Descriptor { index: u8, descriptor: Descriptor },
    Memory { address: Address, bytes: Vec<u8> },
    Available { more: u8 },
    AvailableIndex(u16),
    // The device's.
    Pop,
    PopAndUndo,
    Push { len: u32 },
    StageAll,
    Signal,
    EnableDoorbell,
    DisableDoorbell,
    Restore,
}

const INDIRECT: u64 = 0x4003;

struct Worker {
    queue: Queue,
    chain: Chain,
    /// Heads popped and not pushed.
    held: Vec<u16>,
    memory: Arc<GuestMemory>,
    signals: Arc<Signals>,
}

fuzz_target!(|input: Input| {
    let memory = Arc::new(anonymous(&[(0, MEMORY), (1 << 32, 1 << 16)]));
    let rings = input.rings.unwrap_or([Address(0x1000), Address(0x2000), Address(0x3000)]);
    let [desc_table, avail_ring, used_ring] = rings.map(|ring| ring.0);
    for (index, descriptor) in (0..=255).zip(&input.table) {
        descriptor.write(&memory, desc_table, index);
    }
    for (index, descriptor) in (0..=255).zip(&input.indirect) {
        descriptor.write(&memory, INDIRECT, index);
    }
    for (slot, head) in (0..).zip(&input.heads) {
        let _ =
            memory.write_obj(u16::from(*head), GuestAddress(avail_ring.wrapping_add(4 + 2 * slot)));
    }
    let index = input.start.wrapping_add(input.heads.len() as u16);
    let _ = memory.write_obj(index, GuestAddress(avail_ring.wrapping_add(2)));
    let size = match input.size {
        Size::Power(power) => 1 << (power % 16),
        Size::Any(size) => size,
    };
    let state = QueueState {
        max_size: 0x8000,
        size,
        ready: true,
        event_idx_enabled: input.event_idx,
        next_avail: input.start,
        next_used: input.start.wrapping_sub(input.in_flight.into()),
        desc_table,
        avail_ring,
        used_ring,
    };
    let doorbell = Arc::new(EventFd::new(libc::EFD_NONBLOCK).expect("a descriptor"));
    let signals = Arc::<Signals>::default();
    let Ok(queue) = Queue::new(0, &state, Arc::clone(&memory), doorbell, signals.clone()) else {
        return;
    };
    let chain = queue.chain();
    let held = vec![0; input.in_flight.into()];
    let mut worker = Worker { queue, chain, held, memory, signals };
    for step in &input.steps {
        worker.step(step, &state);
    }
});

impl Worker {
    fn step(&mut self, step: &Step, state: &QueueState) {
        let index = GuestAddress(state.avail_ring + 2);
        match step {
            Step::Descriptor { index, descriptor } => {
                descriptor.write(&self.memory, state.desc_table, *index);
            }
            Step::Memory { address, bytes } => {
                let _ = self.memory.write_slice(bytes, GuestAddress(address.0));
            }
            Step::Available { more } => {
                let old: u16 = self.memory.read_obj(index).expect("the ring");
                self.memory.write_obj(old.wrapping_add((*more).into()), index).expect("the ring");
            }
            Step::AvailableIndex(value) => self.memory.write_obj(*value, index).expect("the ring"),
            Step::Pop => {
                if self.pop() {
                    self.held.push(self.chain.head());
                }
            }
            Step::PopAndUndo => {
                if self.pop() {
                    self.queue.undo_pop();
                }
            }
            Step::Push { len } => {
                if let Some(head) = self.held.pop() {
                    self.queue.push(head, *len);
                }
            }
            Step::StageAll => {
                let count = self.held.len() as u16;
                for (ahead, head) in (0..).zip(self.held.drain(..)) {
                    self.queue.stage(ahead, head, 1);
                }
                self.queue.publish(count);
            }
            Step::Signal => self.queue.signal(),
            Step::EnableDoorbell => drop(self.queue.enable_doorbell()),
            Step::DisableDoorbell => self.queue.disable_doorbell(),
            Step::Restore => self.restore(),
        }
    }

    /// Pops, and looks at everything that was.
    fn pop(&mut self) -> bool {
        let popped = self.queue.pop(&mut self.chain) == Ok(true);
        if !popped {
            return false;
        }
        assert!(self.held.len() < usize::from(self.queue.size()), "more than the ring holds");
        let mut lens = [0, 0];
        let parts = [self.chain.readable(), self.chain.writable()];
        for (len, buffers) in lens.iter_mut().zip(parts) {
            for buffer in buffers {
                assert!(buffer.iov_len > 0 && self.is_memory(buffer), "{buffer:?}");
                *len += buffer.iov_len;
            }
        }
        assert_eq!(lens, [self.chain.readable_len(), self.chain.writable_len()]);
        assert!(lens.iter().sum::<usize>() <= u32::MAX as usize);
        let mut bytes = [0; 40];
        assert_eq!(self.chain.read(7, &mut bytes).is_ok(), lens[0] >= 47);
        assert_eq!(self.chain.write(7, &bytes).is_ok(), lens[1] >= 47);
        true
    }

    fn is_memory(&self, buffer: &libc::iovec) -> bool {
        let start = buffer.iov_base as usize;
        self.memory.iter().any(|region| {
            let base =
                region.get_host_address(MemoryRegionAddress(0)).expect("a host address") as usize;
            start >= base && start + buffer.iov_len <= base + region.len() as usize
        })
    }

    fn restore(&mut self) {
        let state = self.queue.state();
        let (memory, doorbell) = (Arc::clone(&self.memory), Arc::clone(self.queue.doorbell()));
        self.queue =
            Queue::new(0, &state, memory, doorbell, self.signals.clone()).expect("its own state");
    }
}
