//! The folder is a real one, but an ordinary one: what the kernel makes of writes is for the tests of a
//! divided host.

use std::collections::BTreeMap;

use super::*;
use crate::Size;
use crate::plan::{IoMax, Owner};

fn group(path: &str) -> Cgroup {
    Cgroup {
        path: path.into(),
        owner: Owner::Host,
        cpus: "1-3".parse().unwrap(),
        partition: false,
        weight: 100,
        cpu_max: None,
        memory_min: Size::from_bytes(5000),
        memory_max: Size::from_bytes(1 << 30),
        hugetlb: BTreeMap::new(),
        pids_max: Some(65),
        io: Vec::new(),
        unenforced: BTreeSet::new(),
    }
}

/// A folder in which `carve.slice` can be limited.
fn hierarchy() -> (tempfile::TempDir, Hierarchy) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("cgroup.controllers"), "cpuset cpu io memory pids\n").unwrap();
    let hierarchy = Hierarchy::at(folder.path());
    (folder, hierarchy)
}

#[test]
fn a_group_gets_its_limits_and_reads_back_as_the_kernel_rounds() {
    let (folder, hierarchy) = hierarchy();
    assert!(hierarchy.is_usable());
    let group = group("carve.slice");
    hierarchy.apply([&group]).unwrap();
    let path = folder.path().join("carve.slice");
    // The last of several, as the file is no kernel's.
    assert_eq!(fs::read_to_string(folder.path().join("cgroup.subtree_control")).unwrap(), "+io");
    assert_eq!(fs::read_to_string(path.join("cpuset.cpus")).unwrap(), "1-3");
    assert_eq!(fs::read_to_string(path.join("cpu.max")).unwrap(), "max 100000");
    fs::write(path.join("memory.min"), "4096\n").unwrap();
    fs::write(path.join("cpuset.cpus.effective"), "1-2\n").unwrap();
    let differences = hierarchy.differences(&group);
    assert_eq!(
        differences,
        [Difference {
            file: "carve.slice/cpuset.cpus.effective".into(),
            expected: "1-3".into(),
            found: Some("1-2".into()),
        }]
    );
}

#[test]
fn a_limit_that_is_gone_is_taken_off_its_device() {
    let (folder, hierarchy) = hierarchy();
    let mut group = group("carve.slice");
    let limit =
        |device: &str| IoMax { device: device.into(), operations: Some(7), bandwidth: None };
    group.io = vec![limit("8:0")];
    fs::create_dir(folder.path().join("carve.slice")).unwrap();
    let path = folder.path().join("carve.slice/io.max");
    fs::write(
        &path,
        "8:0 rbps=max wbps=max riops=7 wiops=7\n8:16 rbps=1 wbps=1 riops=max wiops=max\n",
    )
    .unwrap();
    hierarchy.apply([&group]).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "8:16 rbps=max wbps=max riops=max wiops=max");
}

#[test]
fn groups_that_nobody_has_are_swept_and_others_stay() {
    let (folder, hierarchy) = hierarchy();
    for path in [
        "carve-a.slice/carve-x.scope",
        "carve-a.slice/carve-y.scope",
        "carve-b.slice/carve-z.scope",
        "foreign/deep",
    ] {
        fs::create_dir_all(folder.path().join("carve.slice").join(path)).unwrap();
    }
    hierarchy.sweep(["carve.slice/carve-a.slice/carve-x.scope"]);
    let there = |path: &str| folder.path().join("carve.slice").join(path).exists();
    assert!(there("carve-a.slice/carve-x.scope") && there("foreign/deep"));
    assert!(!there("carve-a.slice/carve-y.scope") && !there("carve-b.slice"));
}

#[test]
fn a_group_is_given_to_a_user_but_for_its_limits_and_taken_back() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (folder, hierarchy) = hierarchy();
    let group = folder.path().join("carve.slice");
    fs::create_dir_all(group.join("sessions")).unwrap();
    let limits = ["memory.max", "cpu.weight", "cpuset.cpus", "sessions/memory.max"];
    let given =
        ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "sessions/cgroup.procs"];
    for file in limits.iter().chain(&given).chain(&["cgroup.controllers"]) {
        fs::write(group.join(file), "").unwrap();
    }
    let owner = |path: &str| fs::metadata(group.join(path)).unwrap().uid();
    hierarchy.delegate("carve.slice", 4001, 4001).unwrap();
    assert!(given.iter().chain(&["."]).all(|path| owner(path) == 4001));
    assert!(limits.iter().chain(&["sessions"]).all(|path| owner(path) == 0));
    assert_eq!(fs::read_to_string(group.join("cgroup.max.descendants")).unwrap(), "4096");
    hierarchy.take_back("carve.slice").unwrap();
    assert!(given[..3].iter().chain(&["."]).all(|path| owner(path) == 0));
    hierarchy.take_back("carve.slice/none").unwrap();
}

#[test]
fn what_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = Hierarchy::at(folder.path()).apply([&group("carve.slice")]).unwrap_err();
    assert!(error.to_string().contains("cgroup.controllers"), "{error}");
}
