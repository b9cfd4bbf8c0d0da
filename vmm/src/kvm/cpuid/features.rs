//! Feature bits: what a guest must not see although KVM offers it, and what it may see although
//! KVM leaves the say to the VMM.

use super::leaves::Leaves;

/// Leaf 1 ECX.
const MONITOR: u32 = 1 << 3;
const VMX: u32 = 1 << 5;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 7.0 EBX: SGX and processor trace act on the host beyond the guest's share.
const SGX: u32 = 1 << 2;
const PROCESSOR_TRACE: u32 = 1 << 25;
/// Leaf 6 EAX: the APIC timer runs in deep idle states.
const ARAT: u32 = 1 << 2;
/// Leaf `0x8000_0001` ECX.
const SVM: u32 = 1 << 2;

/// KVM's paravirtual features a guest may use (`KVM_FEATURE_*`, leaf `0x4000_0001` EAX): clock
/// source (0, 3, 24), no I/O delay (1), asynchronous page faults by interrupt (4, 10, 14), steal time
/// (5), EOI (6), unhalt (7), TLB flush (9), IPIs (11), halt polling (12), yield (13). Not: the MMU
/// hypercalls (2) that KVM dropped, page encryption and migration control (16, 17).
const PARAVIRTUAL: u32 = 1
    | 1 << 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 7
    | 1 << 9
    | 1 << 10
    | 1 << 11
    | 1 << 12
    | 1 << 13
    | 1 << 14
    | 1 << 24;
/// KVM_FEATURE_MSI_EXT_DEST_ID: this VMM's I/O APIC and MSI routes carry 15-bit destinations.
const MSI_EXT_DEST_ID: u32 = 1 << 15;

/// Masks the features of `leaves`. `tsc_deadline` says whether KVM has that timer: its CPUID
/// bit depends on where the local APICs are, so KVM leaves it to the VMM.
pub(super) fn mask(leaves: &mut Leaves, tsc_deadline: bool) {
    if let Some(leaf) = leaves.get_mut(1, 0) {
        // Nested virtualization widens what a hostile guest can reach in KVM.
        leaf.ecx &= !(MONITOR | VMX | TSC_DEADLINE);
        leaf.ecx |= HYPERVISOR | if tsc_deadline { TSC_DEADLINE } else { 0 };
    }
    if let Some(leaf) = leaves.get_mut(7, 0) {
        leaf.ebx &= !(SGX | PROCESSOR_TRACE);
    }
    if let Some(leaf) = leaves.get_mut(6, 0) {
        (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (leaf.eax & ARAT, 0, 0, 0);
    }
    if let Some(leaf) = leaves.get_mut(0x8000_0001, 0) {
        leaf.ecx &= !SVM;
    }
    if let Some(leaf) = leaves.get_mut(0x4000_0001, 0) {
        leaf.eax = (leaf.eax & PARAVIRTUAL) | MSI_EXT_DEST_ID;
    }
    // MONITOR, performance counters, SGX, processor trace, SVM.
    for function in [0x5, 0xa, 0x12, 0x14, 0x8000_000a] {
        leaves.remove(function);
    }
}
