//! One KVM virtual machine before it has vCPUs: its interrupt controller mode and memory slots.
//!
//! The order of calls matters for start-up time: an interrupt controller made before the memory
//! slots exist spares KVM a grace period (see `docs/adr/0002-split-irqchip.md`).

use std::sync::Arc;

use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X2APIC_API, KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK,
    KVM_X2APIC_API_USE_32BIT_IDS, kvm_enable_cap, kvm_userspace_memory_region,
};
use kvm_ioctls::{VcpuFd, VmFd};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

use super::{Error, System, failed};
use devices::memory::GuestMemory;

/// Pins of the I/O APIC in this process, all of them GSIs 0 to 47.
pub const IOAPIC_PINS: u32 = 48;

/// A virtual machine with its local APICs in KVM.
#[derive(Debug)]
pub struct Vm {
    fd: Arc<VmFd>,
}

impl Vm {
    /// Creates a virtual machine with a split interrupt controller and 32-bit APIC ids.
    ///
    /// # Errors
    ///
    /// [`Error::Operation`] naming the ioctl that failed.
    pub fn new(system: &System) -> Result<Self, Error> {
        let fd = system.create_vm()?;
        enable(&fd, KVM_CAP_SPLIT_IRQCHIP, IOAPIC_PINS.into(), "KVM_CAP_SPLIT_IRQCHIP")?;
        let flags = KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;
        enable(&fd, KVM_CAP_X2APIC_API, flags.into(), "KVM_CAP_X2APIC_API")?;
        // Both are needed by Intel CPUs without unrestricted guest only, cost nothing elsewhere, and
        // must lie below 4 GiB where neither memory nor a device is.
        fd.set_identity_map_address(boot::layout::KVM_IDENTITY_MAP)
            .map_err(failed("KVM_SET_IDENTITY_MAP_ADDR"))?;
        let tss = usize::try_from(boot::layout::KVM_TSS).unwrap_or(usize::MAX);
        fd.set_tss_address(tss).map_err(failed("KVM_SET_TSS_ADDR"))?;
        Ok(Self { fd: Arc::new(fd) })
    }

    /// The machine's descriptor, for irqfds and interrupt routes.
    pub fn fd(&self) -> &Arc<VmFd> {
        &self.fd
    }

    /// Gives every region of `memory` a slot, in order from slot 0 (KVM_SET_USER_MEMORY_REGION).
    ///
    /// # Errors
    ///
    /// [`Error::Operation`] when KVM refuses a slot.
    #[allow(unsafe_code)]
    pub fn map_memory(&self, memory: &GuestMemory) -> Result<(), Error> {
        for (slot, region) in (0u32..).zip(memory.iter()) {
            let host =
                region.get_host_address(MemoryRegionAddress(0)).map_err(|e| Error::Operation {
                    operation: "KVM_SET_USER_MEMORY_REGION",
                    source: std::io::Error::other(e),
                })?;
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: host as u64,
            };
            // SAFETY: the mapping at `host` has `memory_size` bytes. It may go before this machine
            // does: KVM follows host mappings (MMU notifiers), and `Machine` stops all vCPUs first.
            unsafe { self.fd.set_user_memory_region(region) }
                .map_err(failed("KVM_SET_USER_MEMORY_REGION"))?;
        }
        Ok(())
    }

    /// Creates the vCPU with this APIC id (KVM_CREATE_VCPU).
    ///
    /// # Errors
    ///
    /// [`Error::Operation`] when KVM refuses it.
    pub fn create_vcpu(&self, apic_id: u32) -> Result<VcpuFd, Error> {
        self.fd.create_vcpu(apic_id.into()).map_err(failed("KVM_CREATE_VCPU"))
    }
}

fn enable(fd: &VmFd, cap: u32, arg: u64, name: &'static str) -> Result<(), Error> {
    let request = kvm_enable_cap { cap, args: [arg, 0, 0, 0], ..Default::default() };
    fd.enable_cap(&request).map_err(failed(name))
}
