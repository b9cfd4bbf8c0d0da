use super::*;

#[test]
fn names_of_tenants_do_not_nest_their_slices() {
    let name = |text: &str| text.parse::<Name>().unwrap();
    assert_eq!(slice(&name("acme")), "carve-acme.slice");
    assert_eq!(slice(&name("a-b")), "carve-a\\x2db.slice");
    assert_eq!(
        path(Some(&name("acme")), &name("web-1")),
        "carve.slice/carve-acme.slice/carve-web-1.scope"
    );
    assert_eq!(path(None, &name("db")), "carve.slice/carve-db.scope");
}

#[test]
fn weights_are_in_proportion_and_in_range() {
    assert_eq!(weight(500, 4000), 1250);
    assert_eq!(weight(1500, 4000), 3750);
    assert_eq!((weight(0, 4000), weight(4000, 4000), weight(5000, 4000)), (1, 10_000, 10_000));
    assert_eq!(weight(0, 0), 1);
}

#[test]
fn guarantees_are_taken_out_of_the_score() {
    // Rounded away from zero: one within its guarantee never scores above 0.
    assert_eq!(oom_score_adj(1 << 30, 16 << 30), -63);
    assert_eq!(oom_score_adj(0, 1 << 30), 0);
    assert_eq!(oom_score_adj(1 << 40, 1 << 30), -999);
    assert_eq!(oom_score_adj(1, 0), -999);
}

#[test]
fn files_are_written_as_the_kernel_reads_them() {
    let group = Cgroup {
        path: "carve.slice/carve-db.scope".into(),
        owner: Owner::Vm("db".parse().unwrap()),
        cpus: "2-3".parse().unwrap(),
        partition: false,
        weight: 7,
        cpu_max: Some(Thousandths::from_thousandths(1500)),
        memory_min: Size::from_mib(1),
        memory_max: Size::from_mib(2),
        hugetlb: [(Size::from_mib(2), Size::from_mib(4)), (Size::from_mib(1024), Size::default())]
            .into(),
        pids_max: Some(68),
        io: vec![IoMax { device: "8:0".into(), operations: Some(125), bandwidth: None }],
        unenforced: BTreeSet::new(),
    };
    let files: Vec<String> =
        group.files().iter().map(|(file, content)| format!("{file} {content}")).collect();
    assert_eq!(
        files,
        [
            "cpuset.cpus 2-3",
            "cpu.weight 7",
            "cpu.max 150000 100000",
            "memory.min 1048576",
            "memory.max 2097152",
            "hugetlb.2MB.max 4194304",
            "hugetlb.1GB.max 0",
            "pids.max 68",
            "io.max 8:0 rbps=max wbps=max riops=125 wiops=125",
        ]
    );
    let without = Cgroup { unenforced: ["io".to_owned(), "memory".to_owned()].into(), ..group };
    assert!(
        without.files().iter().all(|(file, _)| !file.starts_with("io") && !file.starts_with("mem"))
    );
}
