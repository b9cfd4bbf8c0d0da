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
    /// Files that a test leaves in its shared folder are there for the hosts after it.
    pub keeps_files: bool,
    /// The one target that runs there; none for all those that have no host of their own.
    target: Option<&'static str>,
}

/// What stock kernels boot on, and everything else that has no host of its own.
pub const ORDINARY: HostKind =
    HostKind { arguments: &["--cpus", "1"], keeps_files: false, target: None };

/// Hosts that are emulated even where this machine is a KVM host, those with the most to do first. Each is to be on one
/// core of this machine, and even so its guests are of a few instructions: QEMU loses hosts of several processors that run
/// at once where nested guests do more.
pub const SPECIAL: [HostKind; 4] = [
    // Several NUMA nodes.
    special(&["--emulated", "--cpus", "8", "--nodes", "2"], "division"),
    // Guests do their worst to each other.
    special(&["--emulated", "--cpus", "2"], "interference"),
    // Their first process is systemd.
    special(&["--init", "systemd", "--cpus", "4"], "systemd"),
    // They lose power.
    HostKind { keeps_files: true, ..special(&["--emulated", "--cpus", "2"], "reboot") },
];

const fn special(arguments: &'static [&'static str], target: &'static str) -> HostKind {
    HostKind { arguments, keeps_files: false, target: Some(target) }
}

impl HostKind {
    /// Whether it is an emulated one, which may lose a test that is right.
    pub fn is_emulated(&self) -> bool {
        self.target.is_some() || !host::hardware_kvm()
    }

    /// Whether a test runs on such a host; `kvm_here` where this machine has a KVM of any kind.
    pub fn runs(&self, test: &TestBinary, kvm_here: bool) -> bool {
        let name = test.name.as_str();
        if let Some(target) = self.target {
            return name == target;
        }
        let here = kvm_here && KVM.contains(&name) && (host::hardware_kvm() || name != HOSTILE);
        !is_local(test) && !here && SPECIAL.iter().all(|kind| kind.target != Some(name))
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
            ("reboot", true, 1),
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
