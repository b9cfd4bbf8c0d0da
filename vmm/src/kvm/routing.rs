//! The one owner of a machine's GSI routing table.
//!
//! KVM_SET_GSI_ROUTING replaces the whole table and waits for a grace period, so every route of the
//! machine is kept here, and the table goes to KVM only when a route has really changed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_msi, kvm_msi,
};
use kvm_ioctls::VmFd;

use super::pace::Pace;
use super::{Error, failed};

/// A message-signalled interrupt as the guest wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Msi {
    /// Address, in the format of the local APIC (`0xFEE0_0000` and up), with an extended
    /// destination id in bits 11:5 (KVM_FEATURE_MSI_EXT_DEST_ID).
    pub address: u64,
    /// Data: vector, delivery mode, level, trigger mode.
    pub data: u32,
}

/// Changes of routes at once, and the time for each after that: more than any kernel makes that is not
/// out to keep the host busy.
const BURST: u32 = 1024;
const INTERVAL: Duration = Duration::from_millis(1);

/// Routes from GSIs to MSIs.
#[derive(Debug)]
pub struct GsiRouter {
    vm: Arc<VmFd>,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    routes: BTreeMap<u32, Msi>,
    pace: Pace,
}

impl GsiRouter {
    /// A router with no routes; KVM's table starts empty too.
    pub fn new(vm: Arc<VmFd>) -> Self {
        let table = Table { routes: BTreeMap::new(), pace: Pace::new(BURST, INTERVAL) };
        Self { vm, table: Mutex::new(table) }
    }

    /// Routes `gsi` to `message`, or nowhere. A call that changes nothing costs no ioctl; a guest that
    /// changes routes all the time is slowed down.
    ///
    /// # Errors
    ///
    /// [`Error::Operation`] when KVM refuses the table; the old routes stay.
    pub fn set(&self, gsi: u32, message: Option<Msi>) -> Result<(), Error> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let Table { routes, pace } = &mut *table;
        if routes.get(&gsi).copied() == message {
            return Ok(());
        }
        let wait = pace.admit(Instant::now());
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
        let old = match message {
            Some(message) => routes.insert(gsi, message),
            None => routes.remove(&gsi),
        };
        self.write(routes).inspect_err(|_| {
            match old {
                Some(old) => routes.insert(gsi, old),
                None => routes.remove(&gsi),
            };
        })
    }

    /// Delivers `message` now (KVM_SIGNAL_MSI).
    ///
    /// # Errors
    ///
    /// [`Error::Operation`] when KVM refuses the message.
    pub fn deliver(&self, message: Msi) -> Result<(), Error> {
        let (address_lo, address_hi) = split(message.address);
        let msi = kvm_msi { address_lo, address_hi, data: message.data, ..Default::default() };
        self.vm.signal_msi(msi).map(drop).map_err(failed("KVM_SIGNAL_MSI"))
    }

    fn write(&self, routes: &BTreeMap<u32, Msi>) -> Result<(), Error> {
        let entries: Vec<_> = routes.iter().map(|(&gsi, &message)| entry(gsi, message)).collect();
        let table = KvmIrqRouting::from_entries(&entries).map_err(|e| Error::Operation {
            operation: "KVM_SET_GSI_ROUTING",
            source: std::io::Error::other(format!("{e:?}")),
        })?;
        self.vm.set_gsi_routing(&table).map_err(failed("KVM_SET_GSI_ROUTING"))
    }
}

/// The low and high words of an MSI's address as KVM takes them: the guest's extended destination
/// id moves to where KVM_CAP_X2APIC_API expects bits 31:8 of a destination, the upper bits of the
/// high word.
fn split(address: u64) -> (u32, u32) {
    let [low, high] = [address & 0xffff_ffff, address >> 32].map(|w| u32::try_from(w).unwrap_or(0));
    let extended = low & 0xfe0;
    (low & !0xfe0, (high & 0xffff_ff00) | (extended << 3))
}

fn entry(gsi: u32, message: Msi) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    let (address_lo, address_hi) = split(message.address);
    entry.u.msi =
        kvm_irq_routing_msi { address_lo, address_hi, data: message.data, ..Default::default() };
    entry
}

#[cfg(test)]
#[path = "routing_test.rs"]
mod routing_test;
