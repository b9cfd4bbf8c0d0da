//! The CPUID a guest sees: KVM_GET_SUPPORTED_CPUID, less what a guest must not have, with
//! topology and caches as the guest's own.
//!
//! [`Template`] is made once a machine; [`Template::for_vcpu`] fills in what differs between vCPUs.
//! Leaf numbers and fields: Intel SDM Vol. 2A "CPUID", AMD APM Vol. 3 appendix E, and for
//! `0x4000_0000` and up Documentation/virt/kvm/x86/cpuid.rst.

mod caches;
mod features;
mod leaves;
mod topology;

use kvm_bindings::CpuId;

use self::leaves::Leaves;
use super::{Error, System};
use crate::machine::topology::Topology;

/// CPUID leaves common to all vCPUs of a machine.
#[derive(Debug, Clone)]
pub struct Template {
    leaves: Leaves,
    topology: Topology,
}

impl Template {
    /// What `system` supports, masked and normalized for a guest of this topology.
    ///
    /// # Errors
    ///
    /// [`Error::Operation`] when KVM does not tell what it supports.
    pub fn new(system: &System, topology: Topology) -> Result<Self, Error> {
        let supported = system.supported_cpuid()?;
        let leaves = Leaves::new(supported.as_slice());
        Ok(Self::from_leaves(leaves, topology, system.has_tsc_deadline_timer()))
    }

    fn from_leaves(mut leaves: Leaves, topology: Topology, tsc_deadline: bool) -> Self {
        features::mask(&mut leaves, tsc_deadline);
        caches::normalize(&mut leaves, &topology);
        topology::normalize(&mut leaves, &topology);
        Self { leaves, topology }
    }

    /// Bits of the guest's physical addresses (leaf 0x8000_0008, EAX): bits 23:16 where KVM says that it maps
    /// fewer than the processor has, else bits 7:0.
    pub fn physical_bits(&self) -> u8 {
        /// What every 64-bit processor has.
        const LEAST: u8 = 36;
        let leaf = self.leaves.get(0x8000_0008, 0);
        let [processor, _, guest, _] = leaf.map_or(0, |leaf| leaf.eax).to_le_bytes();
        if guest != 0 { guest.min(processor) } else { processor }.max(LEAST)
    }

    /// The leaves of the vCPU with this APIC id.
    ///
    /// # Errors
    ///
    /// [`Error::Operation`] when there are more leaves than KVM takes.
    pub fn for_vcpu(&self, apic_id: u32) -> Result<CpuId, Error> {
        let mut leaves = self.leaves.clone();
        topology::personalize(&mut leaves, &self.topology, apic_id);
        leaves.into_kvm()
    }
}

#[cfg(test)]
#[path = "cpuid/cpuid_test.rs"]
mod cpuid_test;
