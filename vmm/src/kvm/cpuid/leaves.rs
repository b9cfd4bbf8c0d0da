//! A table of CPUID leaves that can be looked up, changed, added to and cut.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use crate::kvm::Error;

/// `AuthenticAMD` and `HygonGenuine` as leaf 0 gives them in EBX.
const VENDORS_AMD: [u32; 2] = [u32::from_le_bytes(*b"Auth"), u32::from_le_bytes(*b"Hygo")];

/// CPUID entries, in KVM's order.
#[derive(Debug, Clone)]
pub(super) struct Leaves(Vec<kvm_cpuid_entry2>);

impl Leaves {
    pub(super) fn new(entries: &[kvm_cpuid_entry2]) -> Self {
        Self(entries.to_vec())
    }

    /// Whether the CPU speaks AMD's dialect of topology and cache leaves.
    pub(super) fn is_amd(&self) -> bool {
        self.get(0, 0).is_some_and(|leaf| VENDORS_AMD.contains(&leaf.ebx))
    }

    /// Subleaf `index` of leaf `function`.
    pub(super) fn get(&self, function: u32, index: u32) -> Option<&kvm_cpuid_entry2> {
        self.0.iter().find(|e| e.function == function && e.index == index)
    }

    /// Subleaf `index` of leaf `function`, to change.
    pub(super) fn get_mut(&mut self, function: u32, index: u32) -> Option<&mut kvm_cpuid_entry2> {
        self.0.iter_mut().find(|e| e.function == function && e.index == index)
    }

    /// Every subleaf of leaf `function`, to change.
    pub(super) fn subleaves_mut(
        &mut self,
        function: u32,
    ) -> impl Iterator<Item = &mut kvm_cpuid_entry2> {
        self.0.iter_mut().filter(move |e| e.function == function)
    }

    /// Cuts all subleaves of leaf `function`; the guest reads zeros there.
    pub(super) fn remove(&mut self, function: u32) {
        self.0.retain(|e| e.function != function);
    }

    /// Sets subleaf `index` of a leaf that has subleaves, adding it where it is missing.
    pub(super) fn set(&mut self, function: u32, index: u32, [eax, ebx, ecx, edx]: [u32; 4]) {
        let entry = kvm_cpuid_entry2 {
            function,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        };
        match self.get_mut(function, index) {
            Some(old) => *old = entry,
            None => self.0.push(entry),
        }
    }

    /// Makes leaves up to `function` of its range count as present.
    pub(super) fn raise_limit(&mut self, function: u32) {
        if let Some(limit) = self.get_mut(function & 0xffff_0000, 0) {
            limit.eax = limit.eax.max(function);
        }
    }

    pub(super) fn into_kvm(self) -> Result<CpuId, Error> {
        CpuId::from_entries(&self.0).map_err(|e| Error::Operation {
            operation: "KVM_SET_CPUID2",
            source: std::io::Error::other(format!("{} leaves: {e:?}", self.0.len())),
        })
    }
}
