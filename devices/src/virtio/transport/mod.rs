//! The ways a driver reaches a device: one state machine ([`Core`]), and two faces that translate
//! registers to it, [`mmio`] and [`pci`].

mod core;
pub mod mmio;
pub mod pci;
mod pci_ids;

use std::io;

use vmm_sys_util::eventfd::EventFd;

pub use self::core::{Core, DeviceState, Half, Notifications, Ring, feature, isr, status};

/// How a transport has KVM ring a queue's doorbell when the guest writes to its notification
/// register (ioeventfds). The machine implements it.
pub trait Doorbells: Send {
    /// From now on, a write to the notification register of queue `index` rings `event` instead
    /// of reaching the transport.
    ///
    /// # Errors
    ///
    /// KVM's answer. The device works without, slower: such writes still reach the transport.
    fn connect(&self, index: u16, event: &EventFd) -> io::Result<()>;

    /// Undoes `connect`.
    ///
    /// # Errors
    ///
    /// KVM's answer.
    fn disconnect(&self, index: u16, event: &EventFd) -> io::Result<()>;
}
