//! Registers as a driver finds them.
#![allow(clippy::cast_possible_truncation)] // Sizes chosen by the test.

use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::*;
use crate::virtio::device::{Activation, DeviceId, VirtioDevice, read_config};
use crate::virtio::queue::Queue;
use crate::virtio::rng::Rng;
use crate::virtio::test_driver::mmio::MmioDevice;
use crate::virtio::test_driver::{Part, wait};

/// A device of three bytes of configuration.
#[derive(Default)]
struct Configured([u8; 3]);

impl VirtioDevice for Configured {
    fn id(&self) -> DeviceId {
        DeviceId::Net
    }

    fn features(&self) -> u64 {
        1 << 5 | 1 << 55
    }

    fn queue_sizes(&self) -> &[u16] {
        &[256, 32]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config(&self.0, offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (1, [byte]) = (offset, data) {
            self.0[1] = *byte;
        }
    }

    fn activate(&mut self, _: Activation) -> std::io::Result<()> {
        Ok(())
    }

    fn quiesce(&mut self) -> Vec<Queue> {
        vec![]
    }

    fn reset(&mut self) {}
}

#[test]
fn the_device_says_what_it_is() {
    let mut guest = MmioDevice::new(Configured([1, 2, 3]));
    assert_eq!(guest.read(0x00), 0x7472_6976);
    assert_eq!(guest.read(0x04), 2);
    assert_eq!(guest.read(0x08), 1);
    assert_eq!(guest.read(0x0c), u32::from_le_bytes(*b"CARV"));
    assert_eq!(MmioDevice::new(Rng::default()).read(0x08), 4);
}

#[test]
fn features_are_read_in_words() {
    let mut guest = MmioDevice::new(Configured::default());
    let words = [(0, 1 << 5 | 1 << 28 | 1 << 29), (1, 1 | 1 << 8 | 1 << 23), (2, 0), (u32::MAX, 0)];
    for (word, features) in words {
        guest.write(0x14, word);
        assert_eq!(guest.read(0x10), features, "word {word}");
    }
}

#[test]
fn queue_registers_are_those_of_the_selected_queue() {
    let mut guest = MmioDevice::new(Configured::default());
    guest.negotiate(u64::MAX);
    for (queue, size) in [(0, 256), (1, 32), (2, 0), (0x1_0000, 0), (u32::MAX, 0)] {
        guest.write(0x30, queue);
        assert_eq!((guest.read(0x34), guest.read(0x44)), (size, 0));
        guest.write(0x38, 16);
        guest.write(0x44, 2);
        assert_eq!(guest.read(0x44), 0, "only one enables");
        for (register, value) in [(0x80, 0x1000), (0x90, 0x2000), (0xa0, 0x3000)] {
            guest.write(register, value);
            guest.write(register + 4, queue);
        }
        guest.write(0x44, 1);
        assert_eq!(guest.read(0x44), u32::from(size != 0));
    }
    guest.write(0x30, 1);
    let core = guest.core();
    assert_eq!(core.queue_size(), 16);
    let rings =
        [Ring::Descriptors, Ring::Available, Ring::Used].map(|ring| core.ring_address(ring));
    assert_eq!(rings, [0x1_0000_1000, 0x1_0000_2000, 0x1_0000_3000]);
}

#[test]
fn a_size_past_16_bits_is_none() {
    let mut guest = MmioDevice::new(Configured::default());
    guest.negotiate(u64::MAX);
    guest.write(0x38, 0x1_0010);
    assert_eq!(guest.core().queue_size(), 0);
}

#[test]
fn registers_that_are_only_written_read_zero_and_unknown_ones_too() {
    let mut guest = MmioDevice::new(Rng::default());
    guest.start(u64::MAX);
    let zero = [0x14, 0x20, 0x24, 0x30, 0x38, 0x50, 0x64, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0xac];
    for register in zero.into_iter().chain([0x18, 0x1c, 0x28, 0x2c, 0x3c, 0x40, 0xc0, 0xc4, 0xf8]) {
        assert_eq!(guest.read(register), 0, "{register:#x}");
    }
}

#[test]
fn there_is_no_shared_memory() {
    let mut guest = MmioDevice::new(Rng::default());
    for region in [0, 1, 255] {
        guest.write(0xac, region);
        for register in [0xb0, 0xb4, 0xb8, 0xbc] {
            assert_eq!(guest.read(register), u32::MAX);
        }
    }
}

#[test]
fn registers_are_accessed_whole() {
    let mut guest = MmioDevice::new(Rng::default());
    for (offset, len) in [(0, 1), (0, 2), (0, 8), (1, 4), (2, 4), (3, 2), (0x70, 1), (0xfe, 4)] {
        let mut data = vec![0xaa; len];
        guest.mmio.read(offset, &mut data);
        assert_eq!(data, vec![0; len], "{len} bytes at {offset:#x}");
        guest.mmio.write(offset, &vec![1; len]);
    }
    for (offset, data) in [(0x70, &[1][..]), (0x70, &[1, 0]), (0x6f, &[0, 1, 0, 0]), (0x70, &[])] {
        guest.mmio.write(offset, data);
        assert_eq!(guest.status(), 0);
    }
}

#[test]
fn the_configuration_is_accessed_by_bytes() {
    let mut guest = MmioDevice::new(Configured([1, 2, 3]));
    let read = |guest: &mut MmioDevice, offset, len| {
        let mut data = vec![0xaa; len];
        guest.mmio.read(offset, &mut data);
        data
    };
    assert_eq!(read(&mut guest, 0x100, 1), [1]);
    assert_eq!(read(&mut guest, 0x101, 2), [2, 3]);
    assert_eq!(read(&mut guest, 0x102, 4), [3, 0, 0, 0]);
    assert_eq!(read(&mut guest, 0x103, 1), [0]);
    assert_eq!(read(&mut guest, WINDOW - 1, 1), [0]);
    assert_eq!(read(&mut guest, u64::MAX, 8), [0; 8]);
    guest.negotiate(u64::MAX);
    guest.mmio.write(0x101, &[9]);
    guest.mmio.write(0x100, &[9]);
    assert_eq!(read(&mut guest, 0x100, 3), [1, 9, 3]);
}

#[test]
fn interrupts_are_pending_until_acknowledged() {
    let mut guest = MmioDevice::new(Rng::default());
    guest.start(u64::MAX);
    let interrupt = Arc::clone(&guest.mmio.interrupt);
    interrupt.signal_queue(0);
    assert_eq!((guest.read(0x60), guest.line.edges()), (1, 1));
    interrupt.signal_queue(0);
    interrupt.signal_config();
    assert_eq!((guest.read(0x60), guest.line.edges()), (3, 3), "each event sends an edge");
    guest.write(0x64, 1);
    assert_eq!(guest.read(0x60), 2);
    guest.write(0x64, 0);
    assert_eq!(guest.read(0x60), 2);
    guest.write(0x64, u32::MAX);
    assert_eq!(guest.read(0x60), 0);
    guest.write(0x60, 3);
    assert_eq!(guest.read(0x60), 0, "read-only");
    assert_eq!(guest.line.edges(), 3);
}

#[test]
fn the_generation_changes_with_the_configuration_alone() {
    let mut guest = MmioDevice::new(Rng::default());
    let interrupt = Arc::clone(&guest.mmio.interrupt);
    let before = guest.read(0xfc);
    interrupt.signal_queue(0);
    interrupt.signal_needs_reset();
    assert_eq!(guest.read(0xfc), before);
    interrupt.signal_config();
    let after = guest.read(0xfc);
    assert_ne!(after, before);
    guest.write(0x70, 0);
    assert_eq!(guest.read(0xfc), after, "a driver of before the reset may still be reading");
}

#[test]
fn a_broken_device_tells_a_running_driver_once() {
    let mut guest = MmioDevice::new(Rng::default());
    let interrupt = Arc::clone(&guest.mmio.interrupt);
    guest.negotiate(u64::MAX);
    interrupt.signal_needs_reset();
    assert_eq!((guest.status(), guest.line.edges()), (11 | 64, 0), "before DRIVER_OK it can look");
    guest.start(u64::MAX);
    interrupt.signal_needs_reset();
    interrupt.signal_needs_reset();
    assert_eq!((guest.status(), guest.read(0x60), guest.line.edges()), (15 | 64, 2, 1));
}

#[test]
fn a_line_that_fails_leaves_the_interrupt_pending() {
    struct Dead(AtomicBool);
    impl InterruptLine for Dead {
        fn trigger(&self) -> std::io::Result<()> {
            self.0.store(true, std::sync::atomic::Ordering::SeqCst);
            Err(std::io::Error::other("cut"))
        }
    }
    let notifications = Arc::<Notifications>::default();
    let line = Arc::new(Dead(AtomicBool::new(false)));
    let interrupt = MmioInterrupt::new(line.clone(), Arc::clone(&notifications));
    interrupt.signal_queue(0);
    assert_eq!(notifications.pending(), isr::USED_BUFFER);
    assert!(line.0.load(std::sync::atomic::Ordering::SeqCst));
}

#[test]
fn requests_are_answered_by_registers_alone() {
    for features in [u64::MAX, 0x1_0000_0000] {
        let mut guest = MmioDevice::new(Rng::default());
        let mut queue = guest.start(features).remove(0);
        for _ in 0..300 {
            let posted = queue.post(&[Part::In(24)]);
            guest.kick(0);
            assert_eq!(queue.wait_used().0, posted);
        }
        wait("an interrupt", || guest.read(0x60) == 1);
    }
}

#[test]
fn a_driver_that_breaks_a_ring_is_told_and_starts_over() {
    let mut guest = MmioDevice::new(Rng::default());
    for _ in 0..20 {
        let mut queue = guest.start(u64::MAX).remove(0);
        queue.make_available(64);
        guest.kick(0);
        wait("a request for a reset", || guest.status() & 64 != 0);
        assert_eq!(guest.read(0x60) & 2, 2);
        guest.kick(0);
        let mut queue = guest.start(u64::MAX).remove(0);
        let posted = queue.post(&[Part::In(8)]);
        guest.kick(0);
        assert_eq!(queue.wait_used().0, posted);
    }
}

#[test]
fn the_doorbells_of_queues_that_are_not_there_ring_nothing() {
    let mut guest = MmioDevice::new(Rng::default());
    for value in [0, 1, 0xffff, 0x1_0000, u32::MAX] {
        guest.write(QUEUE_NOTIFY, value);
    }
    guest.start(u64::MAX);
    for value in [1, 0xffff, 0x1_0000, u32::MAX] {
        guest.write(QUEUE_NOTIFY, value);
    }
    assert_eq!(guest.status(), 15);
}

#[derive(Clone, Debug)]
enum Access {
    Read(u64, usize),
    Write(u64, Vec<u8>),
    Start,
    PauseAndResume,
}

fn any_access() -> impl Strategy<Value = Access> {
    let offset =
        || prop_oneof![8 => (0..0x44_u64).prop_map(|n| n * 4), 1 => 0..WINDOW, 1 => any::<u64>()];
    let value = prop_oneof![
        4 => 0..16_u32,
        2 => (0..0x1000_u32).prop_map(|n| n << 12),
        1 => any::<u32>(),
    ];
    prop_oneof![
        4 => (offset(), 0..9_usize).prop_map(|(offset, len)| Access::Read(offset, len)),
        16 => (offset(), value).prop_map(|(at, value)| Access::Write(at, value.to_le_bytes().to_vec())),
        2 => (offset(), prop::collection::vec(any::<u8>(), 0..9)).prop_map(|(at, data)| Access::Write(at, data)),
        1 => Just(Access::Start),
        1 => Just(Access::PauseAndResume),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_sequence_of_accesses_leaves_the_state_machine(
        accesses in prop::collection::vec(any_access(), 1..60)
    ) {
        let mut guest = MmioDevice::new(Rng::default());
        for access in accesses {
            match access {
                Access::Read(offset, len) => guest.mmio.read(offset, &mut vec![0; len]),
                Access::Write(offset, data) => drop(guest.mmio.write(offset, &data)),
                Access::Start => drop(guest.start(u64::MAX)),
                Access::PauseAndResume => {
                    guest.core().suspend();
                    let state = guest.core().save();
                    let fresh = MmioDevice::with_memory(Rng::default(), Arc::clone(&guest.memory));
                    let restored = fresh.core().restore(&state);
                    prop_assert!(restored.is_ok(), "{restored:?} of {state:?}");
                    guest.core().resume();
                }
            }
            let status = guest.status();
            prop_assert_eq!(status & 0x30, 0);
            prop_assert!(status & 4 == 0 || status & 8 != 0);
            prop_assert!(status & 8 == 0 || guest.core().negotiated(1 << 32));
        }
        prop_assert!(guest.negotiate(u64::MAX), "a reset brings it back");
    }
}
