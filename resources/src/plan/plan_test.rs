//! What holds for every plan, whatever the file and the host.

use std::collections::BTreeSet;
use std::fmt::Write;

use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::*;
use crate::config::host::{CpuShare, Layers, Smt, Source};
use crate::inventory::{Cpu, FileSystem, Node};
use crate::{CpuSet, Thousandths};

/// A host of `nodes` with `cores` of `threads` siblings each, siblings numbered as most machines do.
fn host(nodes: u32, cores: u32, threads: u32, core_scheduling: bool) -> Host {
    let all = nodes * cores;
    let cpu = |id: u32| {
        let core = id % all;
        Cpu { id, core, node: core / cores, package: 0 }
    };
    let node = |id| Node { id, memory: Size::from_mib(4096), hugepages: Vec::new() };
    Host {
        version: 1,
        cpus: (0..all * threads).map(cpu).collect(),
        nodes: (0..nodes).map(node).collect(),
        memory: Size::from_mib(4096 * u64::from(nodes)),
        swap: Size::from_mib(1024),
        controllers: ["cpu", "cpuset", "io", "memory", "pids"].map(str::to_owned).into(),
        core_scheduling,
        ..Host::default()
    }
}

fn any_host() -> impl Strategy<Value = Host> {
    (1..4u32, 1..7u32, 1..3u32, any::<bool>()).prop_map(|(n, c, t, s)| host(n, c, t, s))
}

fn any_tenant() -> impl Strategy<Value = String> {
    (0..6u32, 1..4u32).prop_map(|(halves, gib)| {
        format!("cpus = {}\nmemory = \"{gib}GiB\"\n", f64::from(halves) / 2.0)
    })
}

fn any_vm() -> impl Strategy<Value = String> {
    let cpu = prop_oneof![
        3 => Just("cpu = \"dedicated\"\n".to_owned()),
        1 => (0..2u32).prop_map(|n| format!("cpu = \"dedicated\"\nworkers = {n}\n")),
        1 => (0..2u32).prop_map(|n| format!("cpu = \"dedicated\"\nnuma = {n}\n")),
        1 => (1..9u32).prop_map(|n| format!("cpu.pins = \"{n}-{}\"\n", n + 2)),
        5 => (0..5u32, 0..20u32).prop_map(|(min, more)| {
            let (min, max) = (f64::from(min) / 10.0, f64::from(min + more + 1) / 10.0);
            format!("cpu = {{ min = {min}, max = {max} }}\n")
        }),
        3 => Just(String::new()),
    ];
    let tenant =
        prop_oneof![Just(String::new()), (0..3u32).prop_map(|n| format!("tenant = \"t{n}\"\n"))];
    let count = prop_oneof![3 => Just(String::new()), 1 => (1..3u32).prop_map(|n| format!("count = {n}\n"))];
    (cpu, tenant, count, 1..4u32, 1..9u64, any::<bool>()).prop_map(
        |(cpu, tenant, count, vcpus, size, min)| {
            let size = size * 32;
            let min = if min { size } else { size / 2 };
            format!(
                "kernel = \"/k\"\nvcpus = {vcpus}\nmemory = {{ size = \"{size}MiB\", min = \"{min}MiB\" }}\n{cpu}{tenant}{count}"
            )
        },
    )
}

/// A file as its sections.
fn any_file() -> impl Strategy<Value = Vec<String>> {
    let tenants = prop::collection::vec(any_tenant(), 3);
    let vms = prop::collection::vec(any_vm(), 0..6);
    (tenants, vms, 0..3u32, 1..4u32, any::<bool>()).prop_map(|(tenants, vms, kept, cpu, apart)| {
        let smt = if apart { "per-tenant" } else { "shared" };
        let reserve =
            if kept == 0 { String::new() } else { format!("reserve.cpus = \"0-{}\"\n", kept - 1) };
        let mut sections = vec![format!(
            "[host]\n{reserve}overcommit = {{ cpu = {cpu}, memory = 1.5 }}\nsmt = \"{smt}\"\n"
        )];
        let named = |kind: &str, index: usize, text: &String| format!("[{kind}{index}]\n{text}");
        sections.extend(tenants.iter().enumerate().map(|(n, text)| named("tenant.t", n, text)));
        sections.extend(vms.iter().enumerate().map(|(n, text)| named("vm.v", n, text)));
        sections
    })
}

fn config(sections: &[String]) -> Option<HostConfig> {
    let content = sections.concat().into_bytes();
    Layers::parse(vec![Source { path: "f".into(), content }]).unwrap().resolve().ok()
}

fn planned(config: &HostConfig, host: &Host, present: &Present) -> Plan {
    plan(config, host, present, Options::default())
}

/// Whether no CPU is two VMs' own, offline, kept for the host or half a core's, and shared VMs keep
/// off all of those.
fn check_cpus(config: &HostConfig, host: &Host, plan: &Plan) -> Result<(), String> {
    let mut owned = CpuSet::new();
    for (name, allocation) in &plan.allocations {
        if let HostCpus::Dedicated { cpus, pins, workers, .. } = &allocation.cpus {
            let own: CpuSet = pins.iter().copied().collect();
            let vm = &config.guests[name].vm;
            let right = own.len() == vm.vcpus && own.is_subset(cpus) && workers.is_subset(cpus);
            if !cpus.is_disjoint(&owned) || !right {
                return Err(format!("{name} has {cpus}, pins {pins:?}, others have {owned}"));
            }
            owned = owned.union(cpus);
        }
    }
    let usable = host.online().difference(&config.reserved_cpus);
    if !owned.is_subset(&usable) {
        return Err(format!("{owned} are dedicated, but of {usable}"));
    }
    if config.smt == Smt::PerTenant {
        let half = host.cpus.iter().find(|cpu| {
            let siblings = host.cpus.iter().filter(|other| other.core == cpu.core);
            owned.contains(cpu.id) && siblings.clone().any(|sibling| !owned.contains(sibling.id))
        });
        if let Some(cpu) = half {
            return Err(format!("CPU {} is dedicated, but not its whole core", cpu.id));
        }
    }
    let shared = plan.allocations.iter().filter(|(_, a)| a.cpus.dedicated().is_none());
    for (name, allocation) in shared {
        if !allocation.cpus.cpus().is_disjoint(&owned) || !allocation.cpus.cpus().is_subset(&usable)
        {
            return Err(format!(
                "{name} shares {}, but {owned} are dedicated",
                allocation.cpus.cpus()
            ));
        }
    }
    Ok(())
}

/// Whether everything promised by an admitted plan is there.
fn check_sums(config: &HostConfig, host: &Host, plan: &Plan) -> Result<(), String> {
    let usable = host.online().difference(&config.reserved_cpus).len();
    let charge = |tenant: Option<&Name>| -> u64 {
        let of = plan.allocations.values().filter(|a| a.tenant.as_ref() == tenant);
        of.map(|a| a.cpus.charge().thousandths()).sum()
    };
    let memory = |tenant: Option<&Name>| -> u64 {
        let of = plan.allocations.values().filter(|a| a.tenant.as_ref() == tenant);
        of.map(|a| a.memory.floor()).sum()
    };
    let (mut cpus, mut bytes) = (charge(None), memory(None));
    for (name, tenant) in &config.tenants {
        if charge(Some(name)) > tenant.cpus.thousandths()
            || memory(Some(name)) > tenant.memory.bytes()
        {
            return Err(format!("tenant {name} is given more than it reserves"));
        }
        cpus += tenant.cpus.thousandths();
        bytes += tenant.memory.bytes();
    }
    if cpus > Thousandths::whole(usable).thousandths() || bytes > host.memory.bytes() {
        return Err(format!("{cpus} thousandths of CPUs or {bytes} bytes are promised"));
    }
    let dedicated: u32 =
        plan.allocations.values().filter_map(|a| a.cpus.dedicated()).map(CpuSet::len).sum();
    let shared = || plan.allocations.iter().filter(|(_, a)| a.cpus.dedicated().is_none());
    let min: u64 = shared().map(|(_, a)| a.cpus.charge().thousandths()).sum();
    let vcpus: u64 = shared().map(|(name, _)| u64::from(config.guests[name].vm.vcpus)).sum();
    let left = usable - dedicated;
    if min > Thousandths::whole(left).thousandths()
        || vcpus > config.overcommit_cpu.of(u64::from(left))
    {
        return Err(format!("{min} thousandths and {vcpus} vCPUs on {left} shared CPUs"));
    }
    Ok(())
}

/// Whether no core serves two tenants, where none may.
fn check_siblings(config: &HostConfig, host: &Host, plan: &Plan) -> Result<(), String> {
    for core in host.cpus.iter().map(|cpu| cpu.core).collect::<BTreeSet<_>>() {
        let siblings: CpuSet =
            host.cpus.iter().filter(|cpu| cpu.core == core).map(|cpu| cpu.id).collect();
        let on_core = plan.allocations.values().filter(|a| !a.cpus.cpus().is_disjoint(&siblings));
        let tenants: BTreeSet<_> = on_core.clone().map(|a| a.tenant.as_ref()).collect();
        let apart = on_core.clone().all(|allocation| allocation.core_scheduling);
        if config.smt == Smt::PerTenant && siblings.len() > 1 && tenants.len() > 1 && !apart {
            // A core with one sibling left to VMs serves one tenant at a time.
            let left = siblings.difference(&config.reserved_cpus);
            if left.len() > 1 {
                return Err(format!("core {core} serves {tenants:?}"));
            }
        }
    }
    Ok(())
}

/// Whether each control group has what those below it have.
fn check_cgroups(plan: &Plan) -> Result<(), String> {
    for group in &plan.cgroups {
        let inside = format!("{}/", group.path);
        let below = || {
            plan.cgroups
                .iter()
                .filter(|g| g.path.strip_prefix(&inside).is_some_and(|rest| !rest.contains('/')))
        };
        let min: u64 = below().map(|g| g.memory_min.bytes()).sum();
        if min > group.memory_min.bytes() || group.memory_min > group.memory_max {
            return Err(format!(
                "{} guarantees {}, those below it {min}",
                group.path, group.memory_min
            ));
        }
        if let Some(outside) = below().find(|g| !g.cpus.is_subset(&group.cpus)) {
            return Err(format!(
                "{} has CPUs {}, {} {}",
                group.path, group.cpus, outside.path, outside.cpus
            ));
        }
        if group.cpus.is_empty() {
            return Err(format!("{} has no CPU, which means all", group.path));
        }
        if !(1..=10_000).contains(&group.weight) {
            return Err(format!("{} weighs {}", group.path, group.weight));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn promises_are_kept(host in any_host(), sections in any_file()) {
        let Some(config) = config(&sections) else { return Ok(()) };
        let plan = planned(&config, &host, &Present::default());
        let mut checks = vec![check_cpus(&config, &host, &plan)];
        if plan.is_admitted() {
            prop_assert_eq!(plan.allocations.len(), config.guests.len());
            checks.push(check_sums(&config, &host, &plan));
            checks.push(check_siblings(&config, &host, &plan));
            checks.push(check_cgroups(&plan));
        } else {
            prop_assert!(plan.conflicts.iter().all(|conflict| !conflict.keys.is_empty()));
        }
        for check in checks {
            prop_assert!(check.is_ok(), "{}\n{}\n{plan:#?}", check.unwrap_err(), sections.concat());
        }
    }

    #[test]
    fn the_order_of_the_file_has_no_influence(
        host in any_host(),
        (sections, shuffled) in any_file().prop_flat_map(|file| (Just(file.clone()), Just(file).prop_shuffle())),
    ) {
        let (Some(one), Some(other)) = (config(&sections), config(&shuffled)) else { return Ok(()) };
        let empty = Present::default();
        let (one_plan, other_plan) = (planned(&one, &host, &empty), planned(&other, &host, &empty));
        prop_assert_eq!(&one_plan, &other_plan);
        if let Some(present) = empty.after(&one_plan, &one, &host, false) {
            prop_assert_eq!(planned(&one, &host, &present), planned(&other, &host, &present));
        }
    }

    #[test]
    fn nothing_is_left_to_do_after_a_plan(host in any_host(), sections in any_file()) {
        let Some(config) = config(&sections) else { return Ok(()) };
        let plan = planned(&config, &host, &Present::default());
        let Some(present) = Present::default().after(&plan, &config, &host, false) else { return Ok(()) };
        let again = planned(&config, &host, &present);
        prop_assert!(again.is_admitted() && again.actions.is_empty(), "{again:#?}");
        prop_assert_eq!(&again.allocations, &plan.allocations);
        // The record survives being written down.
        let text = serde_json::to_string(&present).unwrap();
        prop_assert_eq!(serde_json::from_str::<Present>(&text).unwrap(), present);
    }

    #[test]
    fn a_vm_that_is_added_moves_nobody(host in any_host(), sections in any_file(), more in any_vm()) {
        let Some(before) = config(&sections) else { return Ok(()) };
        let first = planned(&before, &host, &Present::default());
        let Some(present) = Present::default().after(&first, &before, &host, false) else { return Ok(()) };
        let mut sections = sections;
        // First by name, and so first in every order but that of who is there already.
        sections.push(format!("[vm.a]\n{more}"));
        let Some(after) = config(&sections) else { return Ok(()) };
        let second = planned(&after, &host, &present);
        for (name, allocation) in &first.allocations {
            let Some(now) = second.allocations.get(name) else { continue };
            if let CpuShare::Dedicated { .. } = before.guests[name].cpu {
                prop_assert_eq!(&now.cpus, &allocation.cpus);
            }
        }
        prop_assert!(second.conflicts.iter().all(|conflict| {
            conflict.vms.iter().all(|vm| !before.guests.contains_key(vm) || conflict.code == crate::config::Code::CpuOvercommit
                || conflict.code == crate::config::Code::SmtSibling)
        }), "{:#?}", second.conflicts);
        check_cpus(&after, &host, &second).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn hosts_that_shrink_and_files_that_change_never_confuse_it(
        hosts in (any_host(), any_host()),
        files in (any_file(), any_file()),
        prune: bool,
    ) {
        let (Some(before), Some(after)) = (config(&files.0), config(&files.1)) else { return Ok(()) };
        let first = planned(&before, &hosts.0, &Present::default());
        let Some(present) = Present::default().after(&first, &before, &hosts.0, false) else { return Ok(()) };
        let second = plan(&after, &hosts.1, &present, Options { prune });
        check_cpus(&after, &hosts.1, &second).map_err(TestCaseError::fail)?;
        if let Some(present) = present.after(&second, &after, &hosts.1, prune) {
            let third = plan(&after, &hosts.1, &present, Options { prune });
            prop_assert!(!third.has_changes(), "{third:#?}");
        }
    }
}

#[test]
fn most_small_files_fit_so_that_the_properties_mean_something() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut fit, mut all) = (0, 0);
    for _ in 0..200 {
        let (host, file) = (any_host(), any_file()).new_tree(&mut runner).unwrap().current();
        let Some(config) = config(&file) else { continue };
        all += 1;
        fit += u32::from(planned(&config, &host, &Present::default()).is_admitted());
    }
    assert!(fit > 15 && all > 100, "{fit} of {all}");
}

fn big_host() -> Host {
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/plan/golden/hosts/big.json");
    Host::from_json(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_big_host_is_divided_by_nodes_and_whole_cores() {
    let mut file = String::from(
        "[host]\nreserve = { cpus = \"0-3,128-131\", memory = \"32GiB\" }\n[defaults]\nkernel = \"/k\"\n",
    );
    for n in 0..7 {
        write!(file, "[vm.d{n}]\nvcpus = 32\ncpu = \"dedicated\"\nmemory = \"64GiB\"\n").unwrap();
    }
    let config = config(&[file]).unwrap();
    let plan = planned(&config, &big_host(), &Present::default());
    assert!(plan.is_admitted(), "{:?}", plan.conflicts);
    for allocation in plan.allocations.values() {
        let HostCpus::Dedicated { cpus, pins, nodes, placed, .. } = &allocation.cpus else {
            panic!()
        };
        assert_eq!((cpus.len(), nodes.len(), *placed), (32, 1, Placed::OneNode));
        // Siblings beside each other.
        assert!(pins.chunks(2).all(|pair| pair[0] + 128 == pair[1]), "{pins:?}");
    }
    assert_eq!(plan.capacity.largest.dedicated, 24);
}

#[test]
fn how_many_more_is_what_a_plan_admits() {
    let file = "[host]\nreserve.cpus = \"0\"\n[vm.a]\nkernel = \"/k\"\ncpu = \"dedicated\"\nmemory = \"256MiB\"\n";
    let config = config(&[file.to_owned()]).unwrap();
    let guest = config.guests.values().next().unwrap();
    assert_eq!(how_many_more(&config, &host(2, 4, 1, false), &Present::default(), guest), 6);
    // Memory runs out first: 4 GiB hold 14 of 256 MiB with 18 MiB for each VMM.
    assert_eq!(how_many_more(&config, &host(1, 64, 1, false), &Present::default(), guest), 13);
}

#[test]
fn pools_on_one_file_system_share_what_it_holds() {
    let config = config(&["[host]\nreserve.cpus = \"0\"\n[pool.a]\npath = \"/a\"\n[pool.b]\npath = \"/b\"\n\
        [tenant.t]\nstorage = { b = \"3GiB\" }\n\
        [vm.x]\nkernel = \"/k\"\nmemory = \"64MiB\"\ndisk.d = { pool = \"a\", size = \"2GiB\", preallocate = true }\n\
        disk.e = { pool = \"b\", size = \"2GiB\", preallocate = true }\n"
        .to_owned()])
    .unwrap();
    let on = |ids: [&str; 2], gib: u64, free: u64| {
        let file_system = |id: &str| FileSystem {
            size: Size::from_mib(gib * 1024),
            free: Size::from_mib(free * 1024),
            device: None,
            id: Some(id.to_owned()),
        };
        let [a, b] = ids.map(file_system);
        let host = Host {
            file_systems: [("/a".into(), a), ("/b".into(), b)].into(),
            ..host(2, 4, 1, false)
        };
        let plan = planned(&config, &host, &Present::default());
        let codes: Vec<_> = plan.conflicts.iter().map(|c| c.code.to_string()).collect();
        (codes, plan.capacity.pools["a".parse::<Name>().as_ref().unwrap()].left >> 30)
    };
    assert_eq!(on(["8:1", "8:2"], 6, 6), (Vec::new(), 4));
    assert_eq!(on(["8:1", "8:1"], 8, 8), (Vec::new(), 1));
    // 7 GiB are promised of both together, though neither alone is too full.
    assert_eq!(on(["8:1", "8:1"], 6, 6), (vec!["pool-full".to_owned()], 0));
    // Both take 2 GiB of it at once.
    assert_eq!(on(["8:1", "8:2"], 8, 3).0.len(), 0);
    assert_eq!(on(["8:1", "8:1"], 8, 3).0, ["pool-space"]);
}

#[test]
fn the_example_fits_the_host_it_is_for() {
    let text = include_str!("../../../examples/two-tenants.toml");
    let config = config(&[text.to_owned()]).unwrap();
    let folder = "/srv/carve".into();
    let size = Size::from_mib(8192);
    let file_system = FileSystem { size, free: size, device: None, id: None };
    let host = Host { file_systems: [(folder, file_system)].into(), ..host(2, 4, 1, false) };
    let plan = planned(&config, &host, &Present::default());
    assert!(plan.is_admitted() && plan.notes.is_empty(), "{:#?} {:?}", plan.conflicts, plan.notes);
    assert_eq!(plan.actions.len(), 6);
}
