//! Doorbells of virtio queues (KVM_IOEVENTFD): a guest's write to a notification register becomes an
//! eventfd's count without leaving the kernel.
//!
//! KVM waits for a grace period with each one, so none is made before a driver starts its device.

use std::io;
use std::sync::Arc;

use devices::virtio::transport::Doorbells;
use devices::virtio::transport::mmio::QUEUE_NOTIFY;
use devices::virtio::transport::pci::NotifyAddresses;
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::EventFd;

/// Doorbells at addresses of their own, for virtio over PCI. A write of any length rings: KVM then need
/// not decode the instruction.
#[derive(Debug)]
pub struct AddressDoorbells(pub Arc<VmFd>);

impl NotifyAddresses for AddressDoorbells {
    fn connect(&self, address: u64, event: &EventFd) -> io::Result<()> {
        let address = IoEventAddress::Mmio(address);
        Ok(self.0.register_ioevent(event, &address, NoDatamatch)?)
    }

    fn disconnect(&self, address: u64, event: &EventFd) -> io::Result<()> {
        let address = IoEventAddress::Mmio(address);
        Ok(self.0.unregister_ioevent(event, &address, NoDatamatch)?)
    }
}

/// Doorbells of a virtio-mmio device: one register, to which the driver writes a queue's number.
#[derive(Debug)]
pub struct MmioDoorbells {
    vm: Arc<VmFd>,
    register: IoEventAddress,
}

impl MmioDoorbells {
    /// The doorbells of the device whose registers are at `base`.
    pub fn new(vm: Arc<VmFd>, base: u64) -> Self {
        Self { vm, register: IoEventAddress::Mmio(base + QUEUE_NOTIFY) }
    }
}

impl Doorbells for MmioDoorbells {
    fn connect(&self, index: u16, event: &EventFd) -> io::Result<()> {
        Ok(self.vm.register_ioevent(event, &self.register, u32::from(index))?)
    }

    fn disconnect(&self, index: u16, event: &EventFd) -> io::Result<()> {
        Ok(self.vm.unregister_ioevent(event, &self.register, u32::from(index))?)
    }
}
