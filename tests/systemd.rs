//! A host that is divided by a file, on which systemd is the first process: control groups are its units, and it disturbs
//! none of them. Runs on an emulated host of 4 CPUs (`cargo xtask host --init systemd --cpus 4`).
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use support::divided::{CGROUPS, Divided, clear_groups, group, has_group, is_run_by_systemd};
use support::host::until;
use support::{payload, tool};

const TWO_TENANTS: &str = r#"
version = 1
[host]
reserve = { cpus = "0", memory = "1GiB" }
overcommit = { cpu = 2 }
[tenant.acme]
cpus = 2
memory = "512MiB"
[tenant.z-and-sons]
cpus = 0.5
memory = "256MiB"
[defaults]
kernel = "halt"
memory = "64MiB"
[vm.db]
tenant = "acme"
cpu = "dedicated"
restart = "always"
[vm.web]
tenant = "acme"
count = 2
cpu = { min = 0.25, max = 0.5 }
[vm.lone]
tenant = "z-and-sons"
cpu = { min = 0.5, max = 1 }
"#;
const SCOPES: [&str; 4] =
    ["carve-db.scope", "carve-lone.scope", "carve-web-1.scope", "carve-web-2.scope"];
const SLICES: [&str; 3] = ["carve.slice", "carve-acme.slice", "carve-z\\x2dand\\x2dsons.slice"];

/// A property of a unit, in the words of systemd.
fn property(unit: &str, name: &str) -> String {
    let arguments = ["show", "--value", "--property", name, "--", unit];
    let output = Command::new("systemctl").args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// Whether all of them are.
fn are_active(units: &[&str]) -> bool {
    let output = Command::new("systemctl").args(["is-active", "--"]).args(units).output().unwrap();
    let states = String::from_utf8(output.stdout).unwrap();
    states.lines().count() == units.len() && states.lines().all(|state| state == "active")
}

fn is_active(unit: &str) -> bool {
    are_active(&[unit])
}

/// The control group of a process.
fn place(pid: i64) -> String {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap().trim().to_owned()
}

fn runs_here() -> bool {
    let runs = is_run_by_systemd() && support::am_root();
    if !runs {
        eprintln!("skipped: the first process of this machine is not systemd");
    }
    runs
}

#[test]
fn groups_are_units_that_are_limited_changed_and_ended_by_systemd() {
    if !runs_here() {
        return;
    }
    let divided = Divided::new();
    divided.write(TWO_TENANTS);
    divided.apply();
    divided.verify();
    assert!(are_active(&SLICES) && are_active(&SCOPES));
    let [db, web] = ["db", "web-1"].map(|name| divided.pid(name));
    assert_eq!(place(db), "0::/carve.slice/carve-acme.slice/carve-db.scope");
    assert_eq!(property("carve-db.scope", "Delegate"), "yes");
    assert!(property("carve-db.scope", "Before").contains("carve.service"));
    assert_eq!(property("carve-lone.scope", "Slice"), SLICES[2]);
    assert_eq!(property("carve.slice", "AllowedCPUs"), "1-3");
    assert_eq!(property("carve-web-1.scope", "CPUQuotaPerSecUSec"), "500ms");
    // No process of the host runs on CPUs of VMs.
    assert_eq!(group("cpuset.cpus.partition"), "root");
    let others = fs::read_to_string("/sys/fs/cgroup/system.slice/cpuset.cpus.effective").unwrap();
    assert_eq!(others.trim(), "0");

    // What systemd does to its units when it reads them again, it does to ours.
    tool("systemctl daemon-reload");
    divided.verify();
    assert_eq!([divided.pid("db"), divided.pid("web-1")], [db, web]);
    assert_eq!(place(db), "0::/carve.slice/carve-acme.slice/carve-db.scope");

    // Live, and what somebody else changed is put right.
    divided.write(
        &TWO_TENANTS.replace("max = 0.5 }", "max = 0.75 }").replace("count = 2", "count = 1"),
    );
    tool("systemctl set-property --runtime carve-acme.slice CPUWeight=1");
    let said = divided.carve("verify");
    assert!(said.code == 1 && said.out.contains("carve-acme.slice/cpu.weight"), "{said:?}");
    divided.carve("apply -t 0 --prune carve.toml").ok();
    divided.verify();
    assert_eq!(property("carve-web-1.scope", "CPUQuotaPerSecUSec"), "750ms");
    assert_eq!(divided.pid("web-1"), web);
    until(|| !has_group("carve-acme.slice/carve-web-2.scope"));

    // A VMM that is killed is started again, in a scope of its own; a guest of a command is not.
    divided.host.kill_9("db", &["pid"]);
    until(|| divided.host.state("db") == "running" && divided.pid("db") != db);
    divided.carve("run -d --name extra --kernel halt --memory 32MiB").ok();
    assert_eq!(place(divided.pid("extra")), "0::/carve.slice/carve-extra.scope");
    divided.verify();
    divided.host.kill_9("extra", &["monitor_pid", "pid"]);
    until(|| !has_group("carve-extra.scope"));
    until(|| property("carve-extra.scope", "LoadState") == "not-found");
    divided.carve("start extra").ok();
    assert!(is_active("carve-extra.scope"));
    divided.carve("rm -f extra").ok();
    until(|| property("carve-extra.scope", "LoadState") == "not-found");

    // Who is down keeps its share, which is its tenant's; of the VMs nothing is left.
    divided.carve("down -t 0").ok();
    until(|| SCOPES.iter().all(|scope| property(scope, "LoadState") == "not-found"));
    assert!(are_active(&SLICES));
    divided.verify();
    divided.write("version = 1\n");
    divided.carve("apply -t 0 --prune carve.toml").ok();
    assert!(!is_active(SLICES[1]) && !is_active(SLICES[2]) && !has_group("carve-acme.slice"));
}

/// The service that is shipped, for the host file of a test, on a host where little else is; and what ends it and all
/// scopes in one transaction, as a shutdown does.
fn install_service(divided: &Divided) {
    let unit = include_str!("../dist/systemd/carve.service");
    let carve = support::carve().get_program().to_string_lossy().into_owned();
    let file = divided.path("carve.toml").display().to_string();
    let unit = unit
        .replace("/usr/bin/carve apply", &format!("{carve} apply {file}"))
        .replace("/usr/bin/carve", &carve)
        .replace("/etc/carve/carve.toml", &file)
        .replace("--timeout 90", "--timeout 6")
        .replace("[Unit]", "[Unit]\nDefaultDependencies=no")
        .replace(
            "[Service]",
            &format!("[Service]\nEnvironment=CARVE_ROOT={}", divided.path("").display()),
        );
    let end = "[Unit]\nDefaultDependencies=no\nConflicts=carve.slice carve.service\n";
    let folder = Path::new("/run/systemd/system");
    fs::write(folder.join("carve.service"), unit).unwrap();
    fs::write(folder.join("carve-end.target"), end).unwrap();
    tool("systemctl daemon-reload");
}

#[test]
fn the_service_starts_the_vms_of_the_file_and_stops_them_all_at_once() {
    if !runs_here() {
        return;
    }
    let divided = Divided::new();
    divided.write(TWO_TENANTS);
    install_service(&divided);
    let names = ["db", "lone", "web-1", "web-2"];
    tool("systemctl start carve.service");
    assert!(names.iter().all(|name| divided.host.state(name) == "running"));
    divided.verify();
    // Their scopes hold them, not the service: it may be gone.
    assert_eq!(place(divided.pid("lone")).rsplit('/').next(), Some("carve-lone.scope"));

    // These guests look at no power button. Each is given its six seconds, but all the same ones.
    let begun = Instant::now();
    tool("systemctl stop carve.service");
    let took = begun.elapsed().as_secs();
    assert!((6..22).contains(&took), "{took} s");
    assert!(names.iter().all(|name| divided.host.state(name) == "exited"));
    until(|| SCOPES.iter().all(|scope| property(scope, "LoadState") == "not-found"));
    assert_eq!(property("carve.service", "Result"), "success");

    // After a boot there are no units but the service, which also starts guests of commands that want it.
    divided.carve("run -d --name extra --restart always --kernel halt --memory 32MiB").ok();
    divided.host.kill_9("extra", &["monitor_pid", "pid"]);
    // Its clerk gives its share back, for which it lowers what all are held to.
    until(|| divided.host.processes().is_empty());
    tool("systemctl stop carve.slice");
    fs::remove_dir_all(divided.path("run")).unwrap();
    assert!(!Path::new("/sys/fs/cgroup/carve.slice").exists());
    tool("systemctl start carve.service");
    until(|| is_active("carve-extra.scope"));
    divided.carve("rm -f extra").ok();
    assert!(names.iter().all(|name| divided.host.state(name) == "running"));
    divided.verify();
    // As at a shutdown, where all units are to end: the scopes wait for the service, which gives guests their time.
    let begun = Instant::now();
    tool("systemctl start carve-end.target");
    until(|| !is_active("carve.slice"));
    assert!(begun.elapsed().as_secs() >= 6, "{:?}", begun.elapsed());
    assert!(names.iter().all(|name| divided.host.state(name) == "exited"));
    assert_eq!(property("carve.service", "Result"), "success");
}

/// Root's own guests and those of tenants' users, which go with it.
struct System(tempfile::TempDir);

impl System {
    fn command(line: &str) -> Command {
        let mut command = support::carve();
        command.env_remove("CARVE_ROOT").args(line.split_whitespace());
        command
    }

    #[track_caller]
    fn carve(line: &str) -> String {
        said(Self::command(line))
    }

    fn apply(&self, file: &str) {
        let path = self.0.path().join("carve.toml");
        fs::write(&path, file).unwrap();
        Self::carve(&format!("apply -t 0 --prune {}", path.display()));
    }
}

impl Drop for System {
    fn drop(&mut self) {
        clear_groups();
        self.apply("version = 1\n");
        clear_groups();
    }
}

#[track_caller]
fn said(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_a_tenants_user_starts_is_in_a_scope_of_the_tenants() {
    if !runs_here() {
        return;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    fs::write("/etc/passwd", users + "ada:x:4001:4001::/home/ada:/bin/sh\n").unwrap();
    tool("install -d -o 4001 -g 4001 /home/ada");
    tool("chmod 666 /dev/kvm");
    let system = System(tempfile::tempdir_in("/srv").unwrap());
    tool(&format!("chmod 755 {}", system.0.path().display()));
    let kernel = system.0.path().join("halt");
    payload::write_elf(payload::halt(), &kernel);
    let file = format!(
        "[host]\nreserve = {{ cpus = \"0\", memory = \"1GiB\" }}\n\
         [tenant.acme]\nuser = \"ada\"\ncpus = 2\nmemory = \"512MiB\"\n\
         [defaults]\nkernel = \"{}\"\nmemory = \"64MiB\"\n[vm.db]\ntenant = \"acme\"\n",
        kernel.display()
    );
    system.apply(&file);
    let scope = "carve-acme:users.scope";
    assert!(!is_active(scope));
    // The first session makes it; it is held to what db leaves.
    let carve = support::carve().get_program().to_string_lossy().into_owned();
    let as_ada = |line: &str| {
        let mut command = System::command("enter acme sh -c");
        command.arg(line.replace("carve ", &format!("{carve} ")));
        said(command)
    };
    let run = format!("carve run -d --name x --memory 64MiB --kernel {}", kernel.display());
    as_ada(&format!("{run} && carve verify && cat /proc/self/cgroup"));
    assert!(is_active(scope));
    assert_eq!(property(scope, "CPUWeight"), "5000");
    let own = format!("carve-acme.slice/{scope}/carve-x.scope");
    assert_eq!(group(&format!("{own}/cpu.max")), "100000 100000");
    // It outlives the session, and what systemd reads again.
    tool("systemctl daemon-reload");
    as_ada("carve verify");
    let place = as_ada("cat /proc/self/cgroup");
    assert_eq!(place.trim(), format!("0::/carve.slice/carve-acme.slice/{scope}/sessions"));
    // Its limits are not the user's to change, nor those of the tenant.
    for file in [format!("{scope}/memory.max"), "memory.max".into(), "cgroup.procs".into()] {
        let line = format!("! echo max > {CGROUPS}/carve-acme.slice/{file}");
        as_ada(&format!("sh -c {line:?} 2>/dev/null"));
    }
    System::carve("verify");
    system.apply(&file.replace("cpus = 2", "cpus = 3"));
    assert_eq!(property(scope, "CPUWeight"), "6667");
    as_ada("carve rm -f x");
    until(|| property(scope, "LoadState") == "not-found");
    system.apply("version = 1\n");
    assert!(!is_active("carve-acme.slice"));
}
