//! [`HOST_KEYS`] and [`SHARE_KEYS`]: what the keys of a host file take, beside those of a VM.

use super::super::Key;

/// Shorthand: none of these keys has a flag.
const fn key(
    path: &'static str,
    takes: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Key {
    Key { path, flag: "", takes, default, meaning }
}

/// Every key of a host file that is not one of a VM, in the order of the user guide.
pub const HOST_KEYS: &[Key] = &[
    key("version", "1", "1", "Version of this format"),
    key("host", "table with the keys below", "", "What the host keeps and how far it promises"),
    key(
        "host.reserve.cpus",
        "list of CPUs such as \"0-1,8\"",
        "",
        "CPUs kept for the host itself; no VM runs there",
    ),
    key("host.reserve.memory", "size such as 8GiB", "0", "Memory kept for the host itself"),
    key(
        "host.overcommit.cpu",
        "number from 1, at most three decimals",
        "1",
        "vCPUs of shared VMs to each shared CPU; dedicated CPUs are never overcommitted",
    ),
    key(
        "host.overcommit.memory",
        "number from 1, at most three decimals",
        "1",
        "Sizes of guests together, by memory that is not reserved",
    ),
    key(
        "host.overcommit.storage",
        "number from 1, at most three decimals",
        "1",
        "Sizes of disks together, by the size of their pool",
    ),
    key(
        "host.smt",
        "per-tenant or shared",
        "per-tenant",
        "Whether the siblings of a core may serve two tenants; VMs without a tenant count as one",
    ),
    key(
        "pool.*",
        "table with the keys below",
        "",
        "A folder for disks, under a name of your choice",
    ),
    key("pool.*.path", "path of a folder", "", "Where its disks are"),
    key(
        "pool.*.size",
        "size such as 500GiB",
        "size of the file system",
        "What it may hold, before overcommit",
    ),
    key("pool.*.iops", "whole number from 1", "", "Requests a second it can serve, to be promised"),
    key(
        "pool.*.bandwidth",
        "rate such as 3GB/s",
        "",
        "Bytes a second it can serve, to be promised",
    ),
    key(
        "pool.*.on_full",
        "pause or error",
        "pause",
        "What a guest meets when the file system is full: it is paused until there is room, or its write fails",
    ),
    key(
        "tenant.*",
        "table with the keys below",
        "",
        "A reservation that VMs of one owner share, under a name of your choice",
    ),
    key("tenant.*.user", "name of a user of the host", "", "Who may book in it, beside root"),
    key(
        "tenant.*.cpus",
        "number of host CPUs, at most three decimals",
        "0",
        "CPUs reserved for it",
    ),
    key(
        "tenant.*.memory",
        "size such as 64GiB",
        "0",
        "Memory reserved for it, overhead of its VMs included",
    ),
    key(
        "tenant.*.storage.*",
        "size such as 400GiB",
        "0",
        "Storage reserved for it in the pool of this name",
    ),
    key(
        "tenant.*.bandwidth",
        "rate such as 2Gbit/s",
        "",
        "Most that network devices of its VMs may be given together, in each direction",
    ),
];

/// Every key of `[vm.NAME]` and `[defaults]` that says what the VM gets of the host and how it lives.
/// The keys of [`KEYS`](super::super::KEYS) but `name` stand beside them.
pub const SHARE_KEYS: &[Key] = &[
    key("tenant", "name of a tenant", "", "Whose reservation it takes from; the host's if none"),
    key("count", "whole number from 1 to 10000", "", "That many VMs, NAME-1 to NAME-N"),
    key(
        "cpu",
        "\"dedicated\", or a table with min and max, or with pins",
        "shared, min = vcpus / host.overcommit.cpu, max = vcpus",
        "Its host CPUs: CPUs of its own, one for each vCPU, or a share of those that VMs have together",
    ),
    key(
        "cpu.min",
        "number of host CPUs, at most three decimals",
        "vcpus / host.overcommit.cpu",
        "CPU time it gets at any rate",
    ),
    key(
        "cpu.max",
        "number of host CPUs from 0.01, at most three decimals",
        "vcpus",
        "CPU time it never gets more of",
    ),
    key(
        "cpu.pins",
        "list of CPUs such as \"4-7\"",
        "",
        "Dedicated, and these ones: the first vCPU on the first, whole cores under smt = \"per-tenant\"",
    ),
    key(
        "workers",
        "whole number from 0 to 256",
        "0",
        "With dedicated CPUs: more CPUs for the VM's other threads, which else run beside its vCPUs",
    ),
    key(
        "numa",
        "number of a NUMA node",
        "one node where it fits",
        "With dedicated CPUs: the node they are on",
    ),
    key(
        "restart",
        "no, on-failure, on-failure:N, unless-stopped or always",
        "no",
        "Whether it is started again after its end",
    ),
    key(
        "ready",
        "table with the keys below",
        "",
        "How the guest says that it is ready, for VMs that come after it",
    ),
    key(
        "ready.vsock",
        "port from 1 to 4294967295",
        "",
        "It listens at this port of its vsock device",
    ),
    key("ready.timeout", "time such as 60s, 500ms or 2m", "60s", "How long that is waited for"),
    key(
        "after",
        "list of names of VMs",
        "",
        "Started when these run, or are ready if they say how",
    ),
    key("state", "running or stopped", "running", "Whether it runs; its share is held either way"),
    key("labels.*", "text", "", "A label of the VM, under a name of your choice"),
    key(
        "enforce",
        "strict or best-effort",
        "strict",
        "Whether it is refused where the host cannot enforce one of its limits",
    ),
];

#[cfg(test)]
#[path = "keys_test.rs"]
mod keys_test;
