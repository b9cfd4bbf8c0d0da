//! Virtio over PCI (virtio 1.3, 4.1): a function whose capabilities lead to the structures of one BAR.
//!
//! Here is the function itself, with what lies where in its BAR; the common configuration structure is
//! in [`common`], the interrupts are in [`interrupt`]. There is no I/O BAR, no legacy interface and no
//! interrupt pin: without MSI-X a driver has to poll. The bus master bit is kept and changes nothing, as
//! drivers exist that never set it.

mod common;
mod interrupt;

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use self::interrupt::{PciInterrupt, VectorState};
use super::core::{Core, DeviceState, Notifications};
use super::{Doorbells, pci_ids};
use crate::bus::Action;
use crate::memory::GuestMemory;
use crate::pci::{Bar, ConfigSpace, Function, MsiVectors, Msix, MsixSignals, MsixState};
use crate::virtio::device::{RestoreError, VirtioDevice};

/// Length of the BAR in bytes.
pub const BAR_LEN: u64 = 0x1_0000;

/// What lies where in the BAR. Notification registers have a page of their own, for they alone are
/// written in normal operation.
const COMMON: Range<u64> = 0..common::LEN;
const ISR: Range<u64> = 0x1000..0x1001;
const DEVICE: Range<u64> = 0x2000..0x3000;
const NOTIFY: Range<u64> = 0x3000..0x4000;
const PENDING: Range<u64> = 0x4000..0x5000;
const TABLE: Range<u64> = 0x8000..BAR_LEN;

/// Distance of the notification registers of two queues.
const NOTIFY_STRIDE: u32 = 4;
/// The most queues there are notification registers for.
const MAX_QUEUES: u16 = 1024;

/// Capabilities: vendor-specific, and of which kind (4.1.4).
const VENDOR_SPECIFIC: u8 = 9;
const COMMON_CFG: u8 = 1;
const NOTIFY_CFG: u8 = 2;
const ISR_CFG: u8 = 3;
const DEVICE_CFG: u8 = 4;
const PCI_CFG: u8 = 5;

/// Offsets in the PCI_CFG capability.
const CFG_BAR: u16 = 4;
const CFG_OFFSET: u16 = 8;
const CFG_LENGTH: u16 = 12;
const CFG_DATA: u16 = 16;

/// How the machine has KVM ring an eventfd when the guest writes to an address (ioeventfds).
pub trait NotifyAddresses: Send {
    /// From now on, a write of any length to guest-physical `address` rings `event` instead of
    /// reaching a bus.
    ///
    /// # Errors
    ///
    /// KVM's answer.
    fn connect(&self, address: u64, event: &EventFd) -> io::Result<()>;

    /// Undoes `connect`.
    ///
    /// # Errors
    ///
    /// KVM's answer.
    fn disconnect(&self, address: u64, event: &EventFd) -> io::Result<()>;
}

/// What the machine gives a function.
pub struct Resources {
    /// Where its BAR is at first, a multiple of [`BAR_LEN`].
    pub address: u64,
    /// The guest-physical addresses at which the BAR can answer.
    pub windows: Arc<[Range<u64>]>,
    /// One vector for configuration changes, then one for each queue.
    pub vectors: Arc<dyn MsiVectors>,
    /// Doorbells of the queues.
    pub notify: Box<dyn NotifyAddresses>,
}

/// The doorbells of a function: their addresses are those of the BAR.
struct BarDoorbells {
    bar: Arc<Bar>,
    notify: Box<dyn NotifyAddresses>,
}

impl BarDoorbells {
    /// None while the BAR answers nowhere.
    fn address(&self, index: u16) -> Option<u64> {
        let offset = NOTIFY.start + u64::from(index) * u64::from(NOTIFY_STRIDE);
        self.bar.base().map(|base| base + offset)
    }
}

impl Doorbells for BarDoorbells {
    fn connect(&self, index: u16, event: &EventFd) -> io::Result<()> {
        self.address(index).map_or(Ok(()), |address| self.notify.connect(address, event))
    }

    fn disconnect(&self, index: u16, event: &EventFd) -> io::Result<()> {
        self.address(index).map_or(Ok(()), |address| self.notify.disconnect(address, event))
    }
}

/// What a function looked like when it was saved.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PciState {
    config: Vec<u8>,
    msix: MsixState,
    vectors: VectorState,
    device: DeviceState,
}

/// A virtio device as a PCI function.
pub struct Pci {
    config: ConfigSpace,
    msix: Msix,
    core: Arc<Mutex<Core>>,
    interrupt: Arc<PciInterrupt>,
    bar: Arc<Bar>,
    /// Offset of the PCI_CFG capability.
    window: u16,
}

impl Pci {
    /// The function of `device`, in its reset state.
    ///
    /// # Errors
    ///
    /// The host has no more descriptors, or the device has more than 1024 queues.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: Arc<GuestMemory>,
        resources: Resources,
    ) -> io::Result<Self> {
        let queues = queue_count(&*device)?;
        let Resources { address, windows, vectors, notify } = resources;
        let mut config = ConfigSpace::new(pci_ids::identity(device.id()));
        config.add_bar(BAR_LEN, address);
        let signals = Arc::new(MsixSignals::new(queues + 1, vectors));
        // Both offsets are within the BAR's 64 KiB.
        let [table, pending] = [TABLE, PENDING].map(|place| u32::try_from(place.start));
        let (table, pending) = (table.unwrap_or(0), pending.unwrap_or(0));
        let msix = Msix::new(&mut config, Arc::clone(&signals), table, pending);
        let window = add_capabilities(&mut config, queues);

        let notifications = Arc::new(Notifications::default());
        let interrupt = Arc::new(PciInterrupt::new(signals, queues, Arc::clone(&notifications)));
        let bar = Arc::new(Bar::new(BAR_LEN, windows));
        let doorbells = Box::new(BarDoorbells { bar: Arc::clone(&bar), notify });
        let core = Core::new(device, memory, interrupt.clone(), notifications, doorbells)?;
        let core = Arc::new(Mutex::new(core));
        Ok(Self { config, msix, core, interrupt, bar, window })
    }

    /// Where the function's memory answers.
    pub fn bar(&self) -> &Arc<Bar> {
        &self.bar
    }

    /// The device, for the machine.
    pub fn core(&self) -> &Arc<Mutex<Core>> {
        &self.core
    }

    /// How many MSI-X vectors a device takes.
    ///
    /// # Errors
    ///
    /// The device has more queues than there can be.
    pub fn vectors(device: &dyn VirtioDevice) -> io::Result<u16> {
        queue_count(device).map(|queues| queues + 1)
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes what the rest of the machine sees follow the registers.
    fn configured(&mut self) {
        self.msix.configured(&self.config);
        self.interrupt.set_msix_enabled(self.msix.is_enabled());
        self.interrupt.vectors_changed();
        let base = self.config.memory_base().and_then(|address| self.bar.answers_at(address));
        if base != self.bar.base() {
            self.lock().move_doorbells(|| self.bar.move_to(base));
        }
    }

    /// Whether an access to configuration space touches the data register of the PCI_CFG capability.
    fn touches_window(&self, at: u16, len: usize) -> bool {
        let data = usize::from(self.window + CFG_DATA);
        let at = usize::from(at);
        at < data + 4 && data < at + len
    }

    /// Where in the BAR the PCI_CFG capability points (4.1.4.9.1); none if nowhere.
    fn window_target(&self) -> Option<(u64, usize)> {
        let [bar] = self.config.get(self.window + CFG_BAR);
        let offset = u32::from_le_bytes(self.config.get(self.window + CFG_OFFSET)).into();
        let len = u32::from_le_bytes(self.config.get(self.window + CFG_LENGTH));
        let len_is_possible = matches!(len, 1 | 2 | 4) && offset % u64::from(len) == 0;
        let fits = bar == 0 && len_is_possible && offset + u64::from(len) <= BAR_LEN;
        fits.then_some((offset, usize::try_from(len).ok()?))
    }

    /// The state of a function whose device is suspended.
    pub fn save(&self) -> PciState {
        PciState {
            config: self.config.bytes().to_vec(),
            msix: self.msix.save(),
            vectors: self.interrupt.save(),
            device: self.lock().save(),
        }
    }

    /// Makes this function, fresh, what `state` says; the device itself is still suspended.
    ///
    /// # Errors
    ///
    /// The state is not one of such a device.
    pub fn restore(&mut self, state: &PciState) -> Result<(), RestoreError> {
        let refused = |what: &str| RestoreError { device: "PCI", reason: what.to_owned() };
        if state.config.len() != self.config.bytes().len() {
            return Err(refused("its configuration space has another size"));
        }
        self.lock().restore(&state.device)?;
        self.interrupt
            .restore(&state.vectors)
            .ok_or_else(|| refused("it has another number of queues"))?;
        self.msix
            .restore(&state.msix)
            .ok_or_else(|| refused("it has another number of vectors"))?;
        self.config.write(0, &state.config);
        self.configured();
        Ok(())
    }
}

impl Function for Pci {
    fn read_config(&mut self, offset: u16, data: &mut [u8]) {
        if self.touches_window(offset, data.len())
            && let Some((at, len)) = self.window_target()
        {
            let mut value = [0; 4];
            self.read_bar(at, &mut value[..len]);
            self.config.set(self.window + CFG_DATA, &value);
        }
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: u16, data: &[u8]) {
        self.config.write(offset, data);
        if self.touches_window(offset, data.len())
            && let Some((at, len)) = self.window_target()
        {
            let value: [u8; 4] = self.config.get(self.window + CFG_DATA);
            self.write_bar(at, &value[..len]);
        }
        self.configured();
    }

    fn read_bar(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match offset {
            _ if COMMON.contains(&offset) => {
                common::read(&self.lock(), &self.interrupt, offset, data);
            }
            _ if ISR.contains(&offset) => {
                if let Some(first) = data.first_mut() {
                    *first = self.interrupt.take_isr();
                }
            }
            _ if DEVICE.contains(&offset) => self.lock().read_config(offset - DEVICE.start, data),
            _ if PENDING.contains(&offset) => {
                self.msix.read_pending(offset - PENDING.start, data);
            }
            _ if TABLE.contains(&offset) => self.msix.read_table(offset - TABLE.start, data),
            _ => {}
        }
    }

    fn write_bar(&mut self, offset: u64, data: &[u8]) -> Option<Action> {
        match offset {
            _ if COMMON.contains(&offset) => {
                common::write(&mut self.lock(), &self.interrupt, offset, data);
            }
            _ if DEVICE.contains(&offset) => self.lock().write_config(offset - DEVICE.start, data),
            _ if NOTIFY.contains(&offset) => {
                let queue = (offset - NOTIFY.start) / u64::from(NOTIFY_STRIDE);
                self.lock().notify(u16::try_from(queue).unwrap_or(u16::MAX));
            }
            _ if TABLE.contains(&offset) => {
                self.msix.write_table(offset - TABLE.start, data);
                self.interrupt.vectors_changed();
            }
            _ => {}
        }
        None
    }
}

fn queue_count(device: &dyn VirtioDevice) -> io::Result<u16> {
    match u16::try_from(device.queue_sizes().len()) {
        Ok(count) if count <= MAX_QUEUES => Ok(count),
        _ => Err(io::Error::other(format!("a device has more than {MAX_QUEUES} queues"))),
    }
}

/// Adds virtio's capabilities; returns the offset of PCI_CFG.
fn add_capabilities(config: &mut ConfigSpace, queues: u16) -> u16 {
    let notify_len = u64::from(NOTIFY_STRIDE) * u64::from(queues.max(1));
    let notify = NOTIFY.start..NOTIFY.start + notify_len;
    for (kind, place) in [(COMMON_CFG, COMMON), (ISR_CFG, ISR), (DEVICE_CFG, DEVICE)] {
        config.add_capability(VENDOR_SPECIFIC, &capability(kind, place, &[]));
    }
    let multiplier = NOTIFY_STRIDE.to_le_bytes();
    config.add_capability(VENDOR_SPECIFIC, &capability(NOTIFY_CFG, notify, &multiplier));
    let window = config.add_capability(VENDOR_SPECIFIC, &capability(PCI_CFG, 0..0, &[0; 4]));
    config.allow(window + CFG_BAR, &[0xff]);
    config.allow(window + CFG_OFFSET, &[0xff; 12]);
    window
}

/// `struct virtio_pci_cap` behind id and link: length, kind, BAR 0, id 0, offset, length, and `more`.
#[allow(clippy::cast_possible_truncation)] // Places in a BAR of 64 KiB, and at most 20 bytes.
fn capability(kind: u8, place: Range<u64>, more: &[u8]) -> Vec<u8> {
    let mut body = vec![16 + more.len() as u8, kind, 0, 0, 0, 0];
    body.extend((place.start as u32).to_le_bytes());
    body.extend(((place.end - place.start) as u32).to_le_bytes());
    body.extend(more);
    body
}

#[cfg(test)]
#[path = "pci_test.rs"]
mod pci_test;
