//! Which end-to-end tests run on which kind of host.

use crate::cargo::TestBinary;
use crate::host;

/// Those that need no guest to boot.
const LOCAL: [&str; 2] = ["cli", "divide"];
/// Those whose guests boot on any KVM.
const KVM: [&str; 12] = [
    "api",
    "changes",
    "console",
    "faults",
    "full",
    HOSTILE,
    "jail",
    "kvm",
    "lifecycle",
    "pause",
    "serve",
    "terminal",
];
/// What runs where there is hardware virtualization, too, even an emulated one: hypercalls are made only there.
const HOSTILE: &str = "hostile";
/// What runs anywhere, and on a KVM host of one processor alone in the everyday loop.
const EVERYDAY: &str = "boot";

/// A kind of KVM host.
#[derive(Debug)]
pub struct HostKind {
    /// Arguments of `xtask host`.
    pub arguments: &'static [&'static str],
    targets: &'static [&'static str],
}

/// What stock kernels boot on, and everything else that has no host of its own.
pub const ORDINARY: HostKind = HostKind { arguments: &["--cpus", "1"], targets: &[] };

/// Hosts that are emulated even where this machine is a KVM host, those with the most to do first. Each is to be on one
/// core of this machine, and even so its guests are of a few instructions: QEMU loses hosts of several processors that run
/// at once where nested guests do more.
pub const SPECIAL: [HostKind; 3] = [
    // Several NUMA nodes.
    HostKind { arguments: &["--emulated", "--cpus", "8", "--nodes", "2"], targets: &["division"] },
    // Guests do their worst to each other.
    HostKind { arguments: &["--emulated", "--cpus", "2"], targets: &["interference"] },
    // Their first process is systemd.
    HostKind { arguments: &["--init", "systemd", "--cpus", "4"], targets: &["systemd"] },
];

impl HostKind {
    /// Whether it is an emulated one, which may lose a test that is right.
    pub fn is_emulated(&self) -> bool {
        !self.targets.is_empty() || !host::hardware_kvm()
    }

    /// Whether a test runs on such a host; `kvm_here` where this machine has a KVM of any kind.
    pub fn runs(&self, test: &TestBinary, kvm_here: bool) -> bool {
        let name = test.name.as_str();
        if !self.targets.is_empty() {
            return self.targets.contains(&name);
        }
        let here = kvm_here && KVM.contains(&name) && (host::hardware_kvm() || name != HOSTILE);
        !is_local(test) && !here && SPECIAL.iter().all(|kind| !kind.targets.contains(&name))
    }
}

/// Whether a test needs no KVM.
pub fn is_local(test: &TestBinary) -> bool {
    LOCAL.contains(&test.name.as_str())
}

/// Whether the guests of a test boot on any KVM.
pub fn is_kvm(test: &TestBinary) -> bool {
    KVM.contains(&test.name.as_str())
}

/// Whether a test is part of the everyday loop.
pub fn is_everyday(test: &TestBinary) -> bool {
    test.name == EVERYDAY
}

#[cfg(test)]
mod kinds_test {
    use super::*;

    fn test(name: &str) -> TestBinary {
        TestBinary {
            package: "carve".into(),
            directory: "/".into(),
            name: name.into(),
            integration: true,
            path: "/".into(),
        }
    }

    #[test]
    fn each_test_has_one_kind_of_host_and_tiny_guests_need_none_beside_a_kvm() {
        for (name, kvm_here, kinds) in [
            ("boot", true, 1),
            ("division", true, 1),
            ("interference", true, 1),
            ("systemd", false, 1),
            ("lifecycle", true, 0),
            ("lifecycle", false, 1),
            ("cli", false, 0),
        ] {
            let hosts = SPECIAL.iter().chain([&ORDINARY]);
            let of = hosts.filter(|kind| kind.runs(&test(name), kvm_here)).count();
            assert_eq!(of, kinds, "{name}");
        }
    }
}
