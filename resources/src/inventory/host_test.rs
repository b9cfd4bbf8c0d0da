use super::*;

/// A host of two nodes with a core of two siblings each, made of files.
fn two_nodes() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let write = |path: &str, content: &str| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    write("proc/meminfo", "MemTotal:  8388608 kB\nSwapTotal: 1024 kB\n");
    write("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb pids\n");
    write("sys/devices/system/cpu/online", "0-3\n");
    write("sys/devices/system/cpu/present", "0-5\n");
    write("sys/devices/system/node/online", "0-1\n");
    for cpu in 0..4 {
        let (core, node) = (cpu % 2, cpu % 2);
        let topology = format!("sys/devices/system/cpu/cpu{cpu}/topology");
        write(&format!("{topology}/core_cpus_list"), &format!("{core},{}\n", core + 2));
        write(&format!("{topology}/physical_package_id"), &format!("{node}\n"));
    }
    for node in 0..2 {
        let folder = format!("sys/devices/system/node/node{node}");
        write(&format!("{folder}/cpulist"), &format!("{node},{}\n", node + 2));
        write(&format!("{folder}/meminfo"), &format!("Node {node} MemTotal:  4194304 kB\n"));
        write(&format!("{folder}/hugepages/hugepages-2048kB/nr_hugepages"), "8\n");
        write(&format!("{folder}/hugepages/hugepages-2048kB/free_hugepages"), "5\n");
    }
    fs::create_dir_all(root.path().join("srv/fast")).unwrap();
    root
}

#[test]
fn cores_nodes_memory_and_controllers_are_read() {
    let root = two_nodes();
    let host = Host::read(root.path(), &["/srv/fast".into(), "/srv/none".into()]).unwrap();
    let of = |cpu: &Cpu| (cpu.id, cpu.core, cpu.node, cpu.package);
    let cpus: Vec<_> = host.cpus.iter().map(of).collect();
    assert_eq!(cpus, [(0, 0, 0, 0), (1, 1, 1, 1), (2, 0, 0, 0), (3, 1, 1, 1)]);
    assert_eq!(host.offline.to_string(), "4-5");
    assert_eq!((host.memory, host.swap), (Size::from_kib(8_388_608), Size::from_kib(1024)));
    assert_eq!(host.nodes[1].memory, Size::from_kib(4_194_304));
    assert_eq!(host.huge_pages(Size::from_mib(2)), 16);
    assert_eq!(host.huge_memory(), Size::from_mib(32));
    // What a kernel can do is not known of another's files.
    assert!(host.controllers.contains("cpuset") && !host.core_scheduling);
    assert_eq!(host.file_systems.len(), 1);
    assert!(host.file_systems[Path::new("/srv/fast")].size > Size::from_mib(1));
}

#[test]
fn what_is_read_can_be_written_and_read_again() {
    let host = Host::read(two_nodes().path(), &[]).unwrap();
    let text = serde_json::to_string(&host).unwrap();
    assert_eq!(Host::from_json(&text).unwrap(), host);
}

#[test]
fn without_nodes_there_is_one() {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in
        [("proc/meminfo", "MemTotal: 1024 kB\n"), ("sys/devices/system/cpu/online", "0-1\n")]
    {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let host = Host::read(root.path(), &[]).unwrap();
    assert_eq!(host.nodes, [Node { id: 0, memory: Size::from_kib(1024), hugepages: vec![] }]);
    assert_eq!(host.cpus.iter().map(|cpu| cpu.core).collect::<Vec<_>>(), [0, 1]);
    assert!(host.controllers.is_empty());
}

#[test]
fn a_host_that_cannot_be_read_is_an_error() {
    let error = Host::read(tempfile::tempdir().unwrap().path(), &[]).unwrap_err().to_string();
    assert!(error.contains("/sys/devices/system/cpu/online") && error.contains("mount"), "{error}");
}

#[test]
fn inventories_that_contradict_themselves_are_refused() {
    let cpu = |id, core, node| format!("{{\"id\":{id},\"core\":{core},\"node\":{node}}}");
    for (cpus, reason) in [
        (String::new(), "no CPU"),
        (format!("{},{}", cpu(0, 0, 0), cpu(0, 0, 0)), "twice"),
        (cpu(0, 1, 0), "impossible"),
        (cpu(9000, 0, 0), "impossible"),
        (cpu(0, 0, 1), "node"),
    ] {
        let text = format!(
            "{{\"version\":1,\"cpus\":[{cpus}],\"nodes\":[{{\"id\":0,\"memory\":\"1GiB\"}}],\"memory\":\"1GiB\"}}"
        );
        let error = Host::from_json(&text).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    assert!(Host::from_json("{}").is_err() && Host::from_json("[").is_err());
}

#[test]
fn this_machine_is_a_host() {
    let host = Host::read(Path::new("/"), &["/".into()]).unwrap();
    assert!(!host.cpus.is_empty() && host.memory > Size::default());
    assert_eq!(Host::from_json(&serde_json::to_string(&host).unwrap()).unwrap(), host);
}
