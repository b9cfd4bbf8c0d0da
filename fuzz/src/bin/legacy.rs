//! The devices of the I/O port and MMIO buses that are no virtio devices, all at once: accesses of every width at every
//! address, and what the host does to them meanwhile.

#![no_main]

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use devices::bus::{Bus, SharedBusDevice};
use devices::interrupt::InterruptLine;
use devices::ioapic::{self, IoApic, Message, Routes};
use devices::legacy::{
    Cmos, DebugExit, Ged, I8042, PowerRegisters, Pvpanic, Serial, i8042, power, serial,
};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

const PINS: u32 = 48;
/// Where the devices are, in the order they are on their bus.
const PORTS: [u16; 7] = [0x60, 0x70, 0x3f8, 0x501, 0x505, 0x600, 0x604];
const IO_APIC: u64 = 0xfec0_0000;
const STEPS: usize = 256;

#[derive(Arbitrary, Debug)]
enum Step {
    ReadPort {
        at: Port,
        len: u8,
    },
    WritePort {
        at: Port,
        len: u8,
        bytes: [u8; 8],
    },
    ReadMemory {
        at: u16,
        len: u8,
    },
    WriteMemory {
        at: u16,
        len: u8,
        bytes: [u8; 8],
    },
    /// The register that an entry of the redirection table is in.
    Redirect {
        register: u8,
        value: u32,
    },
    Level {
        pin: u8,
        asserted: bool,
    },
    EndOfInterrupt {
        vector: u8,
    },
    Input {
        bytes: Vec<u8>,
    },
    PowerButton,
    Clock {
        seconds: u64,
    },
}

#[derive(Arbitrary, Debug)]
enum Port {
    Of { device: u8, offset: u8 },
    Any(u16),
}

impl Port {
    fn number(&self) -> u64 {
        match *self {
            Self::Of { device, offset } => {
                u64::from(PORTS[usize::from(device) % PORTS.len()]) + u64::from(offset % 16)
            }
            Self::Any(port) => port.into(),
        }
    }
}

struct Line;

impl InterruptLine for Line {
    fn trigger(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Messages are for local APICs only, whatever the guest writes.
struct Checked([Option<Message>; PINS as usize]);

fn check(message: Message) {
    assert_eq!(message.address >> 20, 0xfee, "a message to memory");
}

impl Routes for Checked {
    fn set(&mut self, pin: u32, message: Option<Message>) {
        assert_ne!(self.0[pin as usize], message, "set to what it is");
        self.0[pin as usize] = message;
        message.into_iter().for_each(check);
    }

    fn deliver(&mut self, message: Message) {
        check(message);
    }
}

struct Machine {
    ports: Bus,
    memory: Bus,
    ioapic: Arc<Mutex<IoApic>>,
    serial: Arc<Mutex<Serial>>,
    ged: Arc<Mutex<Ged>>,
    clock: Arc<Mutex<SystemTime>>,
}

fn shared<T>(device: T) -> Arc<Mutex<T>> {
    Arc::new(Mutex::new(device))
}

impl Machine {
    fn new() -> Self {
        let clock = shared(UNIX_EPOCH);
        let now = Arc::clone(&clock);
        let time = move || *now.lock().unwrap_or_else(PoisonError::into_inner);
        let ioapic = shared(IoApic::new(PINS, Box::new(Checked([None; PINS as usize]))));
        let line = || Arc::new(Line);
        let serial = shared(Serial::new(line(), Box::new(io::sink()), Box::new(|| {})));
        let ged = shared(Ged::new(line()));
        let mut ports = Bus::new("I/O port");
        let mut put = |port: u16, len: u64, device: Arc<dyn SharedBusDevice>| {
            ports.insert(port.into(), len, device).expect("a place");
        };
        let [keyboard, cmos, com1, exit, panic, sleep, button] = PORTS;
        put(keyboard, i8042::LEN.into(), shared(I8042));
        put(cmos, 2, shared(Cmos::new(Box::new(time), 3 << 30, 1 << 40)));
        put(com1, serial::LEN.into(), serial.clone());
        put(exit, 1, shared(DebugExit));
        put(panic, 1, shared(Pvpanic));
        put(sleep, power::LEN.into(), shared(PowerRegisters));
        put(button, 1, ged.clone());
        let mut memory = Bus::new("MMIO");
        memory.insert(IO_APIC, ioapic::LEN, ioapic.clone()).expect("a place");
        Self { ports, memory, ioapic, serial, ged, clock }
    }

    fn step(&mut self, step: &Step) {
        let most = |len: &u8| usize::from(len % 9);
        match step {
            Step::ReadPort { at, len } => self.ports.read(at.number(), &mut vec![0; most(len)]),
            Step::WritePort { at, len, bytes } => {
                let _ = self.ports.write(at.number(), &bytes[..most(len)]);
            }
            Step::ReadMemory { at, len } => {
                self.memory.read(IO_APIC + u64::from(*at), &mut vec![0; most(len)]);
            }
            Step::WriteMemory { at, len, bytes } => {
                let _ = self.memory.write(IO_APIC + u64::from(*at), &bytes[..most(len)]);
            }
            Step::Redirect { register, value } => {
                let _ = self.memory.write(IO_APIC, &u32::from(*register).to_le_bytes());
                let _ = self.memory.write(IO_APIC + 0x10, &value.to_le_bytes());
            }
            Step::Level { pin, asserted } => {
                lock(&self.ioapic).set_level(u32::from(*pin) % PINS, *asserted);
            }
            Step::EndOfInterrupt { vector } => lock(&self.ioapic).end_of_interrupt(*vector),
            Step::Input { bytes } => {
                let mut serial = lock(&self.serial);
                let room = serial.input_capacity();
                let taken = serial.enqueue(bytes);
                assert!(taken <= room && taken <= bytes.len());
            }
            Step::PowerButton => drop(lock(&self.ged).press_power_button()),
            Step::Clock { seconds } => {
                // Of any year that a host's clock can show.
                let seconds = Duration::from_secs(*seconds >> 22);
                *lock(&self.clock) = UNIX_EPOCH + seconds;
            }
        }
    }
}

fn lock<T>(device: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

fuzz_target!(|steps: Vec<Step>| {
    let mut machine = Machine::new();
    for step in steps.iter().take(STEPS) {
        machine.step(step);
    }
});
