//! Properties against the files that they become.

use std::collections::{BTreeMap, BTreeSet};

use rustbus::MessageBuilder;

use super::*;
use crate::Size;
use crate::plan::Owner;

fn group() -> Cgroup {
    Cgroup {
        path: "carve.slice/carve-db.scope".into(),
        owner: Owner::Vm("db".parse().unwrap()),
        cpus: "1-3,9".parse().unwrap(),
        partition: false,
        weight: 17,
        cpu_max: Some(Thousandths::from_thousandths(750)),
        memory_min: Size::from_mib(64),
        memory_max: Size::from_bytes(0),
        hugetlb: BTreeMap::new(),
        pids_max: Some(80),
        io: Vec::new(),
        unenforced: BTreeSet::new(),
    }
}

fn value(group: &Cgroup, name: &str) -> Option<Value> {
    limits(group).into_iter().find(|(other, _)| *other == name).map(|(_, value)| value)
}

#[test]
fn limits_are_those_of_the_files() {
    let mut group = group();
    assert_eq!(value(&group, "AllowedCPUs"), Some(Value::Bytes(vec![0b1110, 0b10])));
    assert_eq!(value(&group, "CPUWeight"), Some(Value::Number(17)));
    // 75000 in 100000 microseconds, as `cpu.max` has it.
    assert_eq!(value(&group, "CPUQuotaPerSecUSec"), Some(Value::Number(750_000)));
    assert_eq!(value(&group, "CPUQuotaPeriodUSec"), Some(Value::Number(100_000)));
    assert_eq!(value(&group, "MemoryMin"), Some(Value::Number(64 << 20)));
    assert_eq!(value(&group, "MemoryMax"), Some(Value::Number(1)));
    assert_eq!(value(&group, "TasksMax"), Some(Value::Number(80)));
    (group.cpu_max, group.pids_max) = (None, None);
    for name in ["CPUQuotaPerSecUSec", "TasksMax"] {
        assert_eq!(value(&group, name), Some(Value::Number(u64::MAX)));
    }
}

#[test]
fn systemd_is_not_asked_for_what_no_controller_enforces() {
    let mut group = group();
    group.unenforced = ["cpuset".to_owned(), "memory".to_owned()].into();
    let names: Vec<_> = limits(&group).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["CPUWeight", "CPUQuotaPerSecUSec", "CPUQuotaPeriodUSec", "TasksMax"]);
}

#[test]
fn properties_go_over_the_bus_as_pairs_with_variants() {
    let mut call = MessageBuilder::new().call("StartTransientUnit").on("/").build();
    call.body.push_param(scope("carve.slice", 7, "carve.service")).unwrap();
    assert_eq!(call.get_sig(), "a(sv)");
    call.body.validate().unwrap();
}
