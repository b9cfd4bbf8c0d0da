//! PCI: one bus of single-function devices, with everything a guest configures them by.
//!
//! [`config`] holds the registers of a function, [`bar`] where its memory answers, [`msix`] its
//! interrupts, and [`root`] the bus, whose ways in are both configuration mechanisms and the
//! memory windows. What a function does is its own business ([`Function`]): virtio's is in
//! [`crate::virtio::transport::pci`].
//!
//! Locks: each function has its own, and nothing here holds one while it takes another. Which function a
//! memory access belongs to is looked up without any.

pub mod bar;
pub mod config;
pub mod msix;
pub mod root;

pub use bar::{Bar, BarAllocator};
pub use config::{ConfigSpace, Identity};
pub use msix::{MsiVectors, Msix, MsixSignals, MsixState};
pub use root::{ConfigPorts, Ecam, Full, MmioWindow, Root};

use crate::bus::Action;

/// A function on the bus. Offsets and lengths are the guest's choice: implementations accept any.
pub trait Function: Send {
    /// Reads its configuration space. The access lies within 4 KiB; what is not implemented reads
    /// all ones.
    fn read_config(&mut self, offset: u16, data: &mut [u8]);

    /// Writes its configuration space.
    fn write_config(&mut self, offset: u16, data: &[u8]);

    /// Reads at `offset` in its memory; the access lies within the [`Bar`].
    fn read_bar(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    /// Writes at `offset` in its memory.
    fn write_bar(&mut self, _offset: u64, _data: &[u8]) -> Option<Action> {
        None
    }
}
