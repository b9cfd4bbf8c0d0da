use proptest::prelude::*;

use super::*;
use crate::config::Transport;
use crate::config::{Backing, BootProtocol, BootSpec, DevicesSpec, MemorySpec};

const DEVICES: &str = r#"
vsock = { cid = 3, socket = "s" }
balloon = { stats_interval = 10 }
disk = { z = "z.img", a = { path = "a.img", overlay = "o.qcow2", bandwidth = "3MB/s" } }
net.lan = { tap = "tap0", queues = 2, rx_bandwidth = "1Gbit/s" }
net.out = { user = true, forward = ["8080:80"] }
console = { log = { to = "file", path = "p" }, agent = "socket=q,name=agent.0" }
"#;

fn spec(text: &str) -> VmSpec {
    toml::from_str(&format!("kernel = \"k\"\n{text}")).unwrap()
}

fn conflicts(text: &str) -> Vec<Conflict> {
    spec(text).resolve().unwrap_err()
}

#[test]
fn a_kernel_alone_makes_a_vm_with_the_documented_defaults() {
    let vm = spec("").resolve().unwrap();
    assert_eq!((vm.vcpus, vm.memory.size), (1, Size::from_mib(512)));
    assert_eq!(vm.topology, Topology::default());
    assert_eq!(vm.memory.backing, Backing::Anonymous);
    assert!(vm.memory.transparent_hugepages && !vm.memory.prefault);
    assert_eq!((vm.boot.protocol, vm.boot.extract), (BootProtocol::Auto, true));
    assert_eq!((vm.on_reboot, vm.devices.debug_exit), (OnReboot::Restart, false));
    assert_eq!((vm.name, vm.initrd, vm.hugepages), (None, None, None));
}

#[test]
fn vcpus_and_topology_follow_from_each_other() {
    let vm = spec("topology = { sockets = 2, threads = 2 }").resolve().unwrap();
    assert_eq!(vm.vcpus, 4);
    let vm = spec("vcpus = 6").resolve().unwrap();
    assert_eq!(vm.topology, Topology { sockets: 1, cores: 6, threads: 1 });
}

#[test]
fn every_rule_is_checked_and_says_value_reason_and_remedy() {
    for (text, parts) in [
        ("vcpus = 0", ["vcpus is 0", "1 to 4096"]),
        ("vcpus = 4097", ["vcpus is 4097", "1 to 4096"]),
        ("topology.cores = 5000", ["vcpus is 5000", "1 to 4096"]),
        ("topology.cores = 0", ["cores=0", "at least 1"]),
        ("vcpus = 3\ntopology.cores = 2", ["makes 2 vCPUs, but vcpus is 3", "agree"]),
        (
            "topology = { sockets = 4294967295, cores = 4294967295, threads = 2 }",
            ["vcpus is", "1 to 4096"],
        ),
        ("memory = 512", ["memory is 512B", "did you mean 512MiB?"]),
        ("memory = 0", ["memory is 0B", "such as 512MiB"]),
        ("memory = \"1MiB\"", ["memory is 1MiB", "2MiB or more"]),
        ("memory = \"3000001\"", ["3000001B", "use 2928KiB or 2932KiB"]),
        ("memory = \"3MiB\"\nhugepages = \"2MiB\"", ["3MiB", "use 2MiB or 4MiB"]),
        ("hugepages = \"1GiB\"", ["512MiB", "use 1GiB or 2GiB"]),
        ("cmdline = \"a\\nb\"", ["cmdline", "'\\n'"]),
        ("net.a = { tap = \"t\", mtu = 60 }", ["mtu is 60", "68 to 65535"]),
        ("net = { a = { tap = \"t\" }, b = { tap = \"t\" } }", ["tap is t", "uses already"]),
        ("console = { a = \"stdio\", b = \"stdio\" }", ["consoles a, b are stdio", "use pty"]),
        ("balloon.target = \"512MiB\"", ["balloon.target is 512MiB", "use a smaller one"]),
        ("initrd = \"\"", ["initrd is an empty path", "leave initrd out"]),
    ] {
        let conflicts = conflicts(text);
        assert_eq!(conflicts.len(), 1, "{conflicts:?}");
        let shown = conflicts[0].to_string();
        assert!(parts.iter().all(|part| shown.contains(part)), "{parts:?} in {shown}");
    }
}

#[test]
fn devices_keep_the_order_of_the_file_and_flags_follow_it() {
    let flags = VmSpec {
        disk: crate::config::numbered("disk", vec!["d.img".parse().unwrap()]),
        ..VmSpec::default()
    };
    let vm = flags.over(spec(DEVICES)).resolve().unwrap();
    let names: Vec<_> = vm.disk.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["z", "a", "disk0"]);
}

#[test]
fn every_relative_path_starts_at_the_folder_of_the_file() {
    let moved = toml::to_string(&spec(DEVICES).relative_to("/d".as_ref())).unwrap();
    for path in ["k", "s", "z.img", "a.img", "o.qcow2", "p", "q"] {
        assert!(moved.contains(&format!("\"/d/{path}\"")), "{path} in {moved}");
    }
}

#[test]
fn all_conflicts_are_found_at_once() {
    let flags = VmSpec { vcpus: Some(0), cmdline: Some("\0".to_owned()), ..VmSpec::default() };
    assert_eq!(
        flags.resolve(),
        Err(vec![Conflict::KernelMissing, Conflict::Vcpus(0), Conflict::CommandLine('\0')])
    );
}

#[test]
fn flags_win_over_the_file_key_by_key() {
    let text = "kernel = \"k\"\nvcpus = 2\nmemory = { size = \"1GiB\", prefault = true }";
    let file = File::parse("vm.toml".as_ref(), text.into()).unwrap();
    let memory = MemorySpec { size: Some(Size::from_mib(64)), ..MemorySpec::default() };
    let flags = VmSpec { memory, kernel: Some("flag".into()), ..VmSpec::default() };
    let vm = load(Some(&file), flags).unwrap();
    assert_eq!((vm.vcpus, vm.memory.size), (2, Size::from_mib(64)));
    assert!(vm.memory.prefault);
    assert_eq!(vm.kernel, PathBuf::from("flag"));
}

#[test]
fn a_conflict_is_shown_where_it_stands_unless_flags_made_it() {
    let text = "kernel = \"k\"\ntopology = { cores = 2 }";
    let file = File::parse("vm.toml".as_ref(), text.into()).unwrap();
    let vcpus = |count| VmSpec { vcpus: Some(count), ..VmSpec::default() };
    let shown = load(Some(&file), vcpus(3)).unwrap_err().to_string();
    assert!(shown.starts_with("vm.toml:2:12: topology"), "{shown}");

    let file = File::parse("vm.toml".as_ref(), "kernel = \"k\"\nvcpus = 2".into()).unwrap();
    let shown = load(Some(&file), vcpus(0)).unwrap_err().to_string();
    assert!(shown.starts_with("vcpus is 0"), "{shown}");
}

prop_compose! {
    fn any_spec()(
        vcpus in proptest::option::of(0u32..5000),
        parts in proptest::option::of((0u32..9, 0u32..9, 0u32..9)),
        size in proptest::option::of(0u64..1 << 40),
        round in any::<bool>(),
        huge in proptest::option::of(any::<bool>()),
        flags in proptest::option::of(any::<bool>()),
        memfd in any::<bool>(),
        cmdline in proptest::option::of(".{0,8}"),
    ) -> VmSpec {
        let size = size.map(|size| Size::from_bytes(if round { size & !0x3fff_ffff } else { size }));
        VmSpec {
            name: Some("vm".parse().unwrap()),
            kernel: Some("k".into()),
            initrd: Some("i".into()),
            cmdline,
            vcpus,
            hugepages: huge.map(|big| if big { HugePageSize::OneGib } else { HugePageSize::TwoMib }),
            on_reboot: Some(OnReboot::Exit),
            topology: parts.map(|(sockets, cores, threads)| Topology { sockets, cores, threads }),
            memory: MemorySpec {
                min: None,
                size,
                backing: memfd.then_some(Backing::Memfd),
                transparent_hugepages: flags,
                prefault: flags,
            },
            boot: BootSpec { protocol: Some(BootProtocol::Pvh), extract: flags },
            devices: DevicesSpec { debug_exit: flags, rng: flags, transport: flags.map(|_| Transport::Mmio) },
            ..spec(if memfd { DEVICES } else { "" })
        }
    }
}

proptest! {
    #[test]
    fn whatever_resolves_is_consistent_and_survives_serialization(spec in any_spec()) {
        prop_assert_eq!(&toml::from_str::<VmSpec>(&toml::to_string(&spec).unwrap()).unwrap(), &spec);
        if let Ok(vm) = spec.resolve() {
            prop_assert_eq!(vm.topology.vcpus(), Some(u64::from(vm.vcpus)));
            prop_assert!((1..=MAX_VCPUS).contains(&vm.vcpus));
            let page = vm.hugepages.map_or(4096, HugePageSize::bytes);
            prop_assert_eq!(vm.memory.size.bytes() % page, 0);
            prop_assert_eq!(&toml::from_str::<VmConfig>(&toml::to_string(&vm).unwrap()).unwrap(), &vm);
        }
    }
}
