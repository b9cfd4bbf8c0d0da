//! An address space (port I/O or MMIO) and the trait of the devices that sit on it.
//!
//! A [`Bus`] is filled while the machine is built and immutable afterwards: vCPUs look devices up
//! without any lock and contend only for the device they both access. Decoding a KVM exit into
//! bus accesses is not done here.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// What a guest's write asks of the machine as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Turn the machine off (ACPI S5).
    PowerOff,
    /// Reset the machine.
    Reset,
    /// The guest's kernel reported that it panicked.
    GuestPanicked {
        /// The guest handles the panic itself with a crash kernel; it keeps running.
        crash_loaded: bool,
    },
    /// The guest asked for the process to end with this code (debug-exit port).
    DebugExit(u8),
}

/// A device that occupies one range of a bus.
///
/// Data is little endian. Lengths are chosen by the guest: implementations accept any, zero
/// included, and treat those they do not support as their specification says.
pub trait BusDevice: Send {
    /// Reads `data.len()` bytes at `offset` from the start of the device's range into `data`.
    ///
    /// Every byte of `data` must be written.
    fn read(&mut self, offset: u64, data: &mut [u8]);

    /// Writes `data` at `offset` from the start of the device's range.
    fn write(&mut self, offset: u64, data: &[u8]) -> Option<Action>;
}

/// A device that keeps vCPUs apart itself, where it must: the way into a space of many devices, which
/// one lock for all would make wait for each other. Otherwise as [`BusDevice`].
pub trait SharedBusDevice: Send + Sync {
    /// As [`BusDevice::read`].
    fn read(&self, offset: u64, data: &mut [u8]);

    /// As [`BusDevice::write`].
    fn write(&self, offset: u64, data: &[u8]) -> Option<Action>;
}

impl<T: BusDevice + ?Sized> SharedBusDevice for Mutex<T> {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Option<Action> {
        self.lock().unwrap_or_else(PoisonError::into_inner).write(offset, data)
    }
}

/// An inclusive range of addresses, shown in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first address.
    pub first: u64,
    /// The last address, itself part of the range.
    pub last: u64,
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..={:#x}", self.first, self.last)
    }
}

/// Why a device could not be put on a bus.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The range has no addresses or passes the end of the 64-bit address space.
    #[error("{bus} bus: a device at {base:#x} cannot have a length of {len:#x}")]
    BadRange {
        /// The bus.
        bus: &'static str,
        /// First address asked for.
        base: u64,
        /// Length asked for, in bytes.
        len: u64,
    },
    /// The range shares addresses with a device already on the bus.
    #[error("{bus} bus: {new} overlaps the device at {existing}")]
    Overlap {
        /// The bus.
        bus: &'static str,
        /// The range asked for.
        new: Range,
        /// The range already taken.
        existing: Range,
    },
}

#[derive(Clone)]
struct Slot {
    range: Range,
    device: Arc<dyn SharedBusDevice>,
}

/// An address space with devices at non-overlapping ranges.
#[derive(Clone)]
pub struct Bus {
    name: &'static str,
    /// Ordered by address.
    slots: Vec<Slot>,
}

impl Bus {
    /// An empty bus; `name` appears in error messages ("I/O port", "MMIO").
    pub fn new(name: &'static str) -> Self {
        Self { name, slots: Vec::new() }
    }

    /// Puts `device` at the `len` bytes from `base` on.
    ///
    /// # Errors
    ///
    /// The range is empty, wraps around, or overlaps that of another device.
    pub fn insert(
        &mut self,
        base: u64,
        len: u64,
        device: Arc<dyn SharedBusDevice>,
    ) -> Result<(), Error> {
        let last = len.checked_sub(1).and_then(|span| base.checked_add(span));
        let last = last.ok_or(Error::BadRange { bus: self.name, base, len })?;
        let range = Range { first: base, last };
        let at = self.slots.partition_point(|slot| slot.range.last < base);
        if let Some(slot) = self.slots.get(at)
            && slot.range.first <= last
        {
            return Err(Error::Overlap { bus: self.name, new: range, existing: slot.range });
        }
        self.slots.insert(at, Slot { range, device });
        Ok(())
    }

    /// Reads `data.len()` bytes at `address`. Where no device covers the whole access, every byte
    /// reads 0xff, as on an undriven bus.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address, data.len()) {
            Some((offset, device)) => device.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Writes `data` at `address`. Without a device that covers the whole access, nothing happens.
    pub fn write(&self, address: u64, data: &[u8]) -> Option<Action> {
        let (offset, device) = self.find(address, data.len())?;
        device.write(offset, data)
    }

    fn find(&self, address: u64, len: usize) -> Option<(u64, &dyn SharedBusDevice)> {
        let span = u64::try_from(len.checked_sub(1)?).ok()?;
        let last = address.checked_add(span)?;
        let at = self.slots.partition_point(|slot| slot.range.last < address);
        let slot = self.slots.get(at)?;
        (slot.range.first <= address && last <= slot.range.last)
            .then(|| (address - slot.range.first, &*slot.device))
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self.slots.iter().map(|slot| slot.range.to_string());
        f.debug_struct("Bus")
            .field("name", &self.name)
            .field("ranges", &Vec::from_iter(ranges))
            .finish()
    }
}

#[cfg(test)]
#[path = "bus_test.rs"]
mod bus_test;
