//! The I/O APIC: turns interrupt pins into messages for local APICs, as the guest programs its
//! redirection table (Intel 82093AA datasheet, in the version 0x20 variant with an EOI register).
//!
//! Pins that devices raise through irqfds never come through here: for those the I/O APIC only
//! keeps the routes up to date ([`Routes::set`]) and KVM delivers. Pins raised by software go
//! through [`IoApic::set_level`]. Local APICs, and what a route is to KVM, are not known here.

use crate::bus::{Action, BusDevice};
use crate::rate_limit::RateLimitedLog;

/// Size of the register window in bytes.
pub const LEN: u64 = 0x1000;
/// The most pins the 8-bit index register can address.
pub const MAX_PINS: u32 = (0x100 - TABLE as u32) / 2;

/// Version register: has an EOI register.
const VERSION: u8 = 0x20;

/// Offsets of the memory-mapped registers.
const INDEX: u64 = 0x00;
const DATA: u64 = 0x10;
const EOI: u64 = 0x40;

/// Indices of the registers behind the data register; the redirection table takes two for each pin.
const ID: u8 = 0x00;
const VERSION_AND_PINS: u8 = 0x01;
const ARBITRATION_ID: u8 = 0x02;
const TABLE: u8 = 0x10;

/// An interrupt message (MSI) to local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    /// 0xfee0_0000 with the destination id in bits 19:12, bits 14:8 of an extended destination id
    /// (KVM_FEATURE_MSI_EXT_DEST_ID) in bits 11:5 and the destination mode in bit 2.
    pub address: u64,
    /// Vector (7:0), delivery mode (10:8), assert (14) and level trigger (15).
    pub data: u32,
}

/// Where the interrupts of the pins go.
pub trait Routes: Send {
    /// Edges of `pin` become `message` from now on; `None` while they go nowhere, which is how
    /// every pin starts. Called only when the message changes.
    fn set(&mut self, pin: u32, message: Option<Message>);

    /// Delivers `message` now: a pin was raised through [`IoApic::set_level`].
    fn deliver(&mut self, message: Message);
}

/// A redirection table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry(u64);

impl Entry {
    const RESET: Self = Self(Self::MASKED);
    const REMOTE_IRR: u64 = 1 << 14;
    const LEVEL: u64 = 1 << 15;
    const MASKED: u64 = 1 << 16;
    /// Vector, delivery mode, destination mode, polarity, trigger mode, mask, and both parts of the
    /// destination. Delivery status (never pending) and remote IRR are read only.
    const WRITABLE: u64 = 0xfffe_0000_0001_afff;

    fn vector(self) -> u8 {
        self.0.to_le_bytes()[0]
    }

    fn delivery_mode(self) -> u64 {
        self.0 >> 8 & 0b111
    }

    fn is_masked(self) -> bool {
        self.0 & Self::MASKED != 0
    }

    /// Whether the pin is level triggered. Only fixed (0) and lowest priority (1) interrupts can
    /// be, the others are edges whatever the trigger mode says.
    fn is_level(self) -> bool {
        self.0 & Self::LEVEL != 0 && self.delivery_mode() <= 1
    }

    fn remote_irr(self) -> bool {
        self.0 & Self::REMOTE_IRR != 0
    }

    /// The message the pin sends; `None` while masked, and for delivery modes a message cannot
    /// carry: the reserved ones (3 and 6) and ExtINT (7), as there is no 8259 to ask for a vector.
    fn message(self) -> Option<Message> {
        if self.is_masked() || !matches!(self.delivery_mode(), 0 | 1 | 2 | 4 | 5) {
            return None;
        }
        let destination = self.0 >> 56;
        let extended_destination = self.0 >> 49 & 0x7f;
        let logical = self.0 >> 11 & 1;
        let level = if self.is_level() { 0b11 << 14 } else { 0 };
        let [vector, mode, ..] = self.0.to_le_bytes();
        Some(Message {
            address: 0xfee0_0000 | destination << 12 | extended_destination << 5 | logical << 2,
            data: u32::from(vector) | u32::from(mode & 0b111) << 8 | level,
        })
    }
}

struct Pin {
    entry: Entry,
    /// The input, as [`IoApic::set_level`] left it.
    asserted: bool,
    /// What [`Routes::set`] was last told.
    route: Option<Message>,
}

/// An I/O APIC: a device of [`LEN`] bytes of MMIO. Registers take 32-bit accesses; others read 0
/// and write nothing.
pub struct IoApic {
    id: u8,
    index: u8,
    pins: Vec<Pin>,
    routes: Box<dyn Routes>,
    bad_modes: RateLimitedLog,
}

impl IoApic {
    /// An I/O APIC after reset: all pins masked and low, id 0.
    ///
    /// # Panics
    ///
    /// If `pins` is 0 or more than [`MAX_PINS`].
    pub fn new(pins: u32, routes: Box<dyn Routes>) -> Self {
        assert!((1..=MAX_PINS).contains(&pins), "an I/O APIC has 1 to {MAX_PINS} pins, not {pins}");
        let pin = |_| Pin { entry: Entry::RESET, asserted: false, route: None };
        let pins = (0..pins).map(pin).collect();
        Self { id: 0, index: 0, pins, routes, bad_modes: RateLimitedLog::new() }
    }

    /// Sets the id that firmware would have programmed: the one in the MADT.
    pub fn with_id(mut self, id: u8) -> Self {
        self.id = id;
        self
    }

    /// Drives the input of `pin`, in terms of active and inactive: polarity is the guest's belief
    /// only. A rising edge interrupts once; a level-triggered pin interrupts for as long as it is
    /// asserted, again after each end of interrupt. Pins the chip does not have do nothing.
    pub fn set_level(&mut self, pin: u32, asserted: bool) {
        let Some(state) = self.pins.get_mut(pin as usize) else { return };
        let rises = asserted && !state.asserted;
        state.asserted = asserted;
        if state.entry.is_level() {
            self.service(pin as usize);
        } else if rises && let Some(message) = state.route {
            self.routes.deliver(message);
        }
    }

    /// A local APIC ended the level-triggered interrupt `vector`: pins with this vector may
    /// interrupt again, and do if they are still asserted.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        for pin in 0..self.pins.len() {
            let entry = &mut self.pins[pin].entry;
            if entry.vector() == vector && entry.remote_irr() {
                entry.0 &= !Entry::REMOTE_IRR;
                self.service(pin);
            }
        }
    }

    /// Sends a level-triggered pin's interrupt unless one is already being handled.
    fn service(&mut self, pin: usize) {
        let Pin { entry, asserted, route } = &mut self.pins[pin];
        if entry.is_level()
            && *asserted
            && !entry.remote_irr()
            && let Some(message) = *route
        {
            entry.0 |= Entry::REMOTE_IRR;
            self.routes.deliver(message);
        }
    }

    fn read_register(&self) -> u32 {
        match self.index {
            ID | ARBITRATION_ID => u32::from(self.id) << 24,
            VERSION_AND_PINS => {
                let [last_pin, ..] = (self.pins.len() - 1).to_le_bytes();
                u32::from_le_bytes([VERSION, 0, last_pin, 0])
            }
            index => self.table_half(index).map_or(0, |(pin, shift)| {
                let [a, b, c, d, ..] = (self.pins[usize::from(pin)].entry.0 >> shift).to_le_bytes();
                u32::from_le_bytes([a, b, c, d])
            }),
        }
    }

    fn write_register(&mut self, value: u32) {
        if self.index == ID {
            // Linux insists on reading back all eight bits it writes.
            self.id = value.to_be_bytes()[0];
        } else if let Some((pin, shift)) = self.table_half(self.index) {
            let old = self.pins[usize::from(pin)].entry.0;
            let written = old & !(0xffff_ffff << shift) | u64::from(value) << shift;
            let mut entry = Entry(written & Entry::WRITABLE | old & Entry::REMOTE_IRR);
            if !entry.is_level() {
                // Version 0x11 drivers, without an EOI register, clear remote IRR this way.
                entry.0 &= !Entry::REMOTE_IRR;
            }
            self.program(pin, entry);
        }
    }

    /// The pin whose redirection table entry register `index` is part of, and where in it.
    fn table_half(&self, index: u8) -> Option<(u8, u32)> {
        let at = index.checked_sub(TABLE)?;
        let pin = at / 2;
        (usize::from(pin) < self.pins.len()).then_some((pin, u32::from(at % 2) * 32))
    }

    fn program(&mut self, pin: u8, entry: Entry) {
        let state = &mut self.pins[usize::from(pin)];
        state.entry = entry;
        let message = entry.message();
        if message != state.route {
            state.route = message;
            self.routes.set(pin.into(), message);
        }
        if message.is_none()
            && !entry.is_masked()
            && let Some(suppressed) = self.bad_modes.admit()
        {
            let mode = entry.delivery_mode();
            tracing::debug!(pin, mode, suppressed, "I/O APIC pin with an impossible delivery mode");
        }
        self.service(pin.into());
    }
}

impl BusDevice for IoApic {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let value = match (offset, data.len()) {
            (INDEX, 4) => self.index.into(),
            (DATA, 4) => self.read_register(),
            _ => 0,
        };
        data.fill(0);
        for (byte, value) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = value;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Option<Action> {
        let value = u32::from_le_bytes(data.try_into().ok()?);
        match offset {
            INDEX => self.index = value.to_le_bytes()[0],
            DATA => self.write_register(value),
            EOI => self.end_of_interrupt(value.to_le_bytes()[0]),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
#[path = "ioapic_test.rs"]
mod ioapic_test;
