//! Cache leaves: each cache is shared by the guest's own threads, not by the host's.
//!
//! Levels 1 and 2 belong to a core; level 3 to a socket.

use super::leaves::Leaves;
use crate::machine::topology::Topology;

/// Intel's deterministic cache parameters, and AMD's leaf of the same layout.
const INTEL: u32 = 0x4;
const AMD: u32 = 0x8000_001d;
/// EAX bits 25:14, threads that share the cache less one, and 31:26, cores in the package less one.
const SHARING_SHIFT: u32 = 14;
const SHARING_MAX: u32 = 0xfff;
const CORES_SHIFT: u32 = 26;
const CORES_MAX: u32 = 0x3f;

pub(super) fn normalize(leaves: &mut Leaves, topology: &Topology) {
    for function in [INTEL, AMD] {
        for leaf in leaves.subleaves_mut(function).filter(|leaf| leaf.eax & 0x1f != 0) {
            let level = leaf.eax >> 5 & 0x7;
            // Software rounds both counts up to powers of two to find the id bits they stand for.
            let sharing = if level < 3 {
                (1 << topology.thread_bits()) - 1
            } else {
                (1 << topology.socket_shift()) - 1
            };
            leaf.eax &= !(SHARING_MAX << SHARING_SHIFT);
            leaf.eax |= SHARING_MAX.min(sharing) << SHARING_SHIFT;
            if function == INTEL {
                let cores = (1 << (topology.socket_shift() - topology.thread_bits())) - 1;
                leaf.eax &= !(CORES_MAX << CORES_SHIFT);
                leaf.eax |= CORES_MAX.min(cores) << CORES_SHIFT;
            }
        }
    }
}
