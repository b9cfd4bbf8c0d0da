//! The function from its driver's side, through the bus it sits on.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::bus::SharedBusDevice;
use crate::ioapic::Message;
use crate::memory;
use crate::pci::{Ecam, MmioWindow, Root};
use crate::virtio::device::{Activation, DeviceId};
use crate::virtio::interrupt::{Caller, Interrupt};
use crate::virtio::queue::Queue;
use crate::virtio::rng::Rng;
use crate::virtio::test_driver::{DriverQueue, MEMORY, Part, wait};
use crate::virtio::transport::{feature, status};

const WINDOW: Range<u64> = 0x10_0000_0000..0x10_1000_0000;
const NO_VECTOR: u16 = 0xffff;
const OWN_FEATURES: u64 = 1 << 5 | 1 << 33;

/// What the machine saw.
#[derive(Default)]
struct Machine {
    doorbells: Mutex<BTreeMap<u64, usize>>,
    routes: Mutex<BTreeMap<u16, Message>>,
    signals: Mutex<Vec<u16>>,
    /// Of every vector.
    event: std::sync::OnceLock<EventFd>,
}

impl Machine {
    fn doorbells(&self) -> Vec<u64> {
        self.doorbells.lock().unwrap().keys().copied().collect()
    }

    fn take_signals(&self) -> Vec<u16> {
        std::mem::take(&mut self.signals.lock().unwrap())
    }
}

impl MsiVectors for Machine {
    fn route(&self, vector: u16, message: Message) -> io::Result<()> {
        self.routes.lock().unwrap().insert(vector, message);
        Ok(())
    }

    fn signal(&self, vector: u16) {
        self.signals.lock().unwrap().push(vector);
    }

    fn event(&self, _: u16) -> Option<&EventFd> {
        Some(self.event.get_or_init(|| EventFd::new(libc::EFD_NONBLOCK).unwrap()))
    }
}

/// Who interrupts from outside, and was told how: whether straight, at each change.
#[derive(Default)]
struct Outside(Mutex<Vec<bool>>);

impl Caller for Outside {
    fn call_by(&self, event: Option<&EventFd>) {
        self.0.lock().unwrap().push(event.is_some());
    }
}

struct Notify(Arc<Machine>);

impl NotifyAddresses for Notify {
    fn connect(&self, address: u64, _: &EventFd) -> io::Result<()> {
        let mut doorbells = self.0.doorbells.lock().unwrap();
        let count = doorbells.entry(address).or_default();
        assert_eq!(*count, 0, "connected twice");
        *count = 1;
        Ok(())
    }

    fn disconnect(&self, address: u64, _: &EventFd) -> io::Result<()> {
        let removed = self.0.doorbells.lock().unwrap().remove(&address);
        removed.map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// A device of two queues and six bytes of configuration, which does nothing.
#[derive(Default)]
struct Idle {
    config: [u8; 6],
    queues: Vec<Queue>,
}

impl VirtioDevice for Idle {
    fn id(&self) -> DeviceId {
        DeviceId::Console
    }

    fn features(&self) -> u64 {
        OWN_FEATURES
    }

    fn queue_sizes(&self) -> &[u16] {
        &[8, 16]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        crate::virtio::device::read_config(&self.config, offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let at = usize::try_from(offset).unwrap();
        for (to, from) in self.config.iter_mut().skip(at).zip(data) {
            *to = *from;
        }
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        self.queues = activation.queues;
        Ok(())
    }

    fn quiesce(&mut self) -> Vec<Queue> {
        std::mem::take(&mut self.queues)
    }

    fn reset(&mut self) {
        self.config = [0; 6];
    }
}

/// A function in slot 1.
struct Guest {
    pci: Arc<Mutex<Pci>>,
    ecam: Ecam,
    window: MmioWindow,
    base: u64,
    machine: Arc<Machine>,
    memory: Arc<GuestMemory>,
}

impl Guest {
    fn new(device: impl VirtioDevice + 'static) -> Self {
        let memory = Arc::new(memory::anonymous(&[(0, MEMORY)]));
        let mut guest = Self::with(device, memory);
        guest.enable_memory();
        guest
    }

    fn with(device: impl VirtioDevice + 'static, memory: Arc<GuestMemory>) -> Self {
        let machine = Arc::new(Machine::default());
        let resources = Resources {
            address: WINDOW.start,
            windows: vec![WINDOW].into(),
            vectors: machine.clone(),
            notify: Box::new(Notify(machine.clone())),
        };
        let pci = Pci::new(Box::new(device), memory.clone(), resources).unwrap();
        let bar = pci.bar().clone();
        let pci = Arc::new(Mutex::new(pci));
        let mut root = Root::new();
        root.insert(pci.clone(), bar).unwrap();
        let root = Arc::new(root);
        let ecam = Ecam::new(root.clone());
        let window = MmioWindow::new(root, WINDOW.start);
        Self { pci, ecam, window, base: WINDOW.start, machine, memory }
    }

    fn config<const N: usize>(&self, at: u16) -> [u8; N] {
        let mut data = [0; N];
        self.ecam.read(1 << 15 | u64::from(at), &mut data);
        data
    }

    fn set_config(&self, at: u16, data: &[u8]) {
        self.ecam.write(1 << 15 | u64::from(at), data);
    }

    fn enable_memory(&mut self) {
        self.set_config(4, &[6, 0]);
    }

    fn move_bar(&mut self, address: u64) {
        self.set_config(0x10, &address.to_le_bytes()[..4]);
        self.set_config(0x14, &address.to_le_bytes()[4..]);
        self.base = address;
    }

    fn read<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.window.read(self.base + offset - WINDOW.start, &mut data);
        data
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.window.write(self.base + offset - WINDOW.start, data);
    }

    fn r8(&self, offset: u64) -> u8 {
        self.read::<1>(offset)[0]
    }

    fn r16(&self, offset: u64) -> u16 {
        u16::from_le_bytes(self.read(offset))
    }

    fn r32(&self, offset: u64) -> u32 {
        u32::from_le_bytes(self.read(offset))
    }

    fn w16(&self, offset: u64, value: u16) {
        self.write(offset, &value.to_le_bytes());
    }

    fn w32(&self, offset: u64, value: u32) {
        self.write(offset, &value.to_le_bytes());
    }

    /// Up to FEATURES_OK, with all features.
    fn negotiate(&self) {
        for value in [0, 1, 3] {
            self.write(0x14, &[value]);
        }
        for word in [0, 1] {
            self.w32(0, word);
            self.w32(8, word);
            self.w32(0xc, self.r32(4));
        }
        self.write(0x14, &[0xb]);
        assert_eq!(self.r8(0x14), 0xb);
    }

    fn set_up(&self, index: u16) -> DriverQueue {
        self.w16(0x16, index);
        let queue = DriverQueue::new(&self.memory, index, self.r16(0x18), true);
        for (at, address) in
            [(0x20, queue.descriptors()), (0x28, queue.available()), (0x30, queue.used_ring())]
        {
            self.w32(at, u32::try_from(address).unwrap());
            self.w32(at + 4, 0);
        }
        self.w16(0x1a, index + 1);
        self.w16(0x1c, 1);
        queue
    }

    fn drive(&self) {
        self.negotiate();
        self.set_up(0);
        self.set_up(1);
        self.write(0x14, &[0xf]);
        assert_eq!(self.r8(0x14), 0xf);
    }

    /// Offset of the capability of a kind, and its place in the BAR.
    fn capability(&self, kind: Option<u8>) -> (u16, u32, u32) {
        let [mut at] = self.config(0x34);
        while at != 0 {
            let [id, next, len, this] = self.config(at.into());
            let body = self.config::<16>(at.into());
            if kind.map_or(id == 0x11, |kind| id == 9 && this == kind) {
                assert!(id == 0x11 || len == if matches!(this, 2 | 5) { 20 } else { 16 });
                let word = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().unwrap());
                return (at.into(), word(8), word(12));
            }
            at = next;
        }
        panic!("no capability {kind:?}");
    }

    fn enable_msix(&self) {
        let (at, ..) = self.capability(None);
        self.set_config(at + 2, &0x8000u16.to_le_bytes());
    }

    /// Programs a vector and unmasks it.
    fn program(&self, vector: u64) {
        let entry = TABLE.start + 16 * vector;
        self.w32(entry, 0xfee0_0000);
        self.w32(entry + 8, 0x40 + u32::try_from(vector).unwrap());
        self.w32(entry + 12, 0);
    }

    fn interrupt(&self) -> Arc<PciInterrupt> {
        self.pci.lock().unwrap().interrupt.clone()
    }
}

#[test]
fn the_function_is_a_modern_virtio_device() {
    let guest = Guest::new(Idle::default());
    assert_eq!(guest.config(0), [0xf4, 0x1a, 0x43, 0x10]);
    assert_eq!(guest.config(8), [1, 0, 0x80, 7]);
    assert_eq!(guest.config(0x3d), [0]);
}

#[test]
fn capabilities_lead_to_every_structure() {
    let guest = Guest::new(Idle::default());
    assert_eq!(guest.capability(Some(1)).1..guest.capability(Some(1)).2, 0..0x3c);
    let (notify, offset, len) = guest.capability(Some(2));
    assert_eq!((offset, len, guest.config(notify + 16)), (0x3000, 8, [4, 0, 0, 0]));
    assert_eq!(guest.capability(Some(3)).2, 1);
    assert!(guest.capability(Some(4)).2 >= 6);
    guest.capability(Some(5));
    let (msix, ..) = guest.capability(None);
    assert_eq!(guest.config(msix + 2), [2, 0, 0, 0x80, 0, 0]);
}

#[test]
fn features_are_negotiated_word_by_word() {
    let guest = Guest::new(Idle::default());
    let offered = OWN_FEATURES | feature::ALWAYS;
    for (word, expected) in [(0, offered & 0xffff_ffff), (1, offered >> 32), (2, 0)] {
        guest.w32(0, word);
        assert_eq!((guest.r32(0), u64::from(guest.r32(4))), (word, expected));
    }
    guest.negotiate();
    guest.w32(8, 1);
    assert_eq!(u64::from(guest.r32(0xc)), offered >> 32);
    assert_eq!(guest.r16(0x12), 2);
}

#[test]
fn queues_are_set_up_through_their_registers() {
    let guest = Guest::new(Idle::default());
    guest.negotiate();
    for (index, size) in [(0u16, 8u16), (1, 16)] {
        guest.w16(0x16, index);
        assert_eq!((guest.r16(0x16), guest.r16(0x18), guest.r16(0x1e)), (index, size, index));
        guest.w16(0x18, 4);
        assert_eq!(guest.r16(0x18), 4);
        for at in [0x20, 0x28, 0x30] {
            guest.w32(at, 0x1000);
            guest.w32(at + 4, 7);
            assert_eq!(u64::from_le_bytes(guest.read(at)), 0x7_0000_1000);
            guest.write(at, &0x12_3456_7000u64.to_le_bytes());
            assert_eq!((guest.r32(at), guest.r32(at + 4)), (0x3456_7000, 0x12));
        }
        assert_eq!(guest.r16(0x1c), 0);
        guest.w16(0x1c, 1);
        assert_eq!((guest.r16(0x1c), guest.r16(0x38), guest.r16(0x3a)), (1, 0, 0));
        // Neither disabled nor changed any more.
        guest.w16(0x1c, 0);
        guest.w16(0x18, 8);
        assert_eq!((guest.r16(0x1c), guest.r16(0x18)), (1, 4));
    }
    guest.w16(0x16, 2);
    assert_eq!((guest.r16(0x18), guest.r16(0x1a), guest.r16(0x1c)), (0, NO_VECTOR, 0));
}

#[test]
fn fields_answer_to_their_own_width_only() {
    let guest = Guest::new(Idle::default());
    guest.negotiate();
    assert_eq!(guest.read::<4>(0x14), [0; 4]);
    assert_eq!(guest.read::<1>(0x12), [0]);
    guest.write(0x14, &[0, 0]);
    assert_eq!(guest.r8(0x14), 0xb);
}

#[test]
fn a_vector_that_does_not_exist_reads_as_none() {
    let guest = Guest::new(Idle::default());
    assert_eq!(guest.r16(0x10), NO_VECTOR);
    for (written, read) in [(2, 2), (3, NO_VECTOR), (0, 0), (NO_VECTOR, NO_VECTOR)] {
        guest.w16(0x10, written);
        assert_eq!(guest.r16(0x10), read);
        guest.w16(0x16, 1);
        guest.w16(0x1a, written);
        assert_eq!(guest.r16(0x1a), read);
        guest.w16(0x16, 0);
        assert_eq!(guest.r16(0x1a), NO_VECTOR);
    }
}

#[test]
fn interrupts_go_by_the_vectors_that_the_driver_chose() {
    let guest = Guest::new(Idle::default());
    guest.enable_msix();
    (0..3).for_each(|vector| guest.program(vector));
    assert_eq!(guest.machine.routes.lock().unwrap()[&1].data, 0x41);
    guest.drive();
    guest.w16(0x10, 0);
    let interrupt = guest.interrupt();
    interrupt.signal_queue(1);
    interrupt.signal_queue(0);
    assert_eq!((guest.machine.take_signals(), guest.r8(0x1000)), (vec![2, 1], 0));
    let generation = guest.r8(0x15);
    interrupt.signal_config();
    assert_ne!(guest.r8(0x15), generation);
    assert_eq!((guest.machine.take_signals(), guest.r8(0x1000)), (vec![0], 2));
    interrupt.signal_needs_reset();
    assert_eq!((guest.machine.take_signals(), guest.r8(0x14)), (vec![0], 0x4f));
    // No vector, no interrupt.
    guest.w16(0x16, 1);
    guest.w16(0x1a, NO_VECTOR);
    interrupt.signal_queue(1);
    assert_eq!(guest.machine.take_signals(), [0u16; 0]);
}

#[test]
fn a_masked_vector_is_pending_until_unmasked() {
    let guest = Guest::new(Idle::default());
    guest.enable_msix();
    guest.program(1);
    guest.drive();
    guest.w32(TABLE.start + 16 + 12, 1);
    guest.interrupt().signal_queue(0);
    assert_eq!((guest.machine.take_signals(), guest.r8(PENDING.start)), (vec![], 2));
    guest.w32(TABLE.start + 16 + 12, 0);
    assert_eq!((guest.machine.take_signals(), guest.r8(PENDING.start)), (vec![1], 0));
}

#[test]
fn who_interrupts_from_outside_goes_straight_only_while_the_vector_is_open() {
    let guest = Guest::new(Idle::default());
    let interrupt = guest.interrupt();
    let outside = Arc::new(Outside::default());
    let told = || std::mem::take(&mut *outside.0.lock().unwrap());
    interrupt.set_caller(1, Some(outside.clone()));
    assert_eq!(told(), [false; 0], "there is no vector");
    guest.enable_msix();
    guest.program(2);
    interrupt.set_queue_vector(1, 2);
    assert_eq!(told(), [true]);
    let control = TABLE.start + 16 * 2 + 12;
    guest.w32(control, 1);
    assert_eq!(told(), [false], "masked");
    guest.w32(control, 1);
    assert_eq!(told(), [false; 0], "nothing has changed");
    guest.w32(control, 0);
    assert_eq!(told(), [true], "unmasked");
    interrupt.set_queue_vector(1, NO_VECTOR);
    assert_eq!(told(), [false], "no vector");
    interrupt.set_queue_vector(1, 2);
    interrupt.reset();
    assert_eq!(told(), [true, false], "reset");
    interrupt.set_caller(1, None);
    interrupt.set_queue_vector(1, 2);
    assert_eq!(told(), [false; 0], "nobody is told any more");
}

#[test]
fn without_msix_the_isr_status_says_what_happened_once() {
    let guest = Guest::new(Idle::default());
    guest.drive();
    guest.interrupt().signal_queue(0);
    guest.interrupt().signal_config();
    assert_eq!((guest.r8(0x1000), guest.r8(0x1000)), (3, 0));
    assert_eq!(guest.machine.take_signals(), [0u16; 0]);
}

#[test]
fn the_device_configuration_is_written_by_a_driver_only() {
    let guest = Guest::new(Idle::default());
    guest.write(0x2000, &[1, 2]);
    assert_eq!(guest.read(0x2000), [0; 4]);
    guest.negotiate();
    guest.write(0x2001, &[1, 2]);
    assert_eq!(guest.read(0x2000), [0, 1, 2, 0, 0, 0, 0, 0]);
}

#[test]
fn doorbells_are_connected_while_the_device_runs_and_follow_the_bar() {
    let mut guest = Guest::new(Idle::default());
    guest.negotiate();
    guest.set_up(1);
    assert!(guest.machine.doorbells().is_empty());
    guest.write(0x14, &[0xf]);
    assert_eq!(guest.machine.doorbells(), [WINDOW.start + 0x3004]);
    guest.move_bar(WINDOW.start + 0x20_0000);
    assert_eq!(guest.machine.doorbells(), [WINDOW.start + 0x20_3004]);
    assert_eq!(guest.r8(0x14), 0xf);
    // Over RAM, at the end of all addresses, beside the window: it answers nowhere.
    for address in [0x10_0000, !0xffff, WINDOW.end, WINDOW.start - BAR_LEN] {
        guest.move_bar(address);
        assert!(guest.machine.doorbells().is_empty());
    }
    guest.move_bar(WINDOW.end - BAR_LEN);
    assert_eq!(guest.machine.doorbells(), [WINDOW.end - BAR_LEN + 0x3004]);
    guest.set_config(4, &[0, 0]);
    assert_eq!((guest.machine.doorbells(), guest.r8(0x14)), (Vec::<u64>::new(), 0xff));
    guest.set_config(4, &[2, 0]);
    assert_eq!(guest.machine.doorbells(), [WINDOW.end - BAR_LEN + 0x3004]);
    guest.write(0x14, &[0]);
    assert!(guest.machine.doorbells().is_empty());
}

#[test]
fn a_queue_can_be_reset_and_enabled_again() {
    let guest = Guest::new(Idle::default());
    guest.drive();
    guest.w16(0x16, 1);
    guest.w16(0x3a, 1);
    assert_eq!((guest.r16(0x3a), guest.r16(0x1c), guest.r16(0x1a)), (0, 0, NO_VECTOR));
    assert_eq!((guest.r16(0x18), guest.r32(0x20)), (16, 0));
    assert_eq!(guest.machine.doorbells(), [WINDOW.start + 0x3000]);
    guest.set_up(1);
    assert_eq!((guest.r16(0x1c), guest.machine.doorbells().len()), (1, 2));
    assert_eq!(guest.r8(0x14), 0xf);
}

#[test]
fn the_configuration_window_reaches_the_bar_without_mapping_it() {
    let mut guest = Guest::new(Idle::default());
    guest.set_config(4, &[0, 0]);
    let (window, ..) = guest.capability(Some(5));
    let point = |offset: u32, len: u32| {
        guest.set_config(window + 8, &offset.to_le_bytes());
        guest.set_config(window + 12, &len.to_le_bytes());
    };
    point(0x12, 2);
    assert_eq!(guest.config(window + 16), [2, 0, 0, 0]);
    point(0x14, 1);
    guest.set_config(window + 16, &[1]);
    assert_eq!(guest.config(window + 16), [1, 0, 0, 0]);
    // Pointing nowhere: another BAR, ragged, past the end.
    for (offset, len, bar) in
        [(0x14, 1, 1), (0x15, 2, 0), (0x14, 3, 0), (0x14, 0, 0), (0x1_0000, 4, 0), (u32::MAX, 1, 0)]
    {
        guest.set_config(window + 4, &[bar]);
        point(offset, len);
        guest.set_config(window + 16, &[0; 4]);
        assert_eq!(guest.config(window + 16), [0; 4]);
    }
    guest.enable_memory();
    assert_eq!(guest.r8(0x14), 1);
}

#[test]
fn requests_are_answered_with_interrupts_across_save_and_restore() {
    let mut guest = Guest::new(Rng::default());
    guest.enable_msix();
    guest.program(1);
    guest.negotiate();
    let mut queue = guest.set_up(0);
    guest.write(0x14, &[0xf]);
    for round in 0..6 {
        let posted = queue.post(&[Part::In(32)]);
        queue.set_used_event(posted.0);
        if round % 2 == 0 {
            guest.w16(0x3000, 0);
        }
        if round % 2 == 1 {
            // The doorbell never rang: a device that carries on looks at its queues by itself.
            let state = {
                let pci = guest.pci.lock().unwrap();
                pci.core().lock().unwrap().suspend();
                pci.save()
            };
            let memory = guest.memory.clone();
            guest = Guest::with(Rng::default(), memory);
            let mut pci = guest.pci.lock().unwrap();
            pci.restore(&state).unwrap();
            pci.core().lock().unwrap().resume();
            drop(pci);
            assert_eq!(guest.machine.doorbells(), [WINDOW.start + 0x3000]);
        }
        let (answered, bytes) = queue.wait_used();
        assert_eq!((answered, bytes.len()), (posted, 32));
    }
    wait("an interrupt", || !guest.machine.take_signals().is_empty());
}

#[test]
fn a_state_of_another_device_is_refused() {
    let state = Guest::new(Idle::default()).pci.lock().unwrap().save();
    let other = Guest::new(Rng::default());
    other.pci.lock().unwrap().restore(&state).unwrap_err();
    let mut broken = state.clone();
    broken.config.pop();
    Guest::new(Idle::default()).pci.lock().unwrap().restore(&broken).unwrap_err();
}

/// A write to some register: a few well-chosen ones more often.
fn any_write() -> impl Strategy<Value = (bool, u64, Vec<u8>)> {
    let offset = prop_oneof![
        0u64..0x40,
        0u64..0x100,
        0x2000u64..0x2010,
        0x3000u64..0x3010,
        0x8000u64..0x8040,
        0u64..0x1_0000
    ];
    let data = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..17),
        prop::sample::select(vec![1usize, 2, 4, 8]).prop_map(|len| vec![1; len]),
        prop::sample::select(vec![vec![0xbu8], vec![0xf], vec![0], vec![1, 0]]),
    ];
    (any::<bool>(), offset, data)
}

proptest! {
    #[test]
    fn no_access_panics_and_a_reset_restores_every_register(
        running in any::<bool>(),
        writes in prop::collection::vec(any_write(), 0..100),
    ) {
        let mut guest = Guest::new(Idle::default());
        if running {
            guest.drive();
        }
        for (config, offset, mut data) in writes {
            if config {
                guest.ecam.write((1 << 15) | (offset % 0x1000), &data);
                guest.ecam.read((1 << 15) | (offset % 0x1000), &mut data);
            } else {
                guest.write(offset, &data);
                guest.window.read(offset, &mut data);
            }
            guest.interrupt().signal_queue(1);
        }
        guest.enable_memory();
        guest.move_bar(WINDOW.start);
        guest.write(0x14, &[0]);
        prop_assert_eq!(guest.r8(0x14), 0);
        prop_assert!(guest.machine.doorbells().is_empty());
        prop_assert_eq!((guest.r16(0x10), guest.r16(0x16), guest.r8(0x1000)), (NO_VECTOR, 0, 0));
        for (queue, size) in [(0, 8), (1, 16)] {
            guest.w16(0x16, queue);
            prop_assert_eq!((guest.r16(0x18), guest.r16(0x1a), guest.r16(0x1c)), (size, NO_VECTOR, 0));
            prop_assert_eq!((guest.r32(0x20), guest.r32(0x28), guest.r32(0x30)), (0, 0, 0));
        }
        guest.drive();
        prop_assert_eq!(guest.r8(0x14) & status::DRIVER_OK, status::DRIVER_OK);
    }
}
