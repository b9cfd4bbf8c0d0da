use super::*;

/// A host made of files.
fn host(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    root
}

#[test]
fn a_full_host_is_read() {
    let root = host(&[
        ("proc/meminfo", "MemTotal:       24623104 kB\nMemAvailable:   20480 kB\n"),
        ("sys/devices/system/cpu/online", "0-3,8,10-11\n"),
        ("sys/fs/cgroup/cgroup.controllers", "cpu memory\n"),
        ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
        ("sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "1\n"),
        ("sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages", "0\n"),
        ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "8\n"),
        ("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "5\n"),
        ("sys/module/kvm_amd/parameters/nested", "1\n"),
        ("dev/net/tun", ""),
    ]);
    let host = Inventory::read(root.path());
    assert_eq!(host.cpus, Some(7));
    assert_eq!(host.memory_total, Some(Size::from_kib(24_623_104)));
    assert_eq!(host.memory_available, Some(Size::from_mib(20)));
    assert_eq!(host.cgroup, Some(Cgroup::V2));
    assert_eq!(host.transparent_hugepages.as_deref(), Some("madvise"));
    assert_eq!(
        host.hugepage_pools,
        [
            HugePages { page: Size::from_mib(2), total: 8, free: 5 },
            HugePages { page: Size::from_mib(1024), total: 1, free: 0 },
        ]
    );
    assert_eq!(host.kvm_modules, ["kvm_amd"]);
    assert_eq!(host.nested, Some(true));
    assert_eq!(host.device_nodes, [("tun", true), ("vhost_net", false)]);
}

#[test]
fn what_cannot_be_read_is_absent() {
    let root = host(&[
        ("proc/meminfo", "MemTotal: lots\n"),
        ("sys/devices/system/cpu/online", "3-1\n"),
        ("sys/kernel/mm/hugepages/hugepages-bigkB/nr_hugepages", "1\n"),
    ]);
    let host = Inventory::read(root.path());
    let nodes = host.device_nodes.clone();
    assert_eq!(host, Inventory { device_nodes: nodes, ..Inventory::default() });
}

#[test]
fn version_1_control_groups_are_told_from_none() {
    let root = host(&[("sys/fs/cgroup/memory/tasks", "")]);
    assert_eq!(Inventory::read(root.path()).cgroup, Some(Cgroup::V1));
    assert_eq!(Inventory::read(host(&[]).path()).cgroup, None);
}

#[test]
fn this_machine_is_readable() {
    let host = Inventory::read(Path::new("/"));
    assert!(host.cpus >= Some(1) && host.memory_total > host.memory_available);
}
