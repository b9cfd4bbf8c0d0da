//! Topology leaves: sockets, cores, threads and APIC ids.

use super::leaves::Leaves;
use crate::machine::topology::Topology;

/// Extended topology enumeration, one subleaf a level.
const EXTENDED: u32 = 0xb;
/// Its successor with modules, tiles and dies, and AMD's own: a guest has none of these.
const EXTENDED_V2: u32 = 0x1f;
const EXTENDED_AMD: u32 = 0x8000_0026;
/// Level types of leaf 0xB, in ECX bits 15:8.
const LEVEL_THREAD: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;

/// Leaf 1 EDX: several threads in a package. Leaf `0x8000_0001` ECX: the legacy count is of cores.
const HTT: u32 = 1 << 28;
const CMP_LEGACY: u32 = 1 << 1;
/// Leaf `0x8000_0001` ECX: topology extensions, with them leaf `0x8000_001e`, by which AMD's guests learn of
/// the threads of a core. CPUs without them have no threads to tell of; a guest may have.
const TOPOLOGY_EXTENSIONS: u32 = 1 << 22;
const THREADS_AMD: u32 = 0x8000_001e;

/// Sets what all vCPUs share.
pub(super) fn normalize(leaves: &mut Leaves, topology: &Topology) {
    let amd = leaves.is_amd();
    let threads = topology.threads_per_socket();
    let several = threads > 1;

    leaves.remove(EXTENDED);
    leaves.remove(EXTENDED_V2);
    leaves.remove(EXTENDED_AMD);
    leaves.raise_limit(EXTENDED);

    if let Some(leaf) = leaves.get_mut(1, 0) {
        let ids = 1u32.checked_shl(topology.socket_shift()).unwrap_or(u32::MAX).min(255);
        leaf.ebx = (leaf.ebx & 0x0000_ffff) | ids << 16;
        leaf.edx = (leaf.edx & !HTT) | if several { HTT } else { 0 };
    }
    if let Some(leaf) = leaves.get_mut(0x8000_0001, 0)
        && amd
    {
        leaf.ecx = (leaf.ecx & !CMP_LEGACY) | if several { CMP_LEGACY } else { 0 };
        let lacking = leaf.ecx & TOPOLOGY_EXTENSIONS == 0;
        if lacking && topology.threads() > 1 {
            leaf.ecx |= TOPOLOGY_EXTENSIONS;
            leaves.set(THREADS_AMD, 0, [0; 4]);
            leaves.raise_limit(THREADS_AMD);
        }
    }
    if let Some(leaf) = leaves.get_mut(0x8000_0008, 0)
        && amd
    {
        leaf.ecx = topology.socket_shift().min(15) << 12 | (threads - 1).min(255);
    }
}

/// Sets what differs between vCPUs: everything that holds the APIC id.
pub(super) fn personalize(leaves: &mut Leaves, topology: &Topology, apic_id: u32) {
    if let Some(leaf) = leaves.get_mut(1, 0) {
        leaf.ebx = (leaf.ebx & 0x00ff_ffff) | (apic_id & 0xff) << 24;
    }
    let thread = [topology.thread_bits(), topology.threads(), LEVEL_THREAD, apic_id];
    let threads = topology.threads_per_socket();
    let core = [topology.socket_shift(), threads, LEVEL_CORE | 1, apic_id];
    leaves.set(EXTENDED, 0, thread);
    leaves.set(EXTENDED, 1, core);
    leaves.set(EXTENDED, 2, [0, 0, 2, apic_id]);

    if let Some(leaf) = leaves.get_mut(THREADS_AMD, 0) {
        leaf.eax = apic_id;
        leaf.ebx = (topology.threads() - 1).min(255) << 8 | (topology.core_of(apic_id) & 0xff);
        // One node a socket.
        leaf.ecx = topology.socket_of(apic_id) & 0xff;
    }
}
