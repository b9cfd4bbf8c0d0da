//! [`KEYS`]: what each key of a VM takes, for help texts, the user guide and errors.

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
    KEYS.iter().find(|key| key.path == path || stands_at(key.path, path).is_some_and(str::is_empty))
}

/// Whether there are keys in a table at `path`.
pub(super) fn is_table(path: &str) -> bool {
    KEYS.iter().any(|key| stands_at(key.path, path).is_some_and(|rest| !rest.is_empty()))
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

/// The path of the key that looks most like `path`, if one does: in the same
/// table first, else in any.
pub(super) fn nearest(path: &str) -> Option<&'static str> {
    let split = |path| str::rsplit_once(path, '.').unwrap_or(("", path));
    let (table, name) = split(path);
    let likeness = |key: &Key| {
        let (known_table, known) = split(key.path);
        let part = name.len() >= 3 && known.contains(name);
        let likeness = if part { 0.9 } else { strsim::jaro_winkler(name, known) };
        if table == known_table { likeness } else { likeness * 0.9 }
    };
    KEYS.iter()
        .map(|key| (likeness(key), key.path))
        .filter(|&(likeness, _)| likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, path)| path)
}

#[cfg(test)]
#[path = "keys_test.rs"]
mod keys_test;
