use std::collections::BTreeSet;

use super::*;
use crate::config::VmSpec;

/// A spec that sets every key.
const EVERYTHING: &str = r#"
name = "a"
kernel = "k"
initrd = "i"
cmdline = "c"
vcpus = 1
hugepages = "2MiB"
on_reboot = "exit"
topology = { sockets = 1, cores = 1, threads = 1 }
memory = { size = "512MiB", min = "256MiB", backing = "memfd", transparent_hugepages = false, prefault = true }
boot = { protocol = "pvh", extract = false }
devices = { debug_exit = true, rng = false, transport = "mmio" }
vsock = { cid = 3, socket = "s" }
balloon = { target = "64MiB", deflate_on_oom = false, stats_interval = 1, reporting = false }
[disk.a]
path = "d"
pool = "p"
size = "1GiB"
image = "i"
preallocate = true
readonly = false
format = "raw"
queues = 2
queue_size = 64
overlay = "discard"
direct = true
serial = "s"
block_size = 4096
iops = 1
iops_burst = 2
bandwidth = "1MB/s"
bandwidth_burst = "2MiB"
[net.a]
tap = "tap0"
tap_fd = 3
bridge = "br0"
user = true
forward = ["80:80"]
host = true
mac = "02:ca:4e:12:34:56"
mtu = 1500
queues = 1
queue_size = 256
vhost = true
bandwidth = "1MB/s"
rx_bandwidth = "1MB/s"
rx_packets = 1
tx_bandwidth = "1MB/s"
tx_packets = 1
link = "down"
[console.a]
to = "file"
path = "p"
name = "n"
"#;

fn leaves(table: &toml::Table, prefix: &str, paths: &mut BTreeSet<String>) {
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => leaves(inner, &format!("{prefix}{key}."), paths),
            _ => drop(paths.insert(format!("{prefix}{key}"))),
        }
    }
}

#[test]
fn every_key_of_the_schema_is_documented_and_every_documented_key_exists() {
    let spec: VmSpec = toml::from_str(EVERYTHING).unwrap();
    // Exhaustive: a field added to the schema and not here is caught.
    let VmSpec {
        name: Some(_),
        kernel: Some(_),
        initrd: Some(_),
        cmdline: Some(_),
        vcpus: Some(_),
        hugepages: Some(_),
        on_reboot: Some(_),
        topology: Some(_),
        memory: _,
        boot: _,
        devices: _,
        disk: _,
        net: _,
        console: _,
        vsock: Some(_),
        balloon: Some(_),
    } = &spec
    else {
        panic!("EVERYTHING misses a key: {spec:?}");
    };
    let mut schema = BTreeSet::new();
    leaves(&toml::Table::try_from(&spec).unwrap(), "", &mut schema);
    let schema: BTreeSet<String> = schema
        .iter()
        .map(|path| key(path).map_or(path.clone(), |key| key.path.to_owned()))
        .collect();
    let documented: BTreeSet<String> = KEYS
        .iter()
        .filter(|key| !KEYS.iter().any(|k| k.path.starts_with(&format!("{}.", key.path))))
        .map(|key| key.path.to_owned())
        .collect();
    assert_eq!(schema, documented);
}

#[test]
fn the_user_guide_lists_every_key_as_documented_here() {
    let guide = include_str!("../../../docs/user/config.md");
    let cell = |text: &str| if text.is_empty() { String::new() } else { format!("`{text}`") };
    for key in KEYS {
        let row = format!(
            "| `{}` | {} | {} | {} | {} |",
            key.path,
            key.takes,
            key.default,
            cell(key.flag),
            key.meaning
        );
        assert!(guide.contains(&row), "docs/user/config.md lacks the row\n{row}");
    }
}

#[test]
fn a_star_stands_for_any_name() {
    assert_eq!(stands_at("disk.*.path", "disk.root"), Some("path"));
    assert_eq!(stands_at("disk.*.path", "disk.root.path"), Some(""));
    assert_eq!(stands_at("disk.*.path", "disk"), Some("*.path"));
    assert_eq!(stands_at("disk.*.path", "disk.root.size"), None);
    assert_eq!(stands_at("disk.*.path", "disk.root.path.x"), None);
}

#[test]
fn misspelt_keys_find_the_key_meant() {
    for (written, meant) in [
        ("cpus", "vcpus"),
        ("vcpu", "vcpus"),
        ("mem", "memory"),
        ("kernal", "kernel"),
        ("memory.szie", "memory.size"),
        ("memory.prefalt", "memory.prefault"),
        ("hugepage", "hugepages"),
        ("reboot", "on_reboot"),
        ("prefault", "memory.prefault"),
        ("boot.protocoll", "boot.protocol"),
    ] {
        assert_eq!(Catalogue::Vm.nearest(written).as_deref(), Some(meant), "{written}");
    }
    for stranger in ["colour", "memory.colour", "x", "boot.x"] {
        assert_eq!(Catalogue::Vm.nearest(stranger), None, "{stranger}");
    }
}
