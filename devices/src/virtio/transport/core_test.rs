//! The state machine, with a device that notes what it is told and answers nothing until stopped.
#![allow(clippy::cast_possible_truncation)] // Sizes chosen by the test.

use std::sync::Mutex;

use virtio_queue::QueueState;

use super::state::SavedQueue;
use super::*;
use crate::virtio::chain::Chain;
use crate::virtio::device::RestoreError;
use crate::virtio::rng::Rng;
use crate::virtio::test_driver::mmio::MmioDevice;
use crate::virtio::test_driver::{DriverQueue, Part};

const OWN_FEATURE: u64 = 1 << 3;

#[derive(Debug, Default)]
struct Record {
    activations: Vec<Vec<u16>>,
    features: u64,
    resets: u32,
    config: Vec<u8>,
    /// Requests taken and not answered.
    held: usize,
}

/// What the device does wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Fault {
    #[default]
    None,
    /// It cannot be started.
    Activate,
    /// One of its queues is gone with a thread.
    Loses,
}

#[derive(Default)]
struct Probe {
    record: Arc<Mutex<Record>>,
    fault: Arc<Mutex<Fault>>,
    queues: Vec<(Queue, Vec<Chain>)>,
}

impl VirtioDevice for Probe {
    fn id(&self) -> DeviceId {
        DeviceId::Console
    }

    fn features(&self) -> u64 {
        OWN_FEATURE
    }

    fn queue_sizes(&self) -> &[u16] {
        &[8, 8, 16]
    }

    fn read_config(&self, _: u64, data: &mut [u8]) {
        data.fill(7);
    }

    fn write_config(&mut self, _: u64, data: &[u8]) {
        self.record.lock().unwrap().config.extend_from_slice(data);
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        assert!(self.queues.is_empty(), "active already");
        let mut record = self.record.lock().unwrap();
        record.activations.push(activation.queues.iter().map(Queue::index).collect());
        record.features = activation.features;
        self.queues = activation.queues.into_iter().map(|queue| (queue, vec![])).collect();
        for (queue, held) in &mut self.queues {
            let mut chain = queue.chain();
            while queue.pop(&mut chain).unwrap() {
                held.push(std::mem::replace(&mut chain, queue.chain()));
                record.held += 1;
            }
        }
        match *self.fault.lock().unwrap() {
            Fault::Activate => Err(io::Error::other("no thread")),
            _ => Ok(()),
        }
    }

    fn quiesce(&mut self) -> Vec<Queue> {
        let mut queues = vec![];
        for (mut queue, held) in self.queues.drain(..) {
            for chain in held {
                chain.write(0, b"!").unwrap();
                queue.push(chain.head(), 1);
                self.record.lock().unwrap().held -= 1;
            }
            queues.push(queue);
        }
        if *self.fault.lock().unwrap() == Fault::Loses {
            queues.pop();
        }
        queues
    }

    fn reset(&mut self) {
        assert!(self.queues.is_empty(), "not quiesced");
        self.record.lock().unwrap().resets += 1;
    }

    fn save(&self) -> Vec<u8> {
        vec![42]
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), RestoreError> {
        let refusal = RestoreError { device: "probe", reason: "another answer".to_owned() };
        if state == [42] { Ok(()) } else { Err(refusal) }
    }
}

struct Fixture {
    guest: MmioDevice,
    record: Arc<Mutex<Record>>,
    fault: Arc<Mutex<Fault>>,
}

fn fixture() -> Fixture {
    let probe = Probe::default();
    let (record, fault) = (Arc::clone(&probe.record), Arc::clone(&probe.fault));
    Fixture { guest: MmioDevice::new(probe), record, fault }
}

impl Fixture {
    fn activations(&self) -> Vec<Vec<u16>> {
        self.record.lock().unwrap().activations.clone()
    }

    fn is_active(&self) -> bool {
        self.guest.core().active
    }
}

fn post(queue: &mut DriverQueue) {
    queue.post(&[Part::In(1)]);
}

fn answers(queue: &mut DriverQueue) -> usize {
    std::iter::from_fn(|| queue.poll_used()).count()
}

#[test]
fn a_driver_gets_the_features_it_chose() {
    let mut it = fixture();
    it.guest.start(feature::VERSION_1 | OWN_FEATURE);
    assert_eq!(it.record.lock().unwrap().features, feature::VERSION_1 | OWN_FEATURE);
    it.guest.start(u64::MAX);
    assert_eq!(it.record.lock().unwrap().features, feature::ALWAYS | OWN_FEATURE);
    assert_eq!(it.activations(), [[0, 1, 2], [0, 1, 2]]);
}

#[test]
fn unknown_features_and_legacy_drivers_are_refused() {
    let mut it = fixture();
    assert!(!it.guest.negotiate(!feature::VERSION_1));
    assert!(it.guest.negotiate(u64::MAX));
    for (word, value) in [(0, 1), (0, 1 << 30), (1, 1 << 8 | 2), (1, 1 << 31 | 1), (2, 1), (3, 1)] {
        it.guest.negotiate(0);
        it.guest.write(0x24, 1);
        it.guest.write(0x20, 1);
        it.guest.write(0x24, word);
        it.guest.write(0x20, value | u32::from(word == 1));
        let unknown = word != 1 || value != 1 << 8 | 1;
        let status = it.guest.add_status(status::FEATURES_OK);
        assert_eq!(status & status::FEATURES_OK == 0, unknown, "{word}: {value:#x}");
    }
    // A refusal is not the end: the driver may choose again.
    it.guest.negotiate(0);
    it.guest.write(0x24, 1);
    it.guest.write(0x20, 1);
    it.guest.write(0x24, 7);
    it.guest.write(0x20, 0);
    assert_ne!(it.guest.add_status(status::FEATURES_OK) & status::FEATURES_OK, 0);
}

#[test]
fn features_are_written_between_driver_and_features_ok_only() {
    let mut it = fixture();
    it.guest.write(0x24, 1);
    it.guest.write(0x20, 1);
    assert_eq!(it.guest.core().driver_features(), 0);
    assert!(it.guest.negotiate(u64::MAX));
    let agreed = it.guest.core().driver_features;
    it.guest.write(0x24, 0);
    it.guest.write(0x20, 0);
    assert_eq!(it.guest.core().driver_features, agreed);
    it.guest.add_status(status::DRIVER_OK);
    it.guest.write(0x20, 0);
    assert_eq!(it.guest.core().driver_features, agreed);
}

#[test]
fn status_bits_come_in_order_and_stay() {
    let mut it = fixture();
    assert_eq!(it.guest.add_status(status::DRIVER_OK), 0, "nothing was negotiated");
    assert_eq!(it.guest.add_status(status::FEATURES_OK), 0, "nothing was chosen");
    assert_eq!(it.guest.add_status(status::ACKNOWLEDGE | status::DRIVER), 3);
    assert_eq!(it.guest.add_status(status::DRIVER_OK), 3);
    assert_eq!(
        it.guest.add_status(16 | 32 | status::NEEDS_RESET),
        3,
        "reserved, or not the driver's"
    );
    it.guest.write(0x70, 1);
    assert_eq!(it.guest.status(), 3, "only reset clears bits");
    it.guest.write(0x70, 0x100);
    assert_eq!(it.guest.status(), 3, "not a zero");
    assert_eq!(it.guest.add_status(status::FAILED), 3 | status::FAILED);
    assert!(it.activations().is_empty());
}

#[test]
fn needs_reset_is_neither_cleared_nor_complained_about_when_written_back() {
    let mut it = fixture();
    it.guest.negotiate(u64::MAX);
    it.guest.core().notifications.needs_reset();
    let before = it.guest.core().log.total();
    assert_eq!(it.guest.add_status(status::FAILED), 0xcb);
    it.guest.write(0x70, 0x8b);
    assert_eq!(it.guest.status(), 0xcb);
    assert_eq!(it.guest.core().log.total(), before);
    // A device in need of a reset is not started.
    assert_eq!(it.guest.add_status(status::DRIVER_OK), 0xcf);
    assert!(it.activations().is_empty());
}

#[test]
fn queues_are_set_up_between_features_ok_and_driver_ok_only() {
    let mut it = fixture();
    let set_up = |guest: &mut MmioDevice| {
        let mut core = guest.core();
        core.select_queue(1);
        core.set_queue_size(4);
        core.set_ring_address(Ring::Used, Half::High, 1);
        core.set_ring_address(Ring::Used, Half::Low, 4);
        core.enable_queue();
        (core.queue_ready(), core.queue_size(), core.ring_address(Ring::Used))
    };
    assert_eq!(set_up(&mut it.guest), (false, 8, 0));
    it.guest.add_status(status::ACKNOWLEDGE | status::DRIVER);
    assert_eq!(set_up(&mut it.guest), (false, 8, 0));
    it.guest.start(u64::MAX);
    it.guest.negotiate(u64::MAX);
    assert_eq!(set_up(&mut it.guest), (true, 4, 0x1_0000_0004));
    // Enabled queues do not change any more.
    it.guest.core().set_queue_size(2);
    it.guest.core().set_ring_address(Ring::Used, Half::Low, 8);
    assert_eq!(it.guest.core().queue_size(), 4);
    assert_eq!(it.guest.core().ring_address(Ring::Used), 0x1_0000_0004);
    it.guest.negotiate(u64::MAX);
    it.guest.add_status(status::DRIVER_OK);
    assert_eq!(set_up(&mut it.guest), (false, 8, 0));
    assert_eq!(it.activations().last().unwrap(), &[] as &[u16]);
}

#[test]
fn there_are_no_queues_past_the_last() {
    let it = fixture();
    let mut core = it.guest.core();
    for index in [3, u16::MAX] {
        core.select_queue(index);
        assert_eq!((core.queue_select(), core.queue_max_size(), core.queue_size()), (index, 0, 0));
        assert_eq!(core.ring_address(Ring::Available), 0);
        core.set_queue_size(4);
        core.enable_queue();
        core.reset_queue();
        core.disable_queue();
        core.notify(index);
        assert!(!core.queue_ready());
    }
}

#[test]
fn a_reset_in_any_state_starts_over() {
    let steps: [fn(&mut Fixture); 7] = [
        |_| (),
        |it| _ = it.guest.add_status(status::ACKNOWLEDGE),
        |it| assert!(it.guest.negotiate(u64::MAX)),
        |it| {
            it.guest.negotiate(u64::MAX);
            let queue = it.guest.queue(0);
            it.guest.enable(&queue);
        },
        |it| drop(it.guest.start(u64::MAX)),
        |it| {
            it.guest.start(u64::MAX);
            it.guest.add_status(status::FAILED);
        },
        |it| {
            it.guest.start(u64::MAX);
            it.guest.core().interrupt.signal_needs_reset();
        },
    ];
    for step in steps {
        let mut it = fixture();
        step(&mut it);
        it.guest.write(0x30, 2);
        it.guest.core().interrupt.signal_config();
        let resets = it.record.lock().unwrap().resets;
        it.guest.write(0x70, 0);
        assert_eq!(it.record.lock().unwrap().resets, resets + 1);
        assert_eq!(it.guest.status(), 0);
        assert_eq!(it.guest.read(0x60), 0, "no interrupt is pending");
        assert!(it.guest.connected.queues().is_empty());
        let state = it.guest.core().save();
        let fresh = fixture().guest.core().save();
        assert_eq!(DeviceState { generation: 0, ..state }, fresh);
        it.guest.start(u64::MAX);
        assert!(it.is_active());
    }
}

#[test]
fn a_reset_in_the_middle_of_requests_waits_for_them() {
    let mut it = fixture();
    let mut queues = it.guest.start(u64::MAX);
    (0..5).for_each(|_| post(&mut queues[1]));
    it.guest.core().suspend();
    it.guest.core().resume();
    assert_eq!(it.record.lock().unwrap().held, 5);
    it.guest.write(0x70, 0);
    assert_eq!(it.record.lock().unwrap().held, 0);
    assert_eq!(answers(&mut queues[1]), 5);
    let mut queues = it.guest.start(u64::MAX);
    post(&mut queues[1]);
    it.guest.core().suspend();
    it.guest.core().resume();
    assert_eq!(it.record.lock().unwrap().held, 1, "rings start at zero again");
}

#[test]
fn rings_that_cannot_be_make_the_device_need_a_reset() {
    let spoil: [fn(&mut QueueState); 4] = [
        |state| state.size = 3,
        |state| state.desc_table = 1,
        |state| state.avail_ring = 1 << 40,
        |state| state.used_ring = state.desc_table,
    ];
    for spoil in spoil {
        let mut it = fixture();
        it.guest.negotiate(u64::MAX);
        for index in 0..2 {
            let queue = it.guest.queue(index);
            it.guest.enable(&queue);
        }
        spoil(&mut it.guest.core().queues[1].state);
        assert_eq!(it.guest.add_status(status::DRIVER_OK), 15 | status::NEEDS_RESET);
        assert_eq!((it.guest.read(0x60), it.guest.line.edges()), (2, 1));
        assert!(it.activations().is_empty() && it.guest.connected.queues().is_empty());
        // It can be saved, resumed and reset like that.
        let state = it.guest.core().save();
        it.guest.core().resume();
        assert!(!it.is_active());
        let restored = fixture();
        restored.guest.core().restore(&state).unwrap();
        restored.guest.core().resume();
        assert!(restored.activations().is_empty());
        it.guest.start(u64::MAX);
        assert!(it.is_active());
    }
}

#[test]
fn a_device_that_does_not_start_needs_a_reset_and_gets_its_queues_taken_away() {
    let mut it = fixture();
    *it.fault.lock().unwrap() = Fault::Activate;
    it.guest.negotiate(u64::MAX);
    let mut queue = it.guest.queue(0);
    post(&mut queue);
    it.guest.enable(&queue);
    assert_eq!(it.guest.add_status(status::DRIVER_OK), 15 | status::NEEDS_RESET);
    assert!(!it.is_active());
    assert_eq!(it.record.lock().unwrap().held, 0);
    *it.fault.lock().unwrap() = Fault::None;
    it.guest.start(u64::MAX);
    assert!(it.is_active());
}

#[test]
fn a_queue_that_is_lost_makes_the_device_need_a_reset() {
    let mut it = fixture();
    it.guest.start(u64::MAX);
    *it.fault.lock().unwrap() = Fault::Loses;
    assert!(it.guest.core().suspend());
    assert_eq!(it.guest.status(), 15 | status::NEEDS_RESET);
    it.guest.core().resume();
    assert!(!it.is_active());
    *it.fault.lock().unwrap() = Fault::None;
    it.guest.start(u64::MAX);
    assert!(it.is_active());
}

#[test]
fn one_queue_is_reset_while_another_has_requests_in_flight() {
    let mut it = fixture();
    let mut queues = it.guest.start(u64::MAX);
    assert_eq!(it.guest.connected.queues(), [0, 1, 2]);
    (0..3).for_each(|_| post(&mut queues[0]));
    (0..2).for_each(|_| post(&mut queues[1]));
    it.guest.core().suspend();
    it.guest.core().resume();
    assert_eq!(it.record.lock().unwrap().held, 5);
    post(&mut queues[0]);
    it.guest.write(0x30, 1);
    it.guest.write(0xc0, 1);
    assert_eq!((it.guest.read(0xc0), it.guest.read(0x44)), (0, 0));
    assert_eq!(it.guest.connected.queues(), [0, 2]);
    assert_eq!(it.activations().last().unwrap(), &[0, 2]);
    assert_eq!(it.record.lock().unwrap().held, 1, "the fourth of the other queue");
    assert_eq!((answers(&mut queues[0]), answers(&mut queues[1])), (3, 2));
    assert_eq!(it.guest.status(), 15);
    // Again, at other addresses and of another size.
    let mut queue = DriverQueue::new(&it.guest.memory, 7, 4, true);
    post(&mut queue);
    let state = queue.state();
    it.guest.write(0x38, 4);
    for (register, address) in
        [(0x80, state.desc_table), (0x90, state.avail_ring), (0xa0, state.used_ring)]
    {
        it.guest.write(register, address as u32);
    }
    it.guest.write(0x44, 1);
    assert_eq!(it.guest.read(0x44), 1);
    assert_eq!(it.activations().last().unwrap(), &[0, 1, 2]);
    assert_eq!(it.record.lock().unwrap().held, 1, "that of the new ring; the other is answered");
    it.guest.core().suspend();
    assert_eq!((answers(&mut queues[0]), answers(&mut queue)), (1, 1));
}

#[test]
fn queues_are_reset_only_by_drivers_that_agreed_to_it() {
    let mut it = fixture();
    it.guest.start(!feature::RING_RESET);
    it.guest.write(0x30, 1);
    it.guest.write(0xc0, 1);
    assert_eq!(it.guest.read(0x44), 1);
    assert_eq!(it.activations().len(), 1);
    it.guest.write(0x44, 0);
    assert_eq!(it.guest.read(0x44), 0, "disabling needs no feature");
    assert_eq!(it.activations().last().unwrap(), &[0, 2]);
}

#[test]
fn a_reset_queue_that_comes_back_broken_breaks_the_device() {
    let mut it = fixture();
    it.guest.start(u64::MAX);
    it.guest.write(0x30, 1);
    it.guest.write(0xc0, 1);
    it.guest.write(0x38, 5);
    it.guest.write(0x44, 1);
    assert_eq!(it.guest.status(), 15 | status::NEEDS_RESET);
    assert!(!it.is_active());
    // Nothing of it starts the device again.
    it.guest.write(0xc0, 1);
    assert_eq!(it.guest.read(0x44), 0);
    assert!(!it.is_active());
}

#[test]
fn the_configuration_is_written_after_negotiation_only() {
    let mut it = fixture();
    it.guest.add_status(status::ACKNOWLEDGE | status::DRIVER);
    it.guest.core().write_config(0, &[1]);
    it.guest.negotiate(u64::MAX);
    it.guest.core().write_config(0, &[2]);
    it.guest.write(0x70, 0);
    it.guest.core().write_config(0, &[3]);
    assert_eq!(it.record.lock().unwrap().config, [2]);
}

#[test]
fn doorbells_are_kvms_while_the_queue_is_enabled() {
    let mut it = fixture();
    it.guest.negotiate(u64::MAX);
    let queue = it.guest.queue(1);
    it.guest.enable(&queue);
    assert!(it.guest.connected.queues().is_empty(), "not before DRIVER_OK");
    it.guest.add_status(status::DRIVER_OK);
    assert_eq!(it.guest.connected.queues(), [1]);
    it.guest.core().suspend();
    it.guest.core().resume();
    assert_eq!(it.guest.connected.queues(), [1]);
    it.guest.core().notify(1);
    assert_eq!(it.guest.core().queues[1].doorbell.read().unwrap(), 1);
    it.guest.core().notify(0);
    assert!(it.guest.core().queues[0].doorbell.read().is_err(), "it is not enabled");
    it.guest.core().notify(1);
    it.guest.write(0x70, 0);
    assert!(it.guest.core().queues[1].doorbell.read().is_err(), "rang for the queue of before");
    assert!(it.guest.connected.queues().is_empty());
    it.guest.start(u64::MAX);
    let connected = Arc::clone(&it.guest.connected);
    drop(it);
    assert!(connected.queues().is_empty());
}

#[test]
fn pause_before_the_driver_is_ready_starts_nothing() {
    let mut it = fixture();
    it.guest.negotiate(u64::MAX);
    assert!(!it.guest.core().suspend());
    it.guest.core().resume();
    assert!(it.activations().is_empty());
    it.guest.start(u64::MAX);
    it.guest.core().resume();
    assert_eq!(it.activations().len(), 1, "active already");
}

/// A device stopped with a request answered and not signalled, and its state.
fn saved() -> (Fixture, DriverQueue, DeviceState) {
    let mut it = fixture();
    let mut queues = it.guest.start(u64::MAX);
    queues[0].set_used_event(u16::MAX);
    post(&mut queues[0]);
    it.guest.core().suspend();
    it.guest.core().resume();
    it.guest.core().interrupt.signal_config();
    it.guest.core().suspend();
    let state = it.guest.core().save();
    (it, queues.remove(0), state)
}

#[test]
fn a_device_is_restored_as_it_was() {
    let (it, mut queue, state) = saved();
    let probe = Probe::default();
    let record = Arc::clone(&probe.record);
    let mut guest = MmioDevice::with_memory(probe, Arc::clone(&it.guest.memory));
    guest.core().restore(&state).unwrap();
    assert_eq!(guest.core().save(), state);
    assert_eq!((guest.status(), guest.read(0xfc), guest.read(0x60)), (15, 1, 2));
    guest.core().resume();
    assert_eq!(guest.line.edges(), 4, "what may have been lost on the way is sent again");
    assert_eq!((guest.read(0x60), guest.read(0xfc)), (3, 2));
    assert_eq!(record.lock().unwrap().activations, [[0, 1, 2]]);
    assert_eq!(guest.connected.queues(), [0, 1, 2]);
    assert_eq!(answers(&mut queue), 1);
    post(&mut queue);
    guest.core().suspend();
    guest.core().resume();
    guest.core().suspend();
    assert_eq!(answers(&mut queue), 1);
}

#[test]
fn states_that_cannot_be_are_refused() {
    let (it, _, good) = saved();
    type Spoil = fn(&mut DeviceState);
    let spoil: [(&str, Spoil); 16] = [
        ("status", |state| state.status |= 16),
        ("skips", |state| state.status = status::DRIVER_OK),
        ("skips", |state| state.status = status::DRIVER_OK | status::FEATURES_OK),
        ("features", |state| state.driver_features |= 1 << 60),
        ("features", |state| state.driver_features &= !feature::VERSION_1),
        ("features", |state| state.unknown_features = true),
        ("interrupts", |state| state.interrupts = 4),
        ("queues", |state| state.queues.clear()),
        ("queues", |state| state.queues.push(state.queues[0].clone())),
        ("queue 0", |state| state.queues[0].size = 0),
        ("queue 1", |state| state.queues[1].size = 16),
        ("queue 2", |state| state.queues[2].used_ring = !3),
        ("queue 0", |state| state.queues[0].next_avail += 9),
        ("queue 0", |state| state.queues[0].reset = true),
        ("queue 1", |state| {
            state.queues[1] = SavedQueue { ready: false, next_used: 1, ..state.queues[1].clone() };
        }),
        ("another answer", |state| state.device.clear()),
    ];
    for (reason, spoil) in spoil {
        let mut state = good.clone();
        spoil(&mut state);
        let guest = MmioDevice::with_memory(Probe::default(), Arc::clone(&it.guest.memory));
        let error = guest.core().restore(&state).unwrap_err();
        assert!(error.reason.contains(reason), "{reason}: {error}");
        assert_eq!(guest.core().status(), 0);
        guest.core().restore(&good).unwrap();
    }
    let error = it.guest.core().restore(&good).unwrap_err();
    assert!(error.reason.contains("in use"));
}

#[test]
fn a_broken_device_is_restored_broken_and_says_so_again() {
    let (it, _, mut state) = saved();
    state.status |= status::NEEDS_RESET;
    // Whatever broke it: nobody looks at its rings any more.
    state.queues[0].size = 3;
    let mut guest = MmioDevice::with_memory(Probe::default(), Arc::clone(&it.guest.memory));
    guest.core().restore(&state).unwrap();
    guest.core().resume();
    assert!(!guest.core().active);
    assert_eq!((guest.status(), guest.read(0x60)), (15 | status::NEEDS_RESET, 3));
    guest.start(u64::MAX);
    assert!(guest.core().active);
}

#[test]
fn queues_are_ready_only_after_negotiation() {
    let (_, _, mut state) = saved();
    state.status = status::ACKNOWLEDGE | status::DRIVER;
    let error = fixture().guest.core().restore(&state).unwrap_err();
    assert!(error.reason.contains("queue 0"), "{error}");
}

#[test]
fn random_bytes_survive_pause_save_and_restore_through_the_transport() {
    let mut guest = MmioDevice::new(Rng::default());
    let mut queue = guest.start(u64::MAX).remove(0);
    for round in 0..20 {
        let posted = queue.post(&[Part::In(16)]);
        if round % 3 != 0 {
            guest.kick(0);
        }
        guest.core().suspend();
        if round % 2 == 0 {
            let state = guest.core().save();
            guest = MmioDevice::with_memory(Rng::default(), Arc::clone(&guest.memory));
            guest.core().restore(&state).unwrap();
        }
        guest.core().resume();
        assert_eq!(queue.wait_used().0, posted);
    }
    assert_eq!(guest.status(), 15);
}
