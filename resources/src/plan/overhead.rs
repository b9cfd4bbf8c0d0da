//! [`overhead`]: the published bound of what a VMM needs beside its guest's memory.

use crate::Size;
use crate::config::{Connection, VmConfig};

/// Program, heap, stacks and what the kernel keeps for any VM.
const BASE: u64 = 16 << 20;
/// Thread, registers, run area and local APIC of a vCPU.
const VCPU: u64 = 1 << 20;
/// Queues, ring and caches of image metadata of a disk.
const DISK: u64 = 4 << 20;
/// Buffers of a network device, for each pair of queues.
const NET_QUEUE: u64 = 1 << 20;
/// The passt process of a network device that is `user`.
const PASST: u64 = 64 << 20;
/// Page tables: an entry of 8 bytes for each page of 4 KiB, once in KVM's and once in the
/// process's.
const PAGE_TABLES: u64 = 256;
const PAGE: u64 = 4096;

/// The most memory that the VMM of `vm`, its helper processes and the kernel on its behalf use beside
/// the guest's memory: 16 MiB, 1 MiB for each vCPU, 4 MiB for each disk, 1 MiB for each pair of queues
/// of a network device, 64 MiB for each network device that is `user`, and a 256th of the guest's
/// memory for page tables. It is charged at admission and added to `memory.max`.
#[must_use]
pub fn overhead(vm: &VmConfig) -> Size {
    let nets = vm.net.values().map(|net| {
        let passt = matches!(net.connection, Connection::User { .. });
        u64::from(net.queues) * NET_QUEUE + if passt { PASST } else { 0 }
    });
    let tables = (vm.memory.size.bytes() / PAGE_TABLES).next_multiple_of(PAGE);
    // At most 4096 vCPUs and some hundred devices: far from overflow.
    let devices = vm.disk.len() as u64 * DISK + nets.sum::<u64>();
    Size::from_bytes(BASE + u64::from(vm.vcpus) * VCPU + devices + tables)
}

#[cfg(test)]
mod overhead_test {
    use super::*;
    use crate::config::VmSpec;

    #[test]
    fn the_bound_is_as_published() {
        let of = |text: &str| {
            let spec: VmSpec = toml::from_str(text).unwrap();
            overhead(&spec.resolve().unwrap())
        };
        let mib = |count| Size::from_mib(count);
        assert_eq!(of("kernel = \"k\"\nmemory = \"256MiB\""), mib(16 + 1 + 1));
        assert_eq!(of("kernel = \"k\"\nmemory = \"16GiB\"\nvcpus = 4"), mib(16 + 4 + 64));
        let devices = "kernel = \"k\"\nmemory = \"256MiB\"\ndisk.a = \"x\"\nnet.a = { user = true }\n\
                       net.b = { tap = \"t\", queues = 2 }";
        assert_eq!(of(devices), mib(16 + 1 + 4 + 1 + 64 + 2 + 1));
    }
}
