use super::*;

fn good() -> Facts {
    let capability = |name, required| Capability { name, purpose: "x", required, present: true };
    Facts {
        kvm: Ok(Kvm {
            capabilities: vec![capability("KVM_CAP_IRQFD", true), capability("KVM_CAP_IO", false)],
            max_vcpus: 1024,
        }),
        hardware_virtualization: true,
        inventory: Inventory {
            cpus: Some(8),
            memory_total: Some(Size::from_mib(8192)),
            memory_available: Some(Size::from_mib(4096)),
            cgroup: Some(Cgroup::V2),
            transparent_hugepages: Some("madvise".to_owned()),
            kvm_modules: vec!["kvm_amd"],
            nested: Some(true),
            device_nodes: vec![("tun", true), ("vhost_net", true)],
            ..Inventory::default()
        },
        support: Support {
            seccomp: true,
            landlock: Some(6),
            namespaces: Ok(()),
            leaks: support::Leaks { known: 12, ..support::Leaks::default() },
        },
    }
}

fn findings(facts: &Facts) -> Vec<Finding> {
    judge(facts, Path::new("/dev/kvm"))
}

/// The finding that `change` spoils.
fn spoilt(name: &str, change: impl FnOnce(&mut Facts)) -> (Finding, bool) {
    let mut facts = good();
    change(&mut facts);
    let findings = findings(&facts);
    let fit = fit(&findings);
    (findings.into_iter().find(|finding| finding.name == name).unwrap(), fit)
}

#[test]
fn a_good_host_is_fit_and_has_nothing_to_remedy() {
    let findings = findings(&good());
    assert!(findings.iter().all(|finding| finding.status == Status::Ok), "{findings:?}");
    assert!(table(&findings).ends_with("\nThis host is fit to run guests.\n"));
}

#[test]
fn what_guests_cannot_run_without_makes_a_host_unfit() {
    let (finding, fit) =
        spoilt("KVM", |facts| facts.kvm = Err("no permission to open /dev/kvm: do this".into()));
    assert_eq!((finding.status, fit), (Status::Fail, false));
    assert_eq!(finding.remedy.as_deref(), Some("do this"));

    let (finding, fit) =
        spoilt("hardware virtualization", |facts| facts.hardware_virtualization = false);
    assert_eq!((finding.status, fit), (Status::Fail, false));
    assert!(finding.remedy.unwrap().contains("stock kernels"));

    let (finding, fit) = spoilt("capabilities", |facts| {
        facts.kvm.as_mut().unwrap().capabilities[0].present = false;
    });
    assert_eq!((finding.status, fit), (Status::Fail, false));
    assert!(finding.value.contains("KVM_CAP_IRQFD"), "{finding:?}");
}

#[test]
fn what_only_costs_something_is_a_warning_with_a_remedy() {
    type Change = fn(&mut Facts);
    let changes: [(&str, Change); 7] = [
        ("optional capabilities", |f| f.kvm.as_mut().unwrap().capabilities[1].present = false),
        ("control groups", |f| f.inventory.cgroup = Some(Cgroup::V1)),
        ("control groups", |f| f.inventory.cgroup = None),
        ("control groups", |f| f.inventory.systemd_bus = Some(false)),
        ("transparent huge pages", |f| f.inventory.transparent_hugepages = Some("never".into())),
        ("memory", |f| f.inventory.memory_available = Some(Size::from_mib(1))),
        ("tun", |f| f.inventory.device_nodes[0].1 = false),
    ];
    for (name, change) in changes {
        let (finding, fit) = spoilt(name, change);
        assert_eq!((finding.status, fit), (Status::Warn, true), "{finding:?}");
        assert!(finding.remedy.is_some(), "{finding:?}");
    }
}

#[test]
fn a_host_without_vhost_is_told_how_to_have_it_and_lacks_nothing() {
    let (finding, fit) = spoilt("vhost_net", |facts| facts.inventory.device_nodes[1].1 = false);
    assert_eq!((finding.status, fit), (Status::Ok, true));
    assert!(finding.value.contains("modprobe vhost_net"), "{finding:?}");
}

#[test]
fn the_drop_in_that_delegates_controllers_is_written_out() {
    let delegated = |list: &[&str]| {
        let list = list.iter().map(|name| (*name).to_owned()).collect();
        spoilt("delegated controllers", |facts| facts.inventory.delegated = Some(list))
    };
    let (finding, fit) = delegated(&["cpu", "memory", "pids"]);
    assert_eq!((finding.status, fit), (Status::Warn, true));
    assert_eq!(finding.value, "without cpuset, io");
    let remedy = finding.remedy.unwrap();
    assert!(remedy.contains("'[Service]\\nDelegate=cpuset cpu io memory pids\\n'"), "{remedy}");
    let (finding, _) = delegated(&["cpuset", "cpu", "io", "memory", "pids"]);
    assert_eq!((finding.status, finding.remedy), (Status::Ok, None));
}
