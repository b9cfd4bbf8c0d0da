//! [`KEYS`]: what each key of a VM takes, for help texts, the user guide and errors.

use super::catalogue::Catalogue;

/// One key of a VM's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Where it stands, tables and key joined by dots, as in `memory.size`. A part `*` stands for a
    /// name the user chooses, as in `disk.*.path`.
    pub path: &'static str,
    /// The flag of `carve run` that sets it, with its value.
    pub flag: &'static str,
    /// Type, unit and range of its value.
    pub takes: &'static str,
    /// What holds where it is not given; empty for nothing.
    pub default: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

impl Key {
    /// Whether the key means something in a host file only.
    #[must_use]
    pub fn is_of_host_file(&self) -> bool {
        matches!(
            self.path,
            "memory.min" | "disk.*.pool" | "disk.*.size" | "disk.*.image" | "disk.*.preallocate"
        )
    }
}

/// Every key of a VM's configuration, in the order of the user guide.
pub const KEYS: &[Key] = &[
    Key {
        path: "name",
        flag: "--name",
        takes: "1 to 63 of a-z, 0-9 and -",
        default: "",
        meaning: "Name of the VM",
    },
    Key {
        path: "kernel",
        flag: "--kernel",
        takes: "path of a bzImage or an ELF vmlinux",
        default: "",
        meaning: "Kernel to boot",
    },
    Key {
        path: "initrd",
        flag: "--initrd",
        takes: "path",
        default: "",
        meaning: "Initial RAM disk handed to the kernel",
    },
    Key {
        path: "cmdline",
        flag: "--cmdline",
        takes: "text",
        default: "",
        meaning: "Kernel command line, appended to Carve's defaults",
    },
    Key {
        path: "vcpus",
        flag: "--cpus",
        takes: "whole number from 1 to 4096, or what the host's KVM allows",
        default: "1, or what topology holds",
        meaning: "CPUs the guest sees",
    },
    Key {
        path: "topology",
        flag: "--topology",
        takes: "sockets, cores per socket and threads per core, each 1 if left out",
        default: "one socket, vcpus cores, one thread",
        meaning: "Arrangement of the vCPUs; its product is vcpus",
    },
    Key {
        path: "topology.sockets",
        flag: "",
        takes: "whole number from 1",
        default: "1",
        meaning: "Processor packages",
    },
    Key {
        path: "topology.cores",
        flag: "",
        takes: "whole number from 1",
        default: "1",
        meaning: "Cores in each package",
    },
    Key {
        path: "topology.threads",
        flag: "",
        takes: "whole number from 1",
        default: "1",
        meaning: "Hardware threads in each core",
    },
    Key {
        path: "memory",
        flag: "",
        takes: "size, or a table with the key size",
        default: "512MiB",
        meaning: "Short for memory.size",
    },
    Key {
        path: "memory.size",
        flag: "--memory",
        takes: "size such as 512MiB or 2g, from 2MiB to the host's memory, a multiple of 4KiB",
        default: "512MiB",
        meaning: "Memory of the guest",
    },
    Key {
        path: "memory.min",
        flag: "",
        takes: "size, at most memory.size",
        default: "memory.size",
        meaning: "Memory the host guarantees; the rest may be taken back, which needs a balloon or swap. In a host file only",
    },
    Key {
        path: "memory.backing",
        flag: "--memory-backing",
        takes: "anonymous or memfd",
        default: "anonymous",
        meaning: "What holds guest memory on the host: private memory, or a memfd other processes can be given",
    },
    Key {
        path: "memory.transparent_hugepages",
        flag: "--no-thp",
        takes: "true or false",
        default: "true",
        meaning: "Ask the host for transparent huge pages",
    },
    Key {
        path: "memory.prefault",
        flag: "--prefault",
        takes: "true or false",
        default: "false",
        meaning: "Populate all guest memory before the guest starts",
    },
    Key {
        path: "hugepages",
        flag: "--hugepages",
        takes: "2MiB or 1GiB; memory.size is a multiple of it",
        default: "",
        meaning: "Make guest memory of reserved huge pages of this size",
    },
    Key {
        path: "boot.protocol",
        flag: "--boot-protocol",
        takes: "auto, linux64 or pvh",
        default: "auto",
        meaning: "How the kernel is entered",
    },
    Key {
        path: "boot.extract",
        flag: "--no-extract",
        takes: "true or false",
        default: "true",
        meaning: "Take the kernel out of a compressed image on the host, instead of in the guest at every boot",
    },
    Key {
        path: "devices.debug_exit",
        flag: "--debug-exit",
        takes: "true or false",
        default: "false",
        meaning: "Port 0x501, by which the guest ends the VM and chooses the exit code",
    },
    Key {
        path: "devices.rng",
        flag: "--no-rng",
        takes: "true or false",
        default: "true",
        meaning: "Entropy device, which gives the guest random bytes of the host",
    },
    Key {
        path: "devices.transport",
        flag: "--transport",
        takes: "pci or mmio",
        default: "pci",
        meaning: "How the guest reaches its virtio devices",
    },
    Key {
        path: "disk.*",
        flag: "--disk",
        takes: "path of a file or block device, or a table with the keys below",
        default: "",
        meaning: "A disk under a name of your choice, in the order of the file: the first is /dev/vda",
    },
    Key {
        path: "disk.*.path",
        flag: "",
        takes: "path of a file or block device",
        default: "",
        meaning: "Where the disk's contents are",
    },
    Key {
        path: "disk.*.pool",
        flag: "",
        takes: "name of a pool",
        default: "",
        meaning: "Make the disk in this pool, instead of path. In a host file only",
    },
    Key {
        path: "disk.*.size",
        flag: "",
        takes: "size such as 20GiB, a multiple of 4KiB",
        default: "",
        meaning: "Size of the disk; with pool only",
    },
    Key {
        path: "disk.*.image",
        flag: "",
        takes: "path of a raw or qcow2 image",
        default: "",
        meaning: "What the disk begins as; with pool only",
    },
    Key {
        path: "disk.*.preallocate",
        flag: "",
        takes: "true or false",
        default: "false",
        meaning: "Take all its space in the pool at once; with pool only",
    },
    Key {
        path: "disk.*.readonly",
        flag: "",
        takes: "true or false",
        default: "false",
        meaning: "The guest cannot write; several VMs can share the file",
    },
    Key {
        path: "disk.*.format",
        flag: "",
        takes: "auto, raw or qcow2",
        default: "auto",
        meaning: "How the disk lies in its file; auto takes a qcow2 image only if it names no other file",
    },
    Key {
        path: "disk.*.queues",
        flag: "",
        takes: "whole number from 1 to 16",
        default: "1",
        meaning: "Queues, each served by a thread of its own",
    },
    Key {
        path: "disk.*.queue_size",
        flag: "",
        takes: "power of two from 16 to 1024",
        default: "256",
        meaning: "Requests that fit into a queue",
    },
    Key {
        path: "disk.*.overlay",
        flag: "",
        takes: "false, \"discard\" or path of a qcow2 image",
        default: "false",
        meaning: "Where writes go instead of to the file: away with the VM, or to an image that is made if there is none",
    },
    Key {
        path: "disk.*.direct",
        flag: "",
        takes: "true or false",
        default: "false",
        meaning: "Go around the host's page cache (O_DIRECT)",
    },
    Key {
        path: "disk.*.serial",
        flag: "",
        takes: "1 to 20 printable ASCII characters",
        default: "",
        meaning: "Serial number the guest sees, as in /dev/disk/by-id/virtio-SERIAL",
    },
    Key {
        path: "disk.*.block_size",
        flag: "",
        takes: "512 or 4096",
        default: "512",
        meaning: "Size of a logical block in bytes",
    },
    Key {
        path: "disk.*.iops",
        flag: "",
        takes: "whole number from 1",
        default: "",
        meaning: "Most requests a second",
    },
    Key {
        path: "disk.*.iops_burst",
        flag: "",
        takes: "whole number from 1",
        default: "a tenth of a second's worth",
        meaning: "Requests let through at once after a rest",
    },
    Key {
        path: "disk.*.bandwidth",
        flag: "",
        takes: "rate such as 100MB/s or 1Gbit/s",
        default: "",
        meaning: "Most bytes a second",
    },
    Key {
        path: "disk.*.bandwidth_burst",
        flag: "",
        takes: "size such as 16MiB",
        default: "a tenth of a second's worth",
        meaning: "Bytes let through at once after a rest",
    },
    Key {
        path: "net.*",
        flag: "--net",
        takes: "table with the keys below",
        default: "",
        meaning: "A network device under a name of your choice, in the order of the file",
    },
    Key {
        path: "net.*.tap",
        flag: "",
        takes: "name of 1 to 15 bytes",
        default: "",
        meaning: "Connect it to this tap interface, made if there is none",
    },
    Key {
        path: "net.*.tap_fd",
        flag: "",
        takes: "number from 3",
        default: "",
        meaning: "Connect it to a tap that is open as this file descriptor",
    },
    Key {
        path: "net.*.bridge",
        flag: "",
        takes: "name of 1 to 15 bytes",
        default: "",
        meaning: "Connect it to this bridge, through a tap of its own",
    },
    Key {
        path: "net.*.user",
        flag: "",
        takes: "true or false",
        default: "false",
        meaning: "Connect it to the host's network without any privilege, through passt",
    },
    Key {
        path: "net.*.forward",
        flag: "",
        takes: "list such as [\"8080:80\", \"udp:127.0.0.1:5353:53\"]",
        default: "",
        meaning: "Ports of the host that lead to ports of the guest; with user only",
    },
    Key {
        path: "net.*.host",
        flag: "",
        takes: "true or false",
        default: "false",
        meaning: "The guest reaches services of the host at its gateway's address, also those on the host's loopback; with user only",
    },
    Key {
        path: "net.*.mac",
        flag: "",
        takes: "address such as 02:ca:4e:12:34:56",
        default: "derived from the VM's name, else random",
        meaning: "Its hardware address",
    },
    Key {
        path: "net.*.mtu",
        flag: "",
        takes: "whole number from 68 to 65535",
        default: "what the interface of the host has",
        meaning: "Largest packet in bytes, without the Ethernet header",
    },
    Key {
        path: "net.*.queues",
        flag: "",
        takes: "whole number from 1 to 16",
        default: "1",
        meaning: "Pairs of queues; with tap and bridge only",
    },
    Key {
        path: "net.*.queue_size",
        flag: "",
        takes: "power of two from 16 to 1024",
        default: "256",
        meaning: "Packets that fit into a queue",
    },
    Key {
        path: "net.*.vhost",
        flag: "",
        takes: "true or false",
        default: "false",
        meaning: "Have the host's kernel (vhost-net) move the packets; with tap, tap_fd and bridge, without limits",
    },
    Key {
        path: "net.*.bandwidth",
        flag: "",
        takes: "rate such as 100MB/s or 1Gbit/s",
        default: "",
        meaning: "Most bytes a second in each direction, where rx_bandwidth and tx_bandwidth do not say otherwise",
    },
    Key {
        path: "net.*.rx_bandwidth",
        flag: "",
        takes: "rate such as 100MB/s or 1Gbit/s",
        default: "",
        meaning: "Most bytes a second that the guest receives",
    },
    Key {
        path: "net.*.rx_packets",
        flag: "",
        takes: "whole number from 1",
        default: "",
        meaning: "Most packets a second that the guest receives",
    },
    Key {
        path: "net.*.tx_bandwidth",
        flag: "",
        takes: "rate such as 100MB/s or 1Gbit/s",
        default: "",
        meaning: "Most bytes a second that the guest sends",
    },
    Key {
        path: "net.*.tx_packets",
        flag: "",
        takes: "whole number from 1",
        default: "",
        meaning: "Most packets a second that the guest sends",
    },
    Key {
        path: "net.*.link",
        flag: "",
        takes: "up or down",
        default: "up",
        meaning: "Whether the cable is plugged in at first",
    },
    Key {
        path: "console.*",
        flag: "--console",
        takes: "stdio, off, pty, file=PATH or socket=PATH, each with ,name=NAME for a named port; in a file also a table",
        default: "",
        meaning: "A port of the virtio console under a name of your choice; without a guest-visible name the guest's /dev/hvc0, /dev/hvc1 and so on",
    },
    Key {
        path: "console.*.to",
        flag: "",
        takes: "stdio, off, pty, file or socket",
        default: "",
        meaning: "What it is connected to; stdio takes the terminal from the serial port",
    },
    Key {
        path: "console.*.path",
        flag: "",
        takes: "path",
        default: "",
        meaning: "File that output is appended to, or unix socket to listen on",
    },
    Key {
        path: "console.*.name",
        flag: "",
        takes: "1 to 64 of a-z, A-Z, 0-9, ., _ and -",
        default: "",
        meaning: "Makes it a stream of bytes under /dev/virtio-ports/ in the guest",
    },
    Key {
        path: "vsock",
        flag: "--vsock",
        takes: "cid and socket",
        default: "",
        meaning: "Sockets between guest and host (AF_VSOCK)",
    },
    Key {
        path: "vsock.cid",
        flag: "",
        takes: "number from 3 to 4294967294",
        default: "",
        meaning: "The guest's context ID",
    },
    Key {
        path: "vsock.socket",
        flag: "",
        takes: "path of at most 96 bytes",
        default: "",
        meaning: "Unix socket for connections to the guest; those of the guest to port P arrive at this path with _P behind it",
    },
    Key {
        path: "balloon",
        flag: "--balloon",
        takes: "table with the keys below, empty for the defaults",
        default: "",
        meaning: "Memory balloon: takes memory back from the guest",
    },
    Key {
        path: "balloon.target",
        flag: "",
        takes: "size, a multiple of 4KiB less than memory.size",
        default: "0",
        meaning: "Memory the guest is asked to give back from the start",
    },
    Key {
        path: "balloon.deflate_on_oom",
        flag: "",
        takes: "true or false",
        default: "true",
        meaning: "The guest takes memory back from the balloon instead of running out of it",
    },
    Key {
        path: "balloon.stats_interval",
        flag: "",
        takes: "whole number of seconds from 1",
        default: "",
        meaning: "Time between two statistics of the guest's memory",
    },
    Key {
        path: "balloon.reporting",
        flag: "",
        takes: "true or false",
        default: "true",
        meaning: "The guest reports free pages, which go back to the host",
    },
    Key {
        path: "on_reboot",
        flag: "--no-reboot",
        takes: "restart or exit",
        default: "restart",
        meaning: "What follows when the guest reboots: start it again, or end the VM",
    },
];

/// The key at `path`, as it is documented or as it stands in a file; `None` if there is none.
#[must_use]
pub fn key(path: &str) -> Option<&'static Key> {
    Catalogue::Vm.key(path)
}

/// What is left of `pattern` behind the place `path`, if the one leads to the other.
pub(super) fn stands_at<'p>(pattern: &'p str, path: &str) -> Option<&'p str> {
    let mut rest = pattern;
    for part in path.split('.') {
        let (first, behind) = rest.split_once('.').unwrap_or((rest, ""));
        if first.is_empty() || (first != "*" && first != part) {
            return None;
        }
        rest = behind;
    }
    Some(rest)
}

#[cfg(test)]
#[path = "keys_test.rs"]
mod keys_test;
