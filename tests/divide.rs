//! Planning from outside: files, layers, inventories, exit codes, JSON. Needs no KVM.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const HOST: &str = include_str!("../resources/src/plan/golden/hosts/plain.json");
const FILE: &str = "[host]\nreserve = { cpus = \"0\", memory = \"1GiB\" }\n\
                    [tenant.acme]\ncpus = 4\nmemory = \"4GiB\"\n[defaults]\nkernel = \"vmlinuz\"\n\
                    [vm.db]\ntenant = \"acme\"\nvcpus = 2\ncpu = \"dedicated\"\nmemory = \"1GiB\"\n\
                    [vm.web]\ntenant = \"acme\"\ncount = 2\ncpu = { min = 0.5, max = 1 }\n";

/// A folder with a host file and the inventory of a host.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("host.json"), HOST).unwrap();
    fs::write(folder.path().join("carve.toml"), FILE).unwrap();
    folder
}

/// How `carve` ended: its exit code, and what it said on either output.
fn carve(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carve"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).env_remove("CARVE_SET");
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn json(folder: &Path, arguments: &[&str]) -> (i32, Value) {
    let (code, out, err) = carve(folder, &[arguments, &["--format", "json"]].concat());
    (code, serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}")))
}

const FOR_HOST: [&str; 3] = ["carve.toml", "--inventory", "host.json"];

#[test]
fn a_plan_says_what_each_vm_gets_and_that_there_is_something_to_do() {
    let folder = folder();
    let (code, out, err) = carve(folder.path(), &[&["plan"][..], &FOR_HOST].concat());
    assert_eq!((code, err.as_str()), (2, ""), "{out}");
    assert!(out.contains("db     create  CPUs 1-2 of node 0 for itself; memory 1GiB"), "{out}");
    assert!(out.contains("web-2  create  0.5 to 1 of the shared CPUs 3-7; memory 512MiB"), "{out}");
    assert!(out.ends_with("3 create. Nothing has been done; carve apply does it.\n"), "{out}");

    let (code, plan) = json(folder.path(), &[&["plan"][..], &FOR_HOST].concat());
    assert_eq!((code, &plan["admitted"], &plan["version"]), (2, &true.into(), &1.into()));
    assert_eq!(plan["allocations"]["db"]["cpus"]["dedicated"]["pins"], serde_json::json!([1, 2]));
}

#[test]
fn without_vms_there_is_nothing_to_do() {
    let folder = folder();
    fs::write(folder.path().join("carve.toml"), "version = 1\n").unwrap();
    let (code, out, _) = carve(folder.path(), &[&["plan"][..], &FOR_HOST].concat());
    assert_eq!((code, out.as_str()), (0, "Nothing to do.\n"));
}

#[test]
fn what_does_not_fit_is_refused_with_all_reasons_in_both_forms() {
    let folder = folder();
    fs::create_dir(folder.path().join("carve.d")).unwrap();
    let drop_in = "[vm.db]\nvcpus = 9\n[tenant.acme]\nmemory = \"64GiB\"\n";
    fs::write(folder.path().join("carve.d/10-more.toml"), drop_in).unwrap();
    let plan = [&["plan"][..], &FOR_HOST].concat();
    let (code, out, err) = carve(folder.path(), &plan);
    assert_eq!(code, 1, "{out}");
    assert!(err.contains("carve: error: carve.d/10-more.toml:2:9: db needs 9 CPUs"), "{err}");
    assert!(err.contains("carve.d/10-more.toml:4:10: tenant acme reserves 64GiB"), "{err}");
    let (code, plan) = json(folder.path(), &plan);
    let codes: Vec<_> =
        plan["problems"].as_array().unwrap().iter().map(|p| p["code"].as_str().unwrap()).collect();
    assert_eq!((code, codes), (1, vec!["cpu-full", "memory-full"]));
    assert_eq!(plan["problems"][0]["location"]["line"], 2);
    assert_eq!(plan["problems"][0]["shortage"]["asked"], "9 CPUs");
}

#[test]
fn a_file_that_is_wrong_is_refused_and_one_that_is_not_there_an_error() {
    let folder = folder();
    fs::write(folder.path().join("carve.toml"), "[vm.db]\nvcpu = 2\n").unwrap();
    let (code, plan) = json(folder.path(), &[&["plan"][..], &FOR_HOST].concat());
    assert_eq!((code, &plan["problems"][0]["code"]), (1, &"unknown-key".into()));
    let (code, _, err) = carve(folder.path(), &["plan", "none.toml"]);
    assert!(code == 125 && err.contains("none.toml cannot be read"), "{err}");
    let (code, _, err) = carve(folder.path(), &["plan", "carve.toml", "--inventory", "carve.toml"]);
    assert!((1..=125).contains(&code) && !err.is_empty(), "{err}");
}

#[test]
fn flags_win_and_every_value_has_an_origin() {
    let folder = folder();
    let show = ["config", "show", "carve.toml", "--origin", "--set", "host.reserve.cpus=0-1"];
    let (code, out, _) = carve(folder.path(), &show);
    let line = |key: &str| out.lines().find(|line| line.starts_with(key)).unwrap_or_default();
    assert_eq!(code, 0);
    assert!(line("host.reserve.cpus = \"0-1\"").ends_with("# --set:1"), "{out}");
    assert!(line("host.reserve.memory").ends_with("# carve.toml:2"), "{out}");
    assert!(line("host.overcommit.cpu = 1").ends_with("# built-in"), "{out}");
}

#[test]
fn capacity_and_why_explain_the_same_plan() {
    let folder = folder();
    let capacity = [&["capacity", "--like", "web"][..], &FOR_HOST].concat();
    let (code, out, err) = carve(folder.path(), &capacity);
    assert!(code == 0 && out.contains("acme: CPUs"), "{out}{err}");
    // The tenant has one CPU left, half of which each takes.
    assert!(out.ends_with("2 more VMs like web fit.\n"), "{out}");
    let (code, why, err) = carve(folder.path(), &[&["why", "db"][..], &FOR_HOST].concat());
    assert!(code == 0 && why.contains("vCPU 1 on CPU 2"), "{why}{err}");
    assert!(why.contains("/sys/fs/cgroup/carve.slice/carve-acme.slice/carve-db.scope"), "{why}");
    assert!(why.contains("cpuset.cpus = 1-2"), "{why}");
    let (code, _, err) = carve(folder.path(), &[&["why", "none"][..], &FOR_HOST].concat());
    assert!(code == 125 && err.contains("no VM none"), "{err}");
}

#[test]
fn the_inventory_of_this_machine_can_be_planned_for() {
    let folder = folder();
    let (code, out, _) = carve(folder.path(), &["inventory", "--folder", "/"]);
    assert_eq!(code, 0);
    fs::write(folder.path().join("host.json"), &out).unwrap();
    fs::write(folder.path().join("carve.toml"), "version = 1\n").unwrap();
    assert_eq!(carve(folder.path(), &[&["plan"][..], &FOR_HOST].concat()).0, 0);
    assert!(carve(folder.path(), &["inventory", "--format", "table"]).1.contains("NUMA node 0"));
}

#[test]
fn the_schema_is_json_and_knows_the_keys() {
    let (code, out, _) = carve(folder().path(), &["schema"]);
    let schema: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, 0);
    assert!(schema["properties"]["vm"]["additionalProperties"]["properties"]["vcpus"].is_object());
}
