//! A virtio function on the PCI bus: any accesses to configuration space by both mechanisms and to the
//! memory window, the BAR wherever the guest puts it, the MSI-X table among it all.

#![no_main]

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use devices::bus::{BusDevice, SharedBusDevice};
use devices::ioapic::Message;
use devices::memory::anonymous;
use devices::pci::{ConfigPorts, Ecam, MmioWindow, MsiVectors, Root};
use devices::virtio::rng::Rng;
use devices::virtio::test_driver::MEMORY;
use devices::virtio::transport::pci::{BAR_LEN, NotifyAddresses, Pci, Resources};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use vmm_sys_util::eventfd::EventFd;

/// Addresses at which the BAR can answer.
const WINDOW: std::ops::Range<u64> = 0x10_0000_0000..0x10_0100_0000;
/// The function's place in either mechanism.
const SLOT: u64 = 1;

/// Where in the BAR something is.
const PLACES: [u64; 7] = [0, 0x1000, 0x2000, 0x3000, 0x4000, 0x8000, BAR_LEN - 8];

#[derive(Arbitrary, Clone, Debug)]
enum Step {
    /// Accesses of up to 8 bytes.
    ReadEcam {
        at: u16,
        len: u8,
    },
    WriteEcam {
        at: u16,
        len: u8,
        bytes: [u8; 8],
    },
    ReadPort {
        at: u8,
        len: u8,
    },
    WritePort {
        at: u8,
        len: u8,
        bytes: [u8; 8],
    },
    /// Selects a register of the function with the older mechanism.
    Select {
        register: u8,
    },
    ReadMemory {
        place: u8,
        at: u8,
        len: u8,
    },
    WriteMemory {
        place: u8,
        at: u8,
        len: u8,
        bytes: [u8; 8],
    },
    ReadAnywhere {
        at: u32,
        len: u8,
    },
    WriteAnywhere {
        at: u32,
        len: u8,
        bytes: [u8; 8],
    },
    /// A field of the common configuration structure, as it is meant to be written.
    Common {
        field: u8,
        value: u8,
    },
    /// What a driver does first.
    Negotiate {
        features: u64,
    },
    Queue,
    /// Puts the BAR somewhere, and has it answer or not.
    Move {
        page: u8,
        memory: bool,
    },
    Vector {
        number: u8,
        address: u32,
        data: u32,
        control: u8,
    },
    MsixControl {
        control: u8,
    },
    Suspend,
    Resume,
    Restore,
}

/// KVM, as the function meets it: doorbells are connected once each, and vectors are there.
#[derive(Default)]
struct Machine {
    doorbells: Mutex<BTreeMap<u64, ()>>,
}

impl MsiVectors for Machine {
    fn route(&self, vector: u16, message: Message) -> io::Result<()> {
        assert!(vector < 2, "a vector that is not there");
        let _ = message;
        Ok(())
    }

    fn signal(&self, vector: u16) {
        assert!(vector < 2, "a vector that is not there");
    }
}

struct Notify(Arc<Machine>);

impl NotifyAddresses for Notify {
    fn connect(&self, address: u64, _: &EventFd) -> io::Result<()> {
        assert!(WINDOW.contains(&address), "a doorbell outside the window");
        let mut doorbells = self.0.doorbells.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(doorbells.insert(address, ()).is_none(), "connected twice");
        Ok(())
    }

    fn disconnect(&self, address: u64, _: &EventFd) -> io::Result<()> {
        let mut doorbells = self.0.doorbells.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(doorbells.remove(&address).is_some(), "disconnected without being connected");
        Ok(())
    }
}

struct Guest {
    pci: Arc<Mutex<Pci>>,
    ecam: Ecam,
    ports: ConfigPorts,
    window: MmioWindow,
    base: u64,
}

impl Guest {
    fn new() -> Self {
        let machine = Arc::new(Machine::default());
        let resources = Resources {
            address: WINDOW.start,
            windows: vec![WINDOW].into(),
            vectors: machine.clone(),
            notify: Box::new(Notify(machine)),
        };
        let memory = Arc::new(anonymous(&[(0, MEMORY)]));
        let pci = Pci::new(Box::new(Rng::default()), memory, resources).expect("descriptors");
        let bar = Arc::clone(pci.bar());
        let pci = Arc::new(Mutex::new(pci));
        let mut root = Root::new();
        root.insert(pci.clone(), bar).expect("an empty bus");
        let root = Arc::new(root);
        let ecam = Ecam::new(root.clone());
        let ports = ConfigPorts::new(root.clone());
        let window = MmioWindow::new(root, WINDOW.start);
        let guest = Self { pci, ecam, ports, window, base: WINDOW.start };
        guest.configure(4, &[6, 0]);
        guest
    }

    fn configure(&self, at: u64, bytes: &[u8]) {
        self.ecam.write(SLOT << 15 | at, bytes);
    }

    fn configured<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.ecam.read(SLOT << 15 | at, &mut bytes);
        bytes
    }

    /// Offset of the MSI-X capability.
    fn msix(&self) -> u64 {
        let [mut at] = self.configured(0x34);
        loop {
            let [id, next] = self.configured(at.into());
            match (id, next) {
                (0x11, _) => return at.into(),
                (_, 0) => panic!("no MSI-X"),
                _ => at = next,
            }
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        self.window.write(self.base.wrapping_add(offset).wrapping_sub(WINDOW.start), bytes);
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) {
        self.window.read(self.base.wrapping_add(offset).wrapping_sub(WINDOW.start), bytes);
    }

    fn negotiate(&self, features: u64) {
        for status in [0, 1, 3] {
            self.write(0x14, &[status]);
        }
        for word in [0u32, 1] {
            let mut offered = [0; 4];
            self.write(0, &word.to_le_bytes());
            self.write(8, &word.to_le_bytes());
            self.read(4, &mut offered);
            let wanted = ((features | 1 << 32) >> (32 * word)) as u32;
            self.write(0xc, &(u32::from_le_bytes(offered) & wanted).to_le_bytes());
        }
        self.write(0x14, &[0xb]);
    }

    fn queue(&self) {
        self.write(0x16, &[0, 0]);
        for (at, address) in [(0x20, 0x1000u64), (0x28, 0x2000), (0x30, 0x3000)] {
            self.write(at, &address.to_le_bytes());
        }
        self.write(0x1a, &[1, 0]);
        self.write(0x1c, &[1, 0]);
        self.write(0x14, &[0xf]);
    }

    fn core(&self, what: impl FnOnce(&mut devices::virtio::transport::Core)) {
        let core = self.pci.lock().unwrap_or_else(PoisonError::into_inner).core().clone();
        what(&mut core.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn step(&mut self, step: &Step) {
        let most = |len: &u8| usize::from(len % 9);
        let place = |place: &u8, at: &u8| PLACES[usize::from(*place) % 7] + u64::from(*at);
        match step {
            Step::ReadEcam { at, len } => self.ecam.read((*at).into(), &mut vec![0; most(len)]),
            Step::WriteEcam { at, len, bytes } => {
                let _ = self.ecam.write((*at).into(), &bytes[..most(len)]);
            }
            Step::ReadPort { at, len } => {
                self.ports.read((at % 8).into(), &mut vec![0; most(len)]);
            }
            Step::WritePort { at, len, bytes } => {
                let _ = self.ports.write((at % 8).into(), &bytes[..most(len)]);
            }
            Step::Select { register } => {
                let address = 0x8000_0000 | (SLOT as u32) << 11 | u32::from(*register);
                self.ports.write(0, &address.to_le_bytes());
            }
            Step::ReadMemory { place: at, at: more, len } => {
                self.read(place(at, more), &mut vec![0; most(len)]);
            }
            Step::WriteMemory { place: at, at: more, len, bytes } => {
                self.write(place(at, more), &bytes[..most(len)]);
            }
            Step::ReadAnywhere { at, len } => {
                self.window.read((*at).into(), &mut vec![0; most(len)]);
            }
            Step::WriteAnywhere { at, len, bytes } => {
                let _ = self.window.write((*at).into(), &bytes[..most(len)]);
            }
            Step::Common { field, value } => {
                self.write(u64::from(field % 32) * 2, &u16::from(*value).to_le_bytes());
            }
            Step::Negotiate { features } => self.negotiate(*features),
            Step::Queue => self.queue(),
            Step::Move { page, memory } => self.move_to(*page, *memory),
            Step::Vector { number, address, data, control } => {
                let entry = 0x8000 + 16 * u64::from(number % 4);
                for (at, word) in [(0, *address), (8, *data), (12, (*control).into())] {
                    self.write(entry + at, &word.to_le_bytes());
                }
            }
            Step::MsixControl { control } => {
                let at = self.msix();
                self.configure(at + 3, &[*control]);
            }
            Step::Suspend => self.core(|core| {
                core.suspend();
            }),
            Step::Resume => self.core(|core| core.resume()),
            Step::Restore => self.restore(),
        }
    }

    fn move_to(&mut self, page: u8, memory: bool) {
        // Some of these are outside the window.
        self.base = WINDOW.start + u64::from(page) * BAR_LEN * 2;
        self.configure(4, &[0, 0]);
        self.configure(0x10, &(self.base as u32).to_le_bytes());
        self.configure(0x14, &((self.base >> 32) as u32).to_le_bytes());
        self.configure(4, &[if memory { 6 } else { 4 }, 0]);
    }

    fn restore(&mut self) {
        self.core(|core| {
            core.suspend();
        });
        let state = self.pci.lock().unwrap_or_else(PoisonError::into_inner).save();
        let fresh = Self::new();
        let restored = fresh.pci.lock().unwrap_or_else(PoisonError::into_inner).restore(&state);
        restored.expect("its own state");
        fresh.core(|core| core.resume());
        *self = Self { base: self.base, ..fresh };
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let mut guest = Guest::new();
    for step in steps.iter().take(64) {
        guest.step(step);
    }
    // A decent driver finds a device that works.
    guest.core(|core| core.resume());
    guest.move_to(0, true);
    guest.negotiate(u64::MAX);
    let mut status = [0];
    guest.read(0x14, &mut status);
    assert_eq!(status, [0xb], "a reset does not bring it back");
});
