//! The configuration space of a function (PCI Local Bus 3.0, chapter 6): type 0 header, one 64-bit memory
//! BAR at most, and a list of capabilities. Registers only; what a write to one of them causes is for
//! its function to see to.

/// Bytes of the space. What PCI Express has behind them does not exist here.
pub const LEN: u16 = 256;

/// Offsets of header registers.
pub mod offset {
    #![allow(missing_docs)]
    pub const VENDOR: u16 = 0x00;
    pub const DEVICE: u16 = 0x02;
    pub const COMMAND: u16 = 0x04;
    pub const STATUS: u16 = 0x06;
    pub const REVISION: u16 = 0x08;
    pub const CLASS: u16 = 0x09;
    pub const BAR0: u16 = 0x10;
    pub const SUBSYSTEM_VENDOR: u16 = 0x2c;
    pub const SUBSYSTEM: u16 = 0x2e;
    pub const CAPABILITIES: u16 = 0x34;
    pub const INTERRUPT_LINE: u16 = 0x3c;
    pub const INTERRUPT_PIN: u16 = 0x3d;
}

/// Command register: the function's memory answers.
pub const MEMORY_SPACE: u16 = 1 << 1;
/// What can be set in the command register: memory space, bus master, parity error response, SERR#
/// and interrupt disable. Only the first changes what a function does.
const COMMAND_WRITABLE: u16 = 0x0546;
/// Status register: there are capabilities.
const CAPABILITIES_LIST: u16 = 1 << 4;
/// BAR: memory, 64 bits wide, not prefetchable.
const MEMORY_64: u32 = 0b100;
const FIRST_CAPABILITY: usize = 0x40;

/// What a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Identity {
    pub vendor: u16,
    pub device: u16,
    pub revision: u8,
    /// Base class (23:16), sub-class (15:8) and programming interface (7:0).
    pub class: u32,
    pub subsystem_vendor: u16,
    pub subsystem: u16,
}

/// The registers of a function.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; LEN as usize],
    /// Bits the guest can write.
    writable: [u8; LEN as usize],
    /// Where the next capability goes.
    end: usize,
    /// Where its offset is to be noted.
    link: usize,
}

impl ConfigSpace {
    /// A function without memory, capabilities or interrupt.
    pub fn new(identity: Identity) -> Self {
        let [interface, sub_class, base_class, _] = identity.class.to_le_bytes();
        let mut space = Self {
            bytes: [0; LEN as usize],
            writable: [0; LEN as usize],
            end: FIRST_CAPABILITY,
            link: offset::CAPABILITIES.into(),
        };
        space.set(offset::VENDOR, &identity.vendor.to_le_bytes());
        space.set(offset::DEVICE, &identity.device.to_le_bytes());
        space.set(offset::REVISION, &[identity.revision]);
        space.set(offset::CLASS, &[interface, sub_class, base_class]);
        space.set(offset::SUBSYSTEM_VENDOR, &identity.subsystem_vendor.to_le_bytes());
        space.set(offset::SUBSYSTEM, &identity.subsystem.to_le_bytes());
        space.allow(offset::COMMAND, &COMMAND_WRITABLE.to_le_bytes());
        // A scratch register for firmware and operating system.
        space.allow(offset::INTERRUPT_LINE, &[0xff]);
        space
    }

    /// Adds BAR 0 (and 1, its upper half): memory of `len` bytes, a power of two from 16 on, at `address`.
    pub fn add_bar(&mut self, len: u64, address: u64) {
        self.set(offset::BAR0, &(address | u64::from(MEMORY_64)).to_le_bytes());
        self.allow(offset::BAR0, &(!(len - 1)).to_le_bytes());
    }

    /// Adds a capability: `body` follows its id and link. Returns the offset of the id.
    ///
    /// # Panics
    ///
    /// The space is full: what there is to add is known when the program is written.
    pub fn add_capability(&mut self, id: u8, body: &[u8]) -> u16 {
        let at = self.end;
        let [low, ..] = at.to_le_bytes();
        self.bytes[self.link] = low;
        self.bytes[at] = id;
        self.bytes[at + 2..at + 2 + body.len()].copy_from_slice(body);
        self.link = at + 1;
        self.end = (at + 2 + body.len()).next_multiple_of(4);
        let [status, _] = CAPABILITIES_LIST.to_le_bytes();
        self.bytes[usize::from(offset::STATUS)] |= status;
        low.into()
    }

    /// Lets the guest write the bits of `mask` from `at` on.
    pub fn allow(&mut self, at: u16, mask: &[u8]) {
        let at = usize::from(at);
        self.writable[at..at + mask.len()].copy_from_slice(mask);
    }

    /// Sets registers, writable or not.
    pub fn set(&mut self, at: u16, bytes: &[u8]) {
        let at = usize::from(at);
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// `N` bytes of registers from `at` on.
    pub fn get<const N: usize>(&self, at: u16) -> [u8; N] {
        let mut bytes = [0; N];
        self.read(at, &mut bytes);
        bytes
    }

    /// All registers, for a saved state.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The guest reads.
    pub fn read(&self, at: u16, data: &mut [u8]) {
        data.fill(0xff);
        let from = self.bytes.get(usize::from(at)..).unwrap_or_default();
        for (to, from) in data.iter_mut().zip(from) {
            *to = *from;
        }
    }

    /// The guest writes; what it cannot write stays.
    pub fn write(&mut self, at: u16, data: &[u8]) {
        let registers = self.bytes.iter_mut().zip(&self.writable).skip(at.into());
        for ((register, writable), data) in registers.zip(data) {
            *register = *register & !writable | data & writable;
        }
    }

    /// Where the memory of BAR 0 answers by these registers; none while decoding is off.
    pub fn memory_base(&self) -> Option<u64> {
        let enabled = u16::from_le_bytes(self.get(offset::COMMAND)) & MEMORY_SPACE != 0;
        enabled.then(|| u64::from_le_bytes(self.get(offset::BAR0)) & !0xf)
    }
}

#[cfg(test)]
#[path = "config_test.rs"]
mod config_test;
