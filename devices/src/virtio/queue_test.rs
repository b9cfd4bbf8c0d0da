//! Rings as drivers make them, decent ones and others.
#![allow(clippy::cast_possible_truncation)] // Sizes chosen by the test.

use proptest::prelude::*;
use vm_memory::{Bytes, GuestMemoryRegion};

use super::*;
use crate::memory;
use crate::virtio::test_driver::{DriverQueue, MEMORY, Part, RawDescriptor, Signals};

/// Where buffers of raw descriptors are.
const BUFFER: u64 = 0x200_0000;
/// Where indirect tables are: unaligned, as they may be.
const TABLE: u64 = 0x210_0003;

struct Fixture {
    driver: DriverQueue,
    queue: Queue,
    chain: Chain,
    signals: Arc<Signals>,
    memory: Arc<GuestMemory>,
}

fn fixture(size: u16, event_idx: bool, start: u16) -> Fixture {
    let memory = Arc::new(memory::anonymous(&[(0, MEMORY), (0x1_0000_0000, 0x10_0000)]));
    let mut driver = DriverQueue::new(&memory, 0, size, event_idx);
    driver.start_at(start);
    let signals = Arc::<Signals>::default();
    let queue = driver.device_side(signals.clone()).unwrap();
    let chain = queue.chain();
    Fixture { driver, queue, chain, signals, memory }
}

impl Fixture {
    fn pop(&mut self) -> Result<bool, Broken> {
        self.queue.pop(&mut self.chain)
    }

    /// Writes an indirect table and a descriptor 0 that refers to it.
    fn indirect(&mut self, table: &[RawDescriptor]) {
        let bytes: Vec<u8> = table.iter().flat_map(RawDescriptor::bytes).collect();
        self.memory.write_slice(&bytes, GuestAddress(TABLE)).unwrap();
        let len = bytes.len() as u32;
        self.driver.write_descriptor(0, descriptor(TABLE, len, DESC_INDIRECT, 0));
    }
}

fn descriptor(address: u64, len: u32, flags: u16, next: u16) -> RawDescriptor {
    RawDescriptor { address, len, flags, next }
}

/// What comes of a chain of these descriptors, the first at 0.
fn pop_chain(descriptors: &[RawDescriptor]) -> Result<(usize, usize), Broken> {
    let mut it = fixture(8, false, 0);
    for (index, descriptor) in (0..).zip(descriptors) {
        it.driver.write_descriptor(index, *descriptor);
    }
    it.driver.make_available(0);
    let popped = it.pop()?;
    assert!(popped);
    Ok((it.chain.readable_len(), it.chain.writable_len()))
}

fn pop_indirect(table: &[RawDescriptor]) -> Result<(usize, usize), Broken> {
    let mut it = fixture(8, false, 0);
    it.indirect(table);
    it.driver.make_available(0);
    assert!(it.pop()?);
    Ok((it.chain.readable_len(), it.chain.writable_len()))
}

#[test]
fn chains_of_every_shape_arrive_whole() {
    let shapes: [&[Part]; 5] = [
        &[Part::Out(vec![1; 5])],
        &[Part::In(7)],
        &[Part::Out(vec![1; 16]), Part::In(512), Part::In(1)],
        &[Part::Out(vec![1; 3]), Part::Out(vec![2; 4])],
        &[Part::Out(vec![1]), Part::Out(vec![2]), Part::Out(vec![3]), Part::In(1), Part::In(2)],
    ];
    for shape in shapes {
        for direct in 0..=shape.len() {
            // Zero or more direct descriptors, then a table of the others (2.7.5.3.2).
            let mut it = fixture(16, false, 0);
            let posted = match direct == shape.len() {
                true => it.driver.post(shape),
                false => it.driver.post_indirect(direct, shape),
            };
            assert_eq!(it.pop(), Ok(true));
            assert_eq!(it.chain.head(), posted.0);
            let mut readable = vec![];
            let mut writable = 0;
            for part in shape {
                match part {
                    Part::Out(bytes) => readable.extend_from_slice(bytes),
                    Part::In(len) => writable += len,
                }
            }
            let mut read = vec![0; readable.len()];
            it.chain.read(0, &mut read).unwrap();
            assert_eq!(read, readable);
            assert_eq!((it.chain.readable_len(), it.chain.writable_len()), (read.len(), writable));
            assert_eq!(it.chain.readable().len() + it.chain.writable().len(), shape.len());
            it.chain.write(0, &vec![9; writable]).unwrap();
            it.queue.push(it.chain.head(), writable as u32);
            assert_eq!(it.driver.poll_used(), Some((posted, vec![9; writable])));
            assert_eq!(it.pop(), Ok(false));
        }
    }
}

#[test]
fn the_write_flag_of_an_indirect_descriptor_means_nothing() {
    let mut it = fixture(8, false, 0);
    it.indirect(&[descriptor(BUFFER, 8, 0, 0)]);
    it.driver.write_descriptor(0, descriptor(TABLE, 16, DESC_INDIRECT | DESC_WRITE, 0));
    it.driver.make_available(0);
    assert_eq!(it.pop(), Ok(true));
    assert_eq!((it.chain.readable_len(), it.chain.writable_len()), (8, 0));
}

#[test]
fn an_indirect_table_may_be_longer_than_the_queue_and_than_the_chain_in_it() {
    let mut table: Vec<_> = (1..=20).map(|next| descriptor(BUFFER, 4, DESC_NEXT, next)).collect();
    table.push(descriptor(BUFFER, 4, DESC_WRITE, 0));
    assert_eq!(pop_indirect(&table), Ok((80, 4)));
    let mut table = vec![descriptor(BUFFER, 4, DESC_NEXT, 2999)];
    table.resize(3000, descriptor(BUFFER, 4, DESC_WRITE, 0));
    assert_eq!(pop_indirect(&table), Ok((4, 4)));
}

#[test]
fn a_chain_has_at_most_1024_buffers() {
    let table = |count: u16| -> Vec<_> {
        let more = |next| if next < count { DESC_NEXT } else { 0 };
        (1..=count).map(|next| descriptor(BUFFER, 4, more(next), next)).collect()
    };
    assert_eq!(pop_indirect(&table(1024)), Ok((4096, 0)));
    assert_eq!(pop_indirect(&table(1025)), Err(Broken::ChainLength));
}

#[test]
fn descriptor_loops_are_found() {
    assert_eq!(pop_chain(&[descriptor(BUFFER, 1, DESC_NEXT, 0)]), Err(Broken::ChainLength));
    let two = [descriptor(BUFFER, 1, DESC_NEXT, 1), descriptor(BUFFER, 1, DESC_NEXT, 0)];
    assert_eq!(pop_chain(&two), Err(Broken::ChainLength));
    assert_eq!(pop_indirect(&two), Err(Broken::ChainLength));
    let long = vec![descriptor(BUFFER, 1, DESC_NEXT, 0); 5000];
    assert_eq!(pop_indirect(&long), Err(Broken::ChainLength));
}

#[test]
fn indices_past_the_table_are_refused() {
    let mut it = fixture(8, false, 0);
    it.driver.make_available(8);
    assert_eq!(it.pop(), Err(Broken::DescriptorIndex));
    assert_eq!(it.pop(), Err(Broken::DescriptorIndex), "nothing was popped");
    let next = [descriptor(BUFFER, 1, DESC_NEXT, 8)];
    assert_eq!(pop_chain(&next), Err(Broken::DescriptorIndex));
    assert_eq!(pop_indirect(&next), Err(Broken::DescriptorIndex));
    let next = [descriptor(BUFFER, 1, DESC_NEXT, u16::MAX)];
    assert_eq!(pop_chain(&next), Err(Broken::DescriptorIndex));
}

#[test]
fn buffers_must_be_memory() {
    let ram = MEMORY as u64;
    let cases = [
        (BUFFER, 0),
        (ram, 1),
        (ram - 1, 2),
        (ram - 1, u32::MAX),
        (0, u32::MAX),
        (u64::MAX, 1),
        (u64::MAX, u32::MAX),
        (u64::MAX - 7, 8),
        // From one region over the hole to the next.
        (ram - 4096, 0xfc00_2000),
        (0x1_0000_0000 - 1, 2),
        (0x1_0010_0000 - 1, 2),
    ];
    for (address, len) in cases {
        let bad = descriptor(address, len, DESC_WRITE, 0);
        assert_eq!(pop_chain(&[bad]), Err(Broken::Buffer), "{len} at {address:#x}");
        assert_eq!(pop_indirect(&[bad]), Err(Broken::Buffer), "{len} at {address:#x}");
    }
    for (address, len) in [(0, 1), (ram - 1, 1), (0, ram as u32), (0x1_0000_0000, 0x10_0000)] {
        let good = descriptor(address, len, DESC_WRITE, 0);
        assert_eq!(pop_chain(&[good]), Ok((0, len as usize)));
    }
}

#[test]
fn a_chain_is_shorter_than_4_gib() {
    // 64 buffers of 64 MiB are 4 GiB.
    let table = |count: u16| -> Vec<_> {
        let more = |next| if next < count { DESC_NEXT } else { 0 };
        (1..=count).map(|next| descriptor(0, MEMORY as u32, more(next), next)).collect()
    };
    assert_eq!(pop_indirect(&table(63)), Ok((63 * MEMORY, 0)));
    assert_eq!(pop_indirect(&table(64)), Err(Broken::Buffer));
}

#[test]
fn readable_buffers_come_first() {
    let chain = [
        descriptor(BUFFER, 1, DESC_NEXT, 1),
        descriptor(BUFFER, 1, DESC_NEXT | DESC_WRITE, 2),
        descriptor(BUFFER, 1, 0, 0),
    ];
    assert_eq!(pop_chain(&chain), Err(Broken::Order));
    assert_eq!(pop_indirect(&chain), Err(Broken::Order));
    // Across the border between the two tables.
    let mut it = fixture(8, false, 0);
    it.indirect(&[descriptor(BUFFER, 1, 0, 0)]);
    it.driver.write_descriptor(1, descriptor(BUFFER, 1, DESC_WRITE | DESC_NEXT, 0));
    it.driver.make_available(1);
    assert_eq!(it.pop(), Err(Broken::Order));
    assert!(it.chain.readable().is_empty() && it.chain.writable().is_empty());
}

#[test]
fn malformed_indirect_tables_are_refused() {
    let refer =
        |address, len, flags| pop_chain(&[descriptor(address, len, DESC_INDIRECT | flags, 0)]);
    for (address, len) in
        [(TABLE, 0), (TABLE, 15), (TABLE, 17), (MEMORY as u64 - 8, 16), (u64::MAX - 15, 16)]
    {
        assert_eq!(refer(address, len, 0), Err(Broken::Indirect), "{len} at {address:#x}");
    }
    assert_eq!(refer(0, u32::MAX - 15, 0), Err(Broken::Indirect));
    assert_eq!(refer(TABLE, 16, DESC_NEXT), Err(Broken::Indirect), "continued");
    let nested = [descriptor(TABLE, 16, DESC_INDIRECT, 0)];
    assert_eq!(pop_indirect(&nested), Err(Broken::Indirect), "nested");
}

#[test]
fn the_available_index_cannot_run_ahead_of_the_ring() {
    for start in [0, 0xfffc] {
        let mut it = fixture(8, false, start);
        (0..8).for_each(|_| _ = it.driver.post(&[Part::In(1)]));
        assert_eq!(it.queue.available(), Ok(8));
        it.driver.set_avail_index(start.wrapping_add(9));
        assert_eq!(it.pop(), Err(Broken::AvailIndex));
        assert_eq!(it.queue.enable_doorbell(), Err(Broken::AvailIndex));
        it.driver.set_avail_index(start.wrapping_sub(1));
        assert_eq!(it.pop(), Err(Broken::AvailIndex));
    }
}

#[test]
fn no_more_chains_than_the_ring_has_entries_are_ever_with_the_device() {
    let mut it = fixture(4, false, 0xfffe);
    it.driver.write_descriptor(0, descriptor(BUFFER, 1, DESC_WRITE, 0));
    (0..4).for_each(|_| it.driver.make_available(0));
    (0..4).for_each(|_| assert_eq!(it.pop(), Ok(true)));
    it.driver.make_available(0);
    assert_eq!(it.pop(), Err(Broken::AvailIndex));
    it.queue.stage(0, 0, 1);
    assert_eq!(it.pop(), Err(Broken::AvailIndex), "staged is not used");
    it.queue.publish(1);
    assert_eq!(it.pop(), Ok(true));
}

#[test]
fn a_chain_that_was_not_meant_to_be_popped_comes_again() {
    let mut it = fixture(4, false, 0);
    let posted = it.driver.post(&[Part::In(1)]);
    assert_eq!(it.pop(), Ok(true));
    it.queue.undo_pop();
    assert_eq!(it.pop(), Ok(true));
    assert_eq!(it.chain.head(), posted.0);
    assert_eq!(it.pop(), Ok(false));
}

#[test]
fn staged_entries_are_seen_all_at_once() {
    let mut it = fixture(4, false, 0xffff);
    let posted = [4, 5, 6].map(|len| it.driver.post(&[Part::In(len)]));
    for (ahead, len) in (0..).zip([4, 5, 6]) {
        assert_eq!(it.pop(), Ok(true));
        it.queue.stage(ahead, it.chain.head(), len);
        assert_eq!(it.driver.used_index(), 0xffff);
    }
    it.queue.publish(3);
    assert_eq!(it.driver.used_index(), 2);
    let answered = posted.map(|_| it.driver.poll_used().unwrap());
    assert_eq!(answered.each_ref().map(|(head, _)| *head), posted);
    assert_eq!(answered.map(|(_, bytes)| bytes.len()), [4, 5, 6]);
}

#[test]
fn rings_wrap_around_many_times() {
    let mut it = fixture(4, true, 0);
    for round in 0..70_000_u32 {
        let posted = it.driver.post(&[Part::In(2)]);
        assert_eq!(it.pop(), Ok(true));
        it.queue.push(it.chain.head(), 2);
        assert_eq!(it.driver.poll_used().map(|(head, _)| head), Some(posted), "round {round}");
    }
    assert_eq!(it.driver.used_index(), (70_000 % 65_536) as u16);
}

#[test]
fn interrupts_are_left_out_if_the_flag_says_so() {
    let mut it = fixture(4, false, 0);
    let use_one = |it: &mut Fixture| {
        it.driver.post(&[Part::In(1)]);
        assert_eq!(it.pop(), Ok(true));
        it.queue.push(it.chain.head(), 1);
        it.queue.signal();
        it.queue.signal();
        it.signals.queues()
    };
    // The field of the event index has no meaning here.
    it.driver.set_used_event(100);
    assert_eq!(use_one(&mut it), 1);
    it.driver.set_avail_flags(1);
    assert_eq!(use_one(&mut it), 1);
    it.driver.set_avail_flags(0);
    assert_eq!(use_one(&mut it), 2);
}

#[test]
fn an_interrupt_comes_when_the_used_index_passes_the_event() {
    for start in [0, 0x7ffe, 0xfffa, 0xffff] {
        for event in 0..8 {
            for batch in 1..=4 {
                let mut it = fixture(8, true, start);
                it.driver.set_avail_flags(1);
                it.driver.set_used_event(start.wrapping_add(event));
                for first in (0..8).step_by(batch) {
                    let count = batch.min(8 - first);
                    for _ in 0..count {
                        it.driver.post(&[Part::In(1)]);
                        assert_eq!(it.pop(), Ok(true));
                        it.queue.push(it.chain.head(), 1);
                    }
                    it.queue.signal();
                    let passed = first + count > usize::from(event);
                    assert_eq!(it.signals.queues(), u32::from(passed), "{start} {event} {batch}");
                }
            }
        }
    }
}

#[test]
fn the_doorbell_is_wanted_from_where_the_device_stands() {
    for start in [0, 0xfffe] {
        let mut it = fixture(4, true, start);
        assert_eq!(it.queue.enable_doorbell(), Ok(false));
        assert_eq!(it.driver.avail_event(), start);
        it.driver.post(&[Part::In(1)]);
        assert_eq!(it.queue.enable_doorbell(), Ok(true), "what came before the wish");
        for popped in 1..=3 {
            assert_eq!(it.pop(), Ok(true));
            it.queue.push(it.chain.head(), 1);
            it.queue.disable_doorbell();
            assert_eq!(it.queue.enable_doorbell(), Ok(false));
            assert_eq!(it.driver.avail_event(), start.wrapping_add(popped));
            it.driver.post(&[Part::In(1)]);
        }
        assert_eq!(it.driver.used_flags(), 0, "must be zero with event indices (2.7.10.2)");
    }
    let mut it = fixture(4, false, 0);
    it.queue.disable_doorbell();
    assert_eq!(it.driver.used_flags(), 1);
    assert_eq!(it.queue.enable_doorbell(), Ok(false));
    assert_eq!(it.driver.used_flags(), 0);
    it.queue.disable_doorbell();
    it.driver.post(&[Part::In(1)]);
    assert_eq!(it.queue.enable_doorbell(), Ok(true));
}

#[test]
fn rings_must_be_where_rings_can_be() {
    let it = fixture(16, false, 0);
    let good = it.driver.state();
    let new = |change: &dyn Fn(&mut QueueState)| {
        let mut state = good;
        change(&mut state);
        let (doorbell, signals) = (Arc::clone(it.queue.doorbell()), it.signals.clone());
        Queue::new(0, &state, Arc::clone(&it.memory), doorbell, signals).map(drop)
    };
    assert_eq!(new(&|_| ()), Ok(()));
    for size in [0, 3, 15, 32, 0x8000, 0xffff] {
        assert_eq!(new(&|state| state.size = size), Err(Broken::Rings), "size {size}");
    }
    let last = MEMORY as u64;
    let misplaced: [fn(&mut QueueState) -> &mut u64; 3] = [
        |state| &mut state.desc_table,
        |state| &mut state.avail_ring,
        |state| &mut state.used_ring,
    ];
    for (ring, len) in misplaced.into_iter().zip([256, 38, 134]) {
        let place = |address: u64| new(&|state| *ring(state) = address);
        assert_eq!(place(last - 16), Err(Broken::Rings), "end of RAM");
        assert_eq!(place(last), Err(Broken::Rings), "past RAM");
        assert_eq!(place(u64::MAX - 15), Err(Broken::Rings), "end of addresses");
        assert_eq!(place(0x1001), Err(Broken::Rings), "odd");
        assert_eq!(place((last - len) & !15), Ok(()), "fits");
    }
    assert_eq!(new(&|state| state.desc_table = 0x1008), Err(Broken::Rings));
    assert_eq!(new(&|state| state.used_ring = 0x1002), Err(Broken::Rings));
    assert_eq!(new(&|state| state.avail_ring = 0x1002), Ok(()));
    // Overlaps: by the last two bytes, entirely, one within the other.
    assert_eq!(new(&|state| state.avail_ring = state.desc_table + 254), Err(Broken::Rings));
    assert_eq!(new(&|state| state.avail_ring = state.desc_table + 256), Ok(()));
    assert_eq!(new(&|state| state.used_ring = state.avail_ring + 36), Err(Broken::Rings));
    assert_eq!(new(&|state| state.used_ring = state.avail_ring + 40), Ok(()));
    assert_eq!(new(&|state| state.used_ring = state.desc_table), Err(Broken::Rings));
    assert_eq!(new(&|state| state.used_ring = state.desc_table + 16), Err(Broken::Rings));
    // Indices no queue can have.
    assert_eq!(new(&|state| state.next_avail = 16), Ok(()));
    assert_eq!(new(&|state| state.next_avail = 17), Err(Broken::AvailIndex));
    assert_eq!(new(&|state| state.next_used = 1), Err(Broken::AvailIndex));
}

#[test]
fn a_queue_carries_on_from_its_state() {
    let mut it = fixture(4, true, 0xfffe);
    let posted = [1, 2, 3].map(|len| it.driver.post(&[Part::In(len)]));
    assert_eq!(it.pop(), Ok(true));
    it.queue.push(it.chain.head(), 1);
    it.queue.signal();
    let doorbell = Arc::clone(it.queue.doorbell());
    let (memory, signals) = (Arc::clone(&it.memory), it.signals.clone());
    it.queue = Queue::new(0, &it.queue.state(), memory, doorbell, signals).unwrap();
    for len in [2, 3] {
        assert_eq!(it.pop(), Ok(true));
        it.queue.push(it.chain.head(), len);
    }
    it.driver.set_used_event(0);
    it.queue.signal();
    assert_eq!(it.signals.queues(), 1);
    assert_eq!(posted.map(|_| it.driver.poll_used().unwrap().0), posted);
}

#[test]
fn a_chain_keeps_the_memory_it_points_to() {
    let mut it = fixture(4, false, 0);
    let mut chain = Chain::new(Arc::new(memory::anonymous(&[(0, 4096)])));
    it.driver.post(&[Part::Out(b"here".to_vec())]);
    assert_eq!(it.queue.pop(&mut chain), Ok(true));
    drop(it);
    let mut bytes = [0; 4];
    chain.read(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"here");
}

#[test]
fn a_panic_with_a_queue_asks_for_a_reset() {
    let it = fixture(4, false, 0);
    let (queue, signals) = (it.queue, it.signals);
    std::thread::spawn(move || {
        let _queue = queue;
        panic!("expected by the test");
    })
    .join()
    .unwrap_err();
    assert!(signals.needs_reset());
}

/// Descriptors near the edge of sense: mostly small indices, addresses in and around RAM.
fn any_descriptor() -> impl Strategy<Value = RawDescriptor> {
    let edges = prop_oneof![
        4 => 0x10_0000..0x10_c000_u64,
        4 => Just(BUFFER),
        4 => Just(TABLE),
        1 => MEMORY as u64 - 64..MEMORY as u64 + 64,
        1 => any::<u64>(),
    ];
    let len =
        prop_oneof![4 => 0..=64_u32, 4 => (0..10_u32).prop_map(|n| 16 * n), 1 => any::<u32>()];
    let flags = prop_oneof![8 => 0..8_u16, 1 => any::<u16>()];
    let next = prop_oneof![8 => 0..9_u16, 1 => any::<u16>()];
    (edges, len, flags, next)
        .prop_map(|(address, len, flags, next)| descriptor(address, len, flags, next))
}

fn in_memory(memory: &GuestMemory, buffer: &libc::iovec) -> bool {
    let start = buffer.iov_base as usize;
    memory.iter().any(|region| {
        let base = region.get_host_address(vm_memory::MemoryRegionAddress(0)).unwrap() as usize;
        start >= base && start + buffer.iov_len <= base + region.len() as usize
    })
}

proptest! {
    #[test]
    fn whatever_lies_in_the_rings_what_is_popped_lies_in_memory(
        table in prop::collection::vec(any_descriptor(), 8),
        indirect in prop::collection::vec(any_descriptor(), 10),
        heads in prop::collection::vec(prop_oneof![8 => 0..9_u16, 1 => any::<u16>()], 0..12),
        start in any::<u16>(),
        index in prop_oneof![8 => Just(None), 1 => any::<u16>().prop_map(Some)],
        event_idx in any::<bool>(),
    ) {
        let mut it = fixture(8, event_idx, start);
        it.indirect(&indirect);
        for (index, descriptor) in (0..).zip(table) {
            it.driver.write_descriptor(index, descriptor);
        }
        heads.iter().for_each(|head| it.driver.make_available(*head));
        if let Some(index) = index {
            it.driver.set_avail_index(index);
        }
        let mut popped = 0;
        while let Ok(true) = it.pop() {
            popped += 1;
            prop_assert!(popped <= 8);
            let buffers = it.chain.readable().iter().chain(it.chain.writable());
            let mut total = 0;
            for buffer in buffers {
                prop_assert!(buffer.iov_len > 0 && in_memory(&it.memory, buffer));
                total += buffer.iov_len;
            }
            prop_assert!(total > 0 && total == it.chain.readable_len() + it.chain.writable_len());
            let mut bytes = [0; 64];
            let whole = it.chain.readable_len() >= 64;
            prop_assert_eq!(it.chain.read(0, &mut bytes).is_ok(), whole);
        }
    }
}
