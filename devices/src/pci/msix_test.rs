use std::sync::Mutex;
use std::sync::atomic::AtomicU32;
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::pci::config::Identity;

#[derive(Default)]
struct Sink {
    routes: Mutex<Vec<(u16, Message)>>,
    signals: Mutex<Vec<u16>>,
    count: AtomicU32,
    refuse: AtomicBool,
}

impl Sink {
    fn take_routes(&self) -> Vec<(u16, Message)> {
        std::mem::take(&mut self.routes.lock().unwrap())
    }

    fn take_signals(&self) -> Vec<u16> {
        std::mem::take(&mut self.signals.lock().unwrap())
    }
}

impl MsiVectors for Sink {
    fn route(&self, vector: u16, message: Message) -> io::Result<()> {
        if self.refuse.load(SeqCst) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.routes.lock().unwrap().push((vector, message));
        Ok(())
    }

    fn signal(&self, vector: u16) {
        self.count.fetch_add(1, SeqCst);
        self.signals.lock().unwrap().push(vector);
    }
}

struct Fixture {
    config: ConfigSpace,
    msix: Msix,
    signals: Arc<MsixSignals>,
    sink: Arc<Sink>,
}

impl Fixture {
    fn new(vectors: u16) -> Self {
        let identity = Identity {
            vendor: 1,
            device: 2,
            revision: 3,
            class: 4,
            subsystem_vendor: 5,
            subsystem: 6,
        };
        let mut config = ConfigSpace::new(identity);
        let sink = Arc::new(Sink::default());
        let signals = Arc::new(MsixSignals::new(vectors, sink.clone()));
        let msix = Msix::new(&mut config, signals.clone(), 0x8000, 0x4000);
        Self { config, msix, signals, sink }
    }

    fn control(&mut self, value: u16) {
        self.config.write(0x42, &value.to_le_bytes());
        self.msix.configured(&self.config);
    }

    fn write(&mut self, vector: u64, word: u64, value: u32) {
        self.msix.write_table(vector * ENTRY + word * 4, &value.to_le_bytes());
    }

    /// Programs a vector with a message of `data` and unmasks it.
    fn program(&mut self, vector: u64, data: u32) {
        self.write(vector, 0, 0xfee0_1000);
        self.write(vector, 1, 0);
        self.write(vector, 2, data);
        self.write(vector, 3, 0);
    }

    fn pending(&self) -> u8 {
        let mut data = [0; 8];
        self.msix.read_pending(0, &mut data);
        data[0]
    }
}

const fn message(data: u32) -> Message {
    Message { address: 0xfee0_1000, data }
}

#[test]
fn the_capability_says_how_many_vectors_there_are_and_where() {
    let fixture = Fixture::new(3);
    assert_eq!(fixture.config.get(0x40), [0x11, 0, 2, 0]);
    assert_eq!(fixture.config.get(0x44), [0, 0x80, 0, 0, 0, 0x40, 0, 0]);
}

#[test]
fn vectors_are_masked_after_reset() {
    let mut fixture = Fixture::new(2);
    let mut words = [0; 16];
    fixture.msix.read_table(16, &mut words[..8]);
    let (_, rest) = words.split_at_mut(8);
    fixture.msix.read_table(24, rest);
    assert_eq!(words, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    fixture.control(ENABLE);
    fixture.signals.signal(1);
    assert_eq!((fixture.sink.take_signals(), fixture.pending()), (vec![], 2));
}

#[test]
fn an_interrupt_goes_out_when_enabled_and_unmasked() {
    let mut fixture = Fixture::new(2);
    fixture.program(1, 0x41);
    fixture.signals.signal(1);
    // Not enabled: gone, not pending.
    assert_eq!((fixture.sink.take_signals(), fixture.pending()), (vec![], 0));
    assert_eq!(fixture.sink.take_routes(), vec![]);
    fixture.control(ENABLE);
    assert_eq!(fixture.sink.take_routes(), vec![(1, message(0x41))]);
    fixture.signals.signal(1);
    fixture.signals.signal(7);
    assert_eq!(fixture.sink.take_signals(), vec![1]);
}

#[test]
fn a_masked_interrupt_waits_for_its_unmasking() {
    let mut fixture = Fixture::new(2);
    fixture.control(ENABLE);
    fixture.program(0, 0x41);
    for (mask, unmask) in
        [((0, 3, 1), (0, 3, 0)), ((9, 0, (ENABLE | FUNCTION_MASK).into()), (9, 0, ENABLE.into()))]
    {
        let mut set = |(vector, word, value): (u64, u64, u32)| match vector {
            9 => fixture.control(u16::try_from(value).unwrap()),
            _ => fixture.write(vector, word, value),
        };
        set(mask);
        fixture.signals.signal(0);
        fixture.signals.signal(0);
        assert_eq!((fixture.sink.take_signals(), fixture.pending()), (vec![], 1));
        let mut set = |(vector, word, value): (u64, u64, u32)| match vector {
            9 => fixture.control(u16::try_from(value).unwrap()),
            _ => fixture.write(vector, word, value),
        };
        set(unmask);
        assert_eq!((fixture.sink.take_signals(), fixture.pending()), (vec![0], 0));
    }
}

#[test]
fn routes_change_only_with_the_message_of_an_unmasked_vector() {
    let mut fixture = Fixture::new(1);
    fixture.control(ENABLE);
    fixture.program(0, 0x41);
    assert_eq!(fixture.sink.take_routes(), vec![(0, message(0x41))]);
    for _ in 0..3 {
        fixture.write(0, 3, 1);
        fixture.write(0, 3, 0);
        fixture.control(ENABLE | FUNCTION_MASK);
        fixture.control(0);
        fixture.control(ENABLE);
    }
    assert_eq!(fixture.sink.take_routes(), vec![]);
    fixture.write(0, 3, 1);
    fixture.write(0, 2, 0x42);
    assert_eq!(fixture.sink.take_routes(), vec![]);
    fixture.write(0, 3, 0);
    fixture.write(0, 2, 0x43);
    assert_eq!(fixture.sink.take_routes(), vec![(0, message(0x42)), (0, message(0x43))]);
}

#[test]
fn a_vector_whose_message_is_refused_stays_masked() {
    let mut fixture = Fixture::new(1);
    fixture.control(ENABLE);
    fixture.sink.refuse.store(true, SeqCst);
    fixture.program(0, 0x41);
    fixture.signals.signal(0);
    assert_eq!((fixture.sink.take_signals(), fixture.pending()), (vec![], 1));
    fixture.sink.refuse.store(false, SeqCst);
    fixture.write(0, 2, 0x42);
    assert_eq!(fixture.sink.take_signals(), vec![0]);
}

#[test]
fn a_message_can_be_written_64_bits_at_a_time() {
    let mut fixture = Fixture::new(1);
    fixture.control(ENABLE);
    fixture.msix.write_table(0, &[3, 0, 0xe0, 0xfe, 1, 0, 0, 0]);
    fixture.msix.write_table(8, &[0x55, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff]);
    let message = Message { address: 0x1_fee0_0000, data: 0x55 };
    assert_eq!(fixture.sink.take_routes(), vec![(0, message)]);
    let mut data = [0; 8];
    fixture.msix.read_table(8, &mut data);
    assert_eq!(data, [0x55, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn table_and_pending_bits_survive_save_and_restore() {
    let mut fixture = Fixture::new(3);
    fixture.control(ENABLE);
    fixture.program(0, 0x41);
    fixture.program(1, 0x42);
    fixture.write(1, 3, 1);
    fixture.signals.signal(1);
    let state = fixture.msix.save();

    let mut restored = Fixture::new(3);
    restored.msix.restore(&state).unwrap();
    restored.control(ENABLE);
    assert_eq!(restored.sink.take_routes(), vec![(0, message(0x41))]);
    assert_eq!(restored.pending(), 2);
    restored.write(1, 3, 0);
    assert_eq!(restored.sink.take_signals(), vec![1]);
    assert!(Fixture::new(2).msix.restore(&state).is_none());
}

#[test]
fn no_interrupt_is_lost_between_masking_and_unmasking() {
    let mut fixture = Fixture::new(1);
    fixture.control(ENABLE);
    fixture.program(0, 0x41);
    for _ in 0..200 {
        let before = fixture.sink.count.load(SeqCst);
        let signals = Arc::clone(&fixture.signals);
        let device = thread::spawn(move || signals.signal(0));
        for _ in 0..20 {
            fixture.write(0, 3, 1);
            fixture.write(0, 3, 0);
        }
        device.join().unwrap();
        assert_eq!(fixture.sink.count.load(SeqCst), before + 1);
        assert_eq!(fixture.pending(), 0);
    }
}

proptest! {
    #[test]
    fn no_access_panics(
        accesses in prop::collection::vec((any::<bool>(), 0u64..0x200, prop::collection::vec(any::<u8>(), 0..17), any::<u16>()), 0..200)
    ) {
        let mut fixture = Fixture::new(5);
        for (far, offset, mut data, control) in accesses {
            let offset = if far { u64::MAX - offset } else { offset };
            fixture.msix.write_table(offset, &data);
            fixture.msix.read_table(offset, &mut data);
            fixture.msix.read_pending(offset, &mut data);
            fixture.control(control);
            fixture.signals.signal(control);
        }
    }
}
