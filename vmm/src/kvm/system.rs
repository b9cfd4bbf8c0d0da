//! The KVM system descriptor (`/dev/kvm`): opening it, and what it can do.
//!
//! Capabilities are asked for, never assumed: nested and paravirtual KVMs answer with less than
//! hardware does.

use std::io;
use std::path::Path;

use kvm_bindings::{CpuId, KVM_CAP_X2APIC_API, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm, VmFd};

use super::{Error, failed};

/// The API version every KVM since Linux 2.6.22 answers with.
const API_VERSION: i32 = 12;

/// A capability Carve asks about.
#[derive(Debug, Clone, Copy)]
pub struct Capability {
    /// Its name in the kernel documentation.
    pub name: &'static str,
    /// What Carve needs it for.
    pub purpose: &'static str,
    /// Whether no guest runs without it.
    pub required: bool,
    number: u32,
}

const fn required(name: &'static str, purpose: &'static str, cap: Cap) -> Capability {
    Capability { name, purpose, required: true, number: cap as u32 }
}

const fn optional(name: &'static str, purpose: &'static str, cap: Cap) -> Capability {
    Capability { name, purpose, required: false, number: cap as u32 }
}

/// Every capability Carve uses.
pub const CAPABILITIES: &[Capability] = &[
    required("KVM_CAP_USER_MEMORY", "guest memory from this process", Cap::UserMemory),
    required("KVM_CAP_EXT_CPUID", "choosing the CPUID a guest sees", Cap::ExtCpuid),
    required("KVM_CAP_SPLIT_IRQCHIP", "local APICs in the kernel", Cap::SplitIrqchip),
    required("KVM_CAP_IRQ_ROUTING", "interrupt routes", Cap::IrqRouting),
    required("KVM_CAP_IRQFD", "interrupts raised by file descriptor", Cap::Irqfd),
    required("KVM_CAP_IMMEDIATE_EXIT", "stopping a vCPU without a race", Cap::ImmediateExit),
    required("KVM_CAP_MP_STATE", "starting secondary vCPUs", Cap::MpState),
    Capability {
        name: "KVM_CAP_X2APIC_API",
        purpose: "APIC ids of 32 bits",
        required: true,
        number: KVM_CAP_X2APIC_API,
    },
    optional("KVM_CAP_IOEVENTFD", "doorbells of virtio devices", Cap::Ioeventfd),
    optional("KVM_CAP_TSC_DEADLINE_TIMER", "the TSC deadline timer", Cap::TscDeadlineTimer),
    optional("KVM_CAP_VCPU_EVENTS", "saving a vCPU", Cap::VcpuEvents),
    optional("KVM_CAP_ADJUST_CLOCK", "the guest's clock across a pause", Cap::AdjustClock),
    optional("KVM_CAP_READONLY_MEM", "read-only guest memory", Cap::ReadonlyMem),
];

/// The opened KVM device.
#[derive(Debug)]
pub struct System {
    kvm: Kvm,
}

impl System {
    /// Opens the KVM device at `path` and checks that it can run guests.
    ///
    /// # Errors
    ///
    /// [`Error::NoDevice`], [`Error::Permission`] or [`Error::Open`] when it cannot be opened,
    /// [`Error::ApiVersion`] when it is not KVM, [`Error::Capability`] when it lacks a required
    /// capability.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let system = Self::open_unchecked(path)?;
        for capability in CAPABILITIES.iter().filter(|c| c.required) {
            if !system.has(capability) {
                let Capability { name, purpose, .. } = *capability;
                return Err(Error::Capability { name, purpose });
            }
        }
        Ok(system)
    }

    /// Opens the KVM device at `path` without asking for its capabilities.
    pub(crate) fn open_unchecked(path: &Path) -> Result<Self, Error> {
        let named = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())
            .map_err(|e| Error::Open { path: path.into(), source: e.into() })?;
        let kvm = Kvm::new_with_path(&named).map_err(|e| {
            let source = io::Error::from(e);
            match source.kind() {
                io::ErrorKind::NotFound => Error::NoDevice { path: path.into() },
                io::ErrorKind::PermissionDenied => Error::Permission { path: path.into() },
                _ => Error::Open { path: path.into(), source },
            }
        })?;
        let version = kvm.get_api_version();
        if version != API_VERSION {
            return Err(Error::ApiVersion { path: path.into(), version });
        }
        Ok(Self { kvm })
    }

    /// Whether this KVM has `capability`.
    pub fn has(&self, capability: &Capability) -> bool {
        self.kvm.check_extension_raw(capability.number.into()) > 0
    }

    /// Whether the TSC deadline timer of local APICs works.
    pub(crate) fn has_tsc_deadline_timer(&self) -> bool {
        self.kvm.check_extension(Cap::TscDeadlineTimer)
    }

    /// The most vCPUs one guest can have (KVM_CAP_MAX_VCPUS).
    pub fn max_vcpus(&self) -> u32 {
        u32::try_from(self.kvm.get_max_vcpus()).unwrap_or(u32::MAX)
    }

    /// The first APIC id this KVM refuses (KVM_CAP_MAX_VCPU_ID).
    pub fn max_apic_id(&self) -> u32 {
        u32::try_from(self.kvm.get_max_vcpu_id()).unwrap_or(u32::MAX)
    }

    /// How many GSIs can have routes (KVM_CAP_IRQ_ROUTING).
    pub fn max_routes(&self) -> u32 {
        u32::try_from(self.kvm.check_extension_int(Cap::IrqRouting)).unwrap_or(0)
    }

    /// Creates an empty virtual machine (KVM_CREATE_VM).
    pub(crate) fn create_vm(&self) -> Result<VmFd, Error> {
        // EINTR: mmu notifier set-up is interruptible, and a signal may well arrive during start.
        loop {
            match self.kvm.create_vm() {
                Err(e) if e.errno() == libc::EINTR => {}
                other => return other.map_err(failed("KVM_CREATE_VM")),
            }
        }
    }

    /// The CPUID leaves this KVM can offer a guest (KVM_GET_SUPPORTED_CPUID).
    pub(crate) fn supported_cpuid(&self) -> Result<CpuId, Error> {
        self.kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(failed("KVM_GET_SUPPORTED_CPUID"))
    }
}
