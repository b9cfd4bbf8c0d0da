//! The one bus: a host bridge at 00:00.0, functions in slots 1 to 31, and the ways to them: configuration
//! through the enhanced mechanism (PCI Express 4.0, 7.2.2) and through ports 0xCF8 and 0xCFC (PCI 3.0,
//! 3.2.2.3.2), memory through the windows of the host bridge.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Function;
use super::bar::Bar;
use super::config::{ConfigSpace, Identity};
use crate::bus::{Action, BusDevice, SharedBusDevice};

/// The first of the eight ports of the configuration mechanism.
pub const CONFIG_PORTS: u16 = 0xcf8;
/// How many ports there are.
pub const CONFIG_PORTS_LEN: u64 = 8;

/// Slots of a bus, that of the host bridge included.
const SLOTS: usize = 32;
/// Bytes of a function's configuration space under the enhanced mechanism.
const SPACE: u64 = 0x1000;

/// The host bridge: QEMU's generic one, which every kernel leaves alone.
const HOST_BRIDGE: Identity = Identity {
    vendor: 0x1b36,
    device: 0x0008,
    revision: 0,
    class: 0x06_00_00,
    subsystem_vendor: 0x1af4,
    subsystem: 0x1100,
};

struct HostBridge(ConfigSpace);

impl Function for HostBridge {
    fn read_config(&mut self, offset: u16, data: &mut [u8]) {
        self.0.read(offset, data);
    }

    fn write_config(&mut self, offset: u16, data: &[u8]) {
        self.0.write(offset, data);
    }
}

/// No slot is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the PCI bus is full: it has room for {} devices", Root::ROOM)]
pub struct Full;

struct Slot {
    function: Arc<Mutex<dyn Function>>,
    bar: Option<Arc<Bar>>,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, dyn Function + 'static> {
        self.function.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bus: filled while the machine is built, and only looked at afterwards.
pub struct Root {
    /// By device number.
    slots: Vec<Slot>,
}

impl Root {
    /// How many functions there is room for.
    pub const ROOM: usize = SLOTS - 1;

    /// A bus with nothing but the host bridge.
    pub fn new() -> Self {
        let bridge = Arc::new(Mutex::new(HostBridge(ConfigSpace::new(HOST_BRIDGE))));
        Self { slots: vec![Slot { function: bridge, bar: None }] }
    }

    /// Puts `function` into the next slot, with the memory that answers at `bar`. Returns its device
    /// number, 1 to 31.
    ///
    /// # Errors
    ///
    /// [`Full`]
    pub fn insert(
        &mut self,
        function: Arc<Mutex<dyn Function>>,
        bar: Arc<Bar>,
    ) -> Result<u8, Full> {
        let number = u8::try_from(self.slots.len()).map_err(|_| Full)?;
        if self.slots.len() == SLOTS {
            return Err(Full);
        }
        self.slots.push(Slot { function, bar: Some(bar) });
        Ok(number)
    }

    /// The function of these numbers, if there is one.
    fn at(&self, bus: u64, device: u64, function: u64) -> Option<&Slot> {
        let device = usize::try_from(device).ok()?;
        if bus == 0 && function == 0 { self.slots.get(device) } else { None }
    }

    /// Where memory accesses of `len` bytes at `address` go: where memories overlap, to the lowest slot.
    fn memory(&self, address: u64, len: usize) -> Option<(&Slot, u64)> {
        self.slots.iter().find_map(|slot| Some((slot, slot.bar.as_ref()?.offset(address, len)?)))
    }
}

impl Default for Root {
    fn default() -> Self {
        Self::new()
    }
}

/// Configuration space as memory: bus 0 first, a MiB for each bus. Absent functions read all ones.
pub struct Ecam {
    root: Arc<Root>,
}

impl Ecam {
    /// The configuration space of `root`.
    pub fn new(root: Arc<Root>) -> Self {
        Self { root }
    }

    /// The function and register that an access is for; none if it crosses the end of a function.
    fn decode(&self, offset: u64, len: usize) -> Option<(&Slot, u16)> {
        let register = offset % SPACE;
        if register.checked_add(u64::try_from(len).ok()?)? > SPACE {
            return None;
        }
        let slot = self.root.at(offset >> 20, offset >> 15 & 0x1f, offset >> 12 & 7)?;
        Some((slot, u16::try_from(register).ok()?))
    }
}

impl SharedBusDevice for Ecam {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match self.decode(offset, data.len()) {
            Some((slot, register)) => slot.lock().read_config(register, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Option<Action> {
        let (slot, register) = self.decode(offset, data.len())?;
        slot.lock().write_config(register, data);
        None
    }
}

/// The ports of the older mechanism: an address register, and a window of four bytes to what it
/// selects.
pub struct ConfigPorts {
    root: Arc<Root>,
    address: u32,
}

impl ConfigPorts {
    /// The configuration space of `root`.
    pub fn new(root: Arc<Root>) -> Self {
        Self { root, address: 0 }
    }

    /// The function and register that an access at port `offset` is for.
    fn decode(&self, offset: u64, len: usize) -> Option<(&Slot, u16)> {
        let byte = offset.checked_sub(4)?;
        let fits = byte.checked_add(u64::try_from(len).ok()?)? <= 4;
        let address = u64::from(self.address);
        if !fits || address >> 31 == 0 {
            return None;
        }
        let slot = self.root.at(address >> 16 & 0xff, address >> 11 & 0x1f, address >> 8 & 7)?;
        Some((slot, u16::try_from((address & 0xfc) + byte).ok()?))
    }
}

impl BusDevice for ConfigPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let (0, Ok(data)) = (offset, <&mut [u8; 4]>::try_from(&mut *data)) {
            *data = self.address.to_le_bytes();
        } else if let Some((slot, register)) = self.decode(offset, data.len()) {
            slot.lock().read_config(register, data);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Option<Action> {
        if let (0, Ok(data)) = (offset, <[u8; 4]>::try_from(data)) {
            // Bits 30:24 and 1:0 are reserved.
            self.address = u32::from_le_bytes(data) & 0x80ff_fffc;
        } else if let Some((slot, register)) = self.decode(offset, data.len()) {
            slot.lock().write_config(register, data);
        }
        None
    }
}

/// Addresses that the host bridge passes on to the functions whose memory is there. Where nobody's is,
/// reads are all ones.
pub struct MmioWindow {
    root: Arc<Root>,
    base: u64,
}

impl MmioWindow {
    /// The window to `root` that starts at guest-physical address `base`.
    pub fn new(root: Arc<Root>, base: u64) -> Self {
        Self { root, base }
    }
}

impl SharedBusDevice for MmioWindow {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match self.root.memory(self.base.wrapping_add(offset), data.len()) {
            Some((slot, offset)) => slot.lock().read_bar(offset, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Option<Action> {
        let (slot, offset) = self.root.memory(self.base.wrapping_add(offset), data.len())?;
        slot.lock().write_bar(offset, data)
    }
}

#[cfg(test)]
#[path = "root_test.rs"]
mod root_test;
