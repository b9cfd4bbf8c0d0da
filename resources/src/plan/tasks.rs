//! [`tasks`]: the bound of processes and threads of a VM.

use crate::config::{Connection, VmConfig};

/// Threads that every VMM has, the clerk beside it, and what the kernel runs for any VM.
const BASE: u64 = 64;
/// Threads of a port of the virtio console.
const CONSOLE: u64 = 2;
/// Thread of a pair of queues, and vhost's.
const NET_QUEUE: u64 = 2;
/// Threads and processes of a network device that is `user`.
const PASST: u64 = 8;

/// The most processes and threads that a VM ever has: 64, one for each vCPU, for each queue of a disk one and as many as
/// it has entries, which the kernel may begin to serve them (io_uring's workers), 2 for each pair of queues of a network
/// device, 8 more for one that is `user`, and 2 for each port of the console. No guest makes its VMM begin more; who takes over
/// a VMM, or passt, must not fill the host with processes.
#[must_use]
pub fn tasks(vm: &VmConfig) -> u64 {
    let disks = vm.disk.values();
    let disks = disks.map(|disk| u64::from(disk.queues) * (1 + u64::from(disk.queue_size)));
    let nets = vm.net.values().map(|net| {
        let passt = matches!(net.connection, Connection::User { .. });
        u64::from(net.queues) * NET_QUEUE + if passt { PASST } else { 0 }
    });
    let devices = disks.sum::<u64>() + nets.sum::<u64>() + vm.console.len() as u64 * CONSOLE;
    BASE + u64::from(vm.vcpus) + devices
}

#[cfg(test)]
mod tasks_test {
    use super::*;
    use crate::config::VmSpec;

    #[test]
    fn the_bound_is_as_published() {
        let of = |text: &str| {
            let spec: VmSpec = toml::from_str(text).unwrap();
            tasks(&spec.resolve().unwrap())
        };
        assert_eq!(of("kernel = \"k\"\nmemory = \"256MiB\"\nvcpus = 4"), 64 + 4);
        let devices = "kernel = \"k\"\nmemory = \"256MiB\"\ndisk.a = { path = \"x\", queues = 2, queue_size = 128 }\n\
                       net.a = { user = true }\nnet.b = { tap = \"t\", queues = 2 }\nconsole.a = \"pty\"";
        assert_eq!(of(devices), 64 + 1 + 2 * 129 + 10 + 4 + 2);
    }
}
