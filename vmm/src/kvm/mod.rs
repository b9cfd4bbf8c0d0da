//! The only place with KVM types: the system descriptor, one virtual machine, its vCPUs, CPUID and
//! MSRs, and the one owner of the GSI routing table.
//!
//! Nothing here knows what a guest is booted from or which devices it has; [`crate::machine`] does.

pub mod cpuid;
pub mod crash;
pub mod doorbell;
pub mod gate;
pub mod ioapic;
pub mod kick;
pub mod line;
pub mod msix;
pub mod msr;
mod pace;
pub mod registers;
pub mod routing;
pub mod stops;
pub mod system;
pub mod tally;
pub mod vcpu;
pub mod vm;

use std::path::PathBuf;

pub use system::System;
pub use vm::Vm;

/// What KVM refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The KVM device does not exist.
    #[error(
        "{path} does not exist: this host has no KVM; load it with `modprobe kvm-intel` or \
         `modprobe kvm-amd`, enable virtualization in the firmware, or name another device with \
         --kvm-device"
    )]
    NoDevice {
        /// The device's path.
        path: PathBuf,
    },
    /// The KVM device may not be opened by this user.
    #[error(
        "no permission to open {path}: add this user to the group that owns it \
         (usually `usermod -aG kvm USER`, then log in again) or run as root"
    )]
    Permission {
        /// The device's path.
        path: PathBuf,
    },
    /// The KVM device exists but cannot be opened.
    #[error("cannot open {path}: {source}; is it a KVM device, and is its module loaded?")]
    Open {
        /// The device's path.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The file opened is not KVM, or one of an interface this program does not speak.
    #[error("{path} answers with KVM API version {version}, not 12: it is not a usable KVM device")]
    ApiVersion {
        /// The device's path.
        path: PathBuf,
        /// The version it gave; negative where it knows no such call.
        version: i32,
    },
    /// A capability without which no guest can run is missing.
    #[error("this host's KVM lacks {name} ({purpose}); a Linux kernel of 5.10 or later has it")]
    Capability {
        /// The capability's name in the kernel documentation.
        name: &'static str,
        /// What it is needed for.
        purpose: &'static str,
    },
    /// More vCPUs than KVM allows.
    #[error(
        "{asked} vCPUs asked for, but this host's KVM allows at most {limit}; use --cpus {limit} or less"
    )]
    TooManyVcpus {
        /// vCPUs asked for.
        asked: u32,
        /// The most KVM takes (KVM_CAP_MAX_VCPUS).
        limit: u32,
    },
    /// An APIC id of the chosen topology is beyond what KVM can address.
    #[error(
        "the topology gives vCPU {vcpu} the APIC id {apic_id}, but this host's KVM takes ids below \
         {limit}; choose cores and threads that are powers of two, or fewer sockets"
    )]
    ApicId {
        /// Index of the vCPU.
        vcpu: u32,
        /// Its APIC id.
        apic_id: u32,
        /// First id KVM refuses (KVM_CAP_MAX_VCPU_ID).
        limit: u32,
    },
    /// An ioctl failed.
    #[error("{operation} failed: {source}")]
    Operation {
        /// The ioctl, by its name in the kernel documentation.
        operation: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// Turns an ioctl's error into [`Error::Operation`].
pub(crate) fn failed(operation: &'static str) -> impl Fn(vmm_sys_util::errno::Error) -> Error {
    move |e| Error::Operation { operation, source: e.into() }
}
