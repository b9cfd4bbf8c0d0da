//! A host that is divided by a file: what the kernel is told, what it does about it, and what is left when
//! everything is over. Runs on an emulated host of 8 CPUs and 2 NUMA nodes (`cargo xtask host --cpus 8
//! --nodes 2`), of which control groups are this test's.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use support::divided::{
    CGROUPS, Divided, assert_within, clear_groups, group, has_group, rates, remove_groups,
};
use support::host::{Said, until};
use support::payload;

/// CPUs that each thread of a process may run on, by its name.
fn affinities(pid: i64) -> Vec<(String, String)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let of = |path: PathBuf| {
        let status = fs::read_to_string(path.join("status")).unwrap_or_default();
        let value = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap_or_default().trim().to_owned()
        };
        (value("Name:"), value("Cpus_allowed_list:"))
    };
    tasks.map(|entry| of(entry.path())).collect()
}

const TWO_TENANTS: &str = r#"
version = 1
[host]
reserve = { cpus = "0", memory = "1GiB" }
overcommit = { cpu = 2 }
[pool.fast]
path = "pool"
size = "1GiB"
[tenant.acme]
cpus = 4
memory = "1GiB"
storage = { fast = "512MiB" }
[tenant.zeta]
cpus = 1
memory = "512MiB"
[defaults]
kernel = "halt"
memory = "64MiB"
[vm.db]
tenant = "acme"
vcpus = 2
cpu = "dedicated"
restart = "always"
disk.root = { pool = "fast", size = "64MiB" }
[vm.web]
tenant = "acme"
count = 2
cpu = { min = 0.25, max = 0.5 }
after = ["db"]
[vm.lone]
tenant = "zeta"
cpu = { min = 0.5, max = 1 }
"#;

#[test]
fn a_file_is_carried_out_read_back_changed_and_undone() {
    let divided = Divided::new();
    divided.write(TWO_TENANTS);
    assert_eq!(divided.carve("plan carve.toml").code, 2);
    let said = divided.apply();
    let at = |line: &str| {
        said.lines().position(|other| other == line).unwrap_or_else(|| panic!("{said}"))
    };
    assert!(at("db: created") < at("web-1: created") && at("lone: created") < 4, "{said}");
    assert_eq!(divided.carve("plan carve.toml").code, 0);
    divided.verify();

    // Not only by Carve's own word.
    assert_eq!(group("cpuset.cpus.partition"), "root");
    assert_eq!(group("cpuset.cpus.effective"), "1-7");
    let db = group("carve-acme.slice/carve-db.scope/cpuset.cpus.effective");
    let shared = group("carve-acme.slice/carve-web-1.scope/cpuset.cpus.effective");
    assert_eq!((db.as_str(), shared.as_str()), ("1-2", "3-7"));
    assert_eq!(group("carve-acme.slice/carve-web-2.scope/cpu.max"), "50000 100000");
    assert_eq!(group("carve-acme.slice/memory.min"), (1u64 << 30).to_string());
    let pid = divided.pid("db");
    // Up to Linux 6.12 a thread of KVM's is there, too.
    let processes = group("carve-acme.slice/carve-db.scope/cgroup.procs");
    assert!(processes.lines().any(|line| line == pid.to_string()), "{processes}");
    for (thread, cpus) in affinities(pid) {
        let expected = match thread.as_str() {
            "vcpu0" => "1",
            "vcpu1" => "2",
            _ => "1-2",
        };
        assert_eq!(cpus, expected, "{thread}");
    }
    assert_eq!(fs::metadata(divided.path("pool/db.root.img")).unwrap().len(), 64 << 20);

    // Live, and with a restart; web-2 goes, its name from the file and then itself.
    let before = (divided.pid("lone"), divided.pid("web-1"));
    let changed = TWO_TENANTS
        .replace("max = 0.5 }", "max = 0.75 }")
        .replace("64MiB\" }", "96MiB\" }")
        .replace("count = 2", "count = 1")
        .replace("tenant = \"zeta\"", "tenant = \"zeta\"\nmemory = \"96MiB\"");
    divided.write(&changed);
    let plan: Value =
        serde_json::from_str(&divided.carve("plan carve.toml --format json").out).unwrap();
    let kinds: Vec<_> = plan["actions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|action| (action["vm"].as_str().unwrap(), action["kind"].as_str().unwrap()))
        .collect();
    assert_eq!(
        kinds,
        [("db", "change"), ("lone", "restart"), ("web-1", "change"), ("web-2", "gone")]
    );
    divided.carve("apply -t 0 carve.toml").ok();
    divided.verify();
    assert_eq!(divided.pid("web-1"), before.1);
    assert_ne!(divided.pid("lone"), before.0);
    assert_eq!(group("carve-acme.slice/carve-web-1.scope/cpu.max"), "75000 100000");
    assert_eq!(fs::metadata(divided.path("pool/db.root.img")).unwrap().len(), 96 << 20);
    assert_eq!(divided.host.state("web-2"), "running");
    assert_eq!(divided.carve("apply -t 0 --prune carve.toml").ok(), "web-2: removed");
    assert_eq!(divided.host.state("web-2"), "none");
    assert!(!has_group("carve-acme.slice/carve-web-2.scope"));

    // What somebody changed behind Carve's back is found, and put right.
    fs::write(Path::new(CGROUPS).join("carve-acme.slice/carve-web-1.scope/cpu.max"), "max")
        .unwrap();
    let said = divided.carve("verify");
    assert!(said.code == 1 && said.out.contains("web-1: carve.slice/carve-acme.slice/carve-web-1.scope/cpu.max: expected 75000 100000, found max 100000"), "{said:?}");

    let down = divided.carve("down -t 0").ok();
    assert!(down.find("web-1: stopped") < down.find("db: stopped"), "{down}");
    assert!(["db", "lone", "web-1"].iter().all(|name| divided.host.state(name) == "exited"));
    divided.apply();
    divided.verify();
    divided.write("version = 1\n");
    let gone = divided.carve("apply -t 0 --prune carve.toml").ok();
    assert_eq!(gone.lines().count(), 3, "{gone}");
    assert!(divided.host.guests().is_empty());
    assert!(divided.path("pool/db.root.img").exists(), "disks stay");
    assert!(!has_group("carve-acme.slice"));
}

#[test]
fn what_does_not_fit_is_refused_with_every_reason_and_nothing_is_done() {
    let divided = Divided::new();
    divided.write(
        "[host]\nreserve = { cpus = \"0\" }\n[defaults]\nkernel = \"halt\"\n\
         [vm.a]\nvcpus = 9\ncpu = \"dedicated\"\n[vm.b]\nmemory = \"900GiB\"\n[vm.c]\n",
    );
    let said = divided.carve("apply carve.toml");
    assert_eq!(said.code, 1, "{said:?}");
    for word in
        ["[cpu-full]", "[memory-full]", "carve.toml:6:9", "carve.toml:9:10", "largest that fits"]
    {
        assert!(said.err.contains(word), "no {word} in {said:?}");
    }
    assert!(divided.host.guests().is_empty() && !Path::new(CGROUPS).exists());
}

#[test]
fn a_vm_that_cannot_start_blocks_those_after_it_and_the_next_apply_goes_on() {
    let divided = Divided::new();
    let file = "[host]\nreserve = { cpus = \"0\" }\n[defaults]\nkernel = \"halt\"\nmemory = \"64MiB\"\n\
                [vm.a]\nkernel = \"missing\"\n[vm.b]\nafter = [\"a\"]\n[vm.c]\n";
    divided.write(file);
    let said = divided.carve("apply carve.toml");
    assert_eq!((said.code, said.out.as_str()), (1, "c: created\n"), "{said:?}");
    assert!(
        said.err.contains("a: create: the guest a could not be started")
            && said.err.contains("missing"),
        "{said:?}"
    );
    assert!(said.err.contains("b: create: it comes after a, which failed"), "{said:?}");
    divided.write(&file.replace("missing", "halt"));
    let said = divided.apply();
    assert!(said.contains("a: started") && said.contains("b: "), "{said}");
    divided.verify();
    assert_eq!(divided.host.guests().len(), 3);
}

#[test]
fn guests_of_commands_fit_beside_the_file_and_give_back_what_they_had() {
    let divided = Divided::new();
    divided.write(
        "[host]\nreserve = { cpus = \"0\", memory = \"1GiB\" }\n[defaults]\nkernel = \"halt\"\nmemory = \"64MiB\"\n\
         [vm.a]\nvcpus = 4\ncpu = \"dedicated\"\n",
    );
    divided.apply();
    let booked = || -> Vec<String> {
        let ledger: Value =
            serde_json::from_slice(&fs::read(divided.path("state/ledger.json")).unwrap()).unwrap();
        ledger["present"]["bookings"].as_object().unwrap().keys().cloned().collect()
    };
    let run = |name: &str, flags: &str| {
        divided.carve(&format!("run -d --name {name} --kernel halt --memory 64MiB {flags}"))
    };
    run("x", "--cpus 2").ok();
    assert_eq!(booked(), ["a", "x"]);
    divided.verify();
    // 7 CPUs, 4 of a's own and 2 promised to x.
    run("y", "--cpus 2").refused(&["no room", "cpu-"]);
    run("a", "").refused(&["taken"]);
    divided.carve("rm -f a").ok();
    run("a", "").refused(&["a VM of the host file"]);
    assert_eq!(divided.apply(), "a: started");
    assert_eq!(divided.host.state("y"), "exited");
    divided.host.kill_9("x", &["pid", "monitor_pid"]);
    divided.carve("start y").ok();
    assert_eq!(booked(), ["a", "y"]);
    assert!(!has_group("carve-x.scope") && has_group("carve-y.scope"));
    divided.carve("rm -f y").ok();
    until(|| booked() == ["a"]);
    assert!(!has_group("carve-y.scope"));
    divided.carve("rename a b").refused(&["host file"]);
}

#[test]
fn many_guests_come_and_are_killed_and_the_ledger_is_exact() {
    let divided = Divided::new();
    divided.write(
        "[host]\nreserve = { cpus = \"0\", memory = \"1GiB\" }\novercommit = { cpu = 64 }\n",
    );
    divided.apply();
    // On an emulated host 200 take six minutes.
    let runs = std::env::var("CARVE_LEDGER_RUNS").map_or(80, |text| text.parse().unwrap());
    let (threads, each) = (8, runs / 8);
    thread::scope(|scope| {
        for thread in 0..threads {
            let divided = &divided;
            scope.spawn(move || {
                for run in 0..each {
                    let name = format!("g{thread}-{run}");
                    divided
                        .carve(&format!("run -d --name {name} --kernel halt --memory 16MiB"))
                        .ok();
                    // Few are left alive, so that they are not what takes the time.
                    match RandomState::new().hash_one(&name) % 8 {
                        0..3 => divided.host.kill_9(&name, &["pid", "monitor_pid"]),
                        3..6 => divided.host.kill_9(&name, &["monitor_pid", "pid"]),
                        6 => divided.host.kill_9(&name, &["monitor_pid"]),
                        _ => {}
                    }
                }
            });
        }
    });
    let live: Vec<String> = divided
        .host
        .guests()
        .iter()
        .filter(|guest| guest["state"] == "running")
        .map(|guest| guest["name"].as_str().unwrap().to_owned())
        .collect();
    assert!(live.len() > runs / 10, "{live:?}");
    divided.verify();
    let ledger: Value =
        serde_json::from_slice(&fs::read(divided.path("state/ledger.json")).unwrap()).unwrap();
    let booked = ledger["present"]["bookings"].as_object().unwrap();
    for name in &live {
        assert!(booked.contains_key(name), "{name} is not booked");
        assert!(has_group(&format!("carve-{name}.scope")));
    }
    for name in live {
        divided.carve(&format!("kill {name}")).ok();
    }
    let capacity: Value =
        serde_json::from_str(&divided.carve("capacity carve.toml --format json").ok()).unwrap();
    assert_eq!(
        (&capacity["cpus"]["promised"], &capacity["memory"]["promised"]),
        (&0.into(), &0.into())
    );
    let left: Vec<_> =
        fs::read_dir(CGROUPS).unwrap().flatten().filter(|entry| entry.path().is_dir()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn cpu_time_is_divided_as_the_file_says() {
    let divided = Divided::new();
    // One CPU for all, on which weights are exact: between CPUs the kernel moves whole threads, and five threads are not
    // divided evenly between two. A quarter for the victim at any rate, whoever else wants it.
    divided.write(
        "[host]\nreserve = { cpus = \"0-6\", memory = \"1GiB\" }\novercommit = { cpu = 6 }\n\
         [defaults]\nkernel = \"spin\"\nmemory = \"32MiB\"\n\
         [tenant.small]\ncpus = 0.25\nmemory = \"256MiB\"\n[tenant.large]\ncpus = 0.75\nmemory = \"512MiB\"\n\
         [vm.victim]\ntenant = \"small\"\ncpu = { min = 0.25, max = 1 }\n\
         [vm.aggressor]\ntenant = \"large\"\ncount = 4\ncpu = { min = 0.15, max = 1 }\n\
         [vm.capped]\nstate = \"stopped\"\ncpu = { min = 0, max = 0.2 }\n",
    );
    divided.apply();
    divided.verify();
    thread::sleep(Duration::from_secs(2));
    let [small, large] = rates(["carve-small.slice", "carve-large.slice"], Duration::from_secs(20));
    assert_within(small / (small + large), 0.245..=0.255, "share of the victim under load");
    divided.carve("stop -t 0 aggressor-1 aggressor-2 aggressor-3 aggressor-4").ok();
    let [alone] = rates(["carve-small.slice"], Duration::from_secs(10));
    assert_within(alone, 0.9..=1.02, "CPUs of the victim alone, which may have one");
    // Beside the victim one that is guaranteed nothing would get next to nothing, and never come near its cap.
    divided.carve("stop -t 0 victim").ok();
    divided.carve("start capped").ok();
    thread::sleep(Duration::from_secs(1));
    let [capped] = rates(["carve-capped.scope"], Duration::from_secs(15));
    assert_within(capped, 0.196..=0.204, "CPUs of one that may have 0.2");
}

#[test]
fn memory_stays_within_its_guest() {
    let divided = Divided::new();
    divided.write(
        "[host]\nreserve = { cpus = \"0\", memory = \"1GiB\" }\n[defaults]\nmemory = \"64MiB\"\n\
         [vm.toucher]\nkernel = \"touch\"\n[vm.victim]\nkernel = \"halt\"\n",
    );
    divided.apply();
    let log = || divided.carve("logs toucher").out;
    until(|| log().len() > 2);
    let number = |path: &str| group(path).parse::<u64>().unwrap();
    let (current, max) =
        (number("carve-toucher.scope/memory.peak"), number("carve-toucher.scope/memory.max"));
    assert!(current > 60 << 20 && current < max, "{current} of {max}");
    let events = group("carve-toucher.scope/memory.events");
    assert!(events.contains("oom_kill 0"), "{events}");
    // The bound of what the VMM needs beside its guest holds, with room to spare.
    assert!(current - (64 << 20) < (max - (64 << 20)) * 3 / 4, "{current} of {max}");
    divided.verify();
}

#[test]
fn after_the_host_restarts_a_start_makes_the_groups_again() {
    let divided = Divided::new();
    // Nobody is to start one again in between.
    divided.write(&TWO_TENANTS.replace("restart = \"always\"\n", ""));
    divided.apply();
    // What a restart leaves: no process, no runtime folder, no group.
    for name in ["db", "lone", "web-1", "web-2"] {
        divided.host.kill_9(name, &["monitor_pid", "pid"]);
    }
    fs::remove_dir_all(divided.path("run")).unwrap();
    for _ in 0..3 {
        remove_groups(Path::new(CGROUPS));
    }
    assert!(!Path::new(CGROUPS).exists());
    divided.carve("start web-1").ok();
    assert_eq!(group("carve-acme.slice/carve-web-1.scope/cpu.max"), "50000 100000");
    assert_eq!(group("cpuset.cpus.partition"), "root");
    divided.apply();
    divided.verify();
}

#[test]
fn a_guest_pauses_while_its_pool_is_full() {
    let divided = Divided::new();
    let pool = divided.path("pool");
    fs::create_dir(&pool).unwrap();
    let mount = |arguments: &[&str]| {
        let mut command = std::process::Command::new("mount");
        assert!(command.args(arguments).arg(&pool).status().unwrap().success());
    };
    mount(&["-t", "tmpfs", "-o", "size=200m", "tmpfs"]);
    divided.write(
        "[host]\nreserve = { cpus = \"0\" }\n[pool.p]\npath = \"pool\"\n[pool.q]\npath = \"pool\"\non_full = \"error\"\n\
         [defaults]\nkernel = \"halt\"\nmemory = \"64MiB\"\n\
         [vm.a]\ndisk.d = { pool = \"p\", size = \"32MiB\" }\n[vm.b]\ndisk.d = { pool = \"q\", size = \"32MiB\" }\n",
    );
    divided.apply();
    fs::write(pool.join("other"), vec![1; 150 << 20]).unwrap();
    until(|| divided.host.state("a") == "paused");
    let events = fs::read_to_string(divided.path("state/events.ndjson")).unwrap();
    assert!(events.contains("\"disk-full\""), "{events}");
    assert_eq!(divided.host.state("b"), "running");
    fs::remove_file(pool.join("other")).unwrap();
    divided.carve("unpause a").ok();
    thread::sleep(Duration::from_secs(5));
    assert_eq!(divided.host.state("a"), "running");
    divided.carve("rm -f a b").ok();
    assert!(std::process::Command::new("umount").arg("-l").arg(&pool).status().unwrap().success());
}

#[test]
fn the_example_divides_a_host_between_stock_kernels() {
    let divided = Divided::new();
    let add = "ip link add br0 type bridge && ip link set br0 up";
    assert!(std::process::Command::new("sh").args(["-c", add]).status().unwrap().success());
    let stock = support::guests::Guest::new(support::guests::DEFAULT);
    let (kernel, initrd) = (stock.kernel_path(), stock.initrd_path());
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/two-tenants.toml");
    let file = format!(
        "{} --set defaults.kernel={} --set defaults.initrd={} --set pool.fast.path={}",
        example.display(),
        kernel.display(),
        initrd.display(),
        divided.path("pool").display()
    );
    divided.carve(&format!("apply {file}")).ok();
    divided.verify();
    let names = ["build", "db", "test-1", "test-2", "web-1", "web-2"];
    for name in names {
        until(|| divided.carve(&format!("logs {name}")).out.contains("Linux version"));
        assert_eq!(divided.host.state(name), "running");
    }
    assert_eq!(divided.carve(&format!("plan {file}")).code, 0);
    // Another hour of work for the tenant's database: half the CPUs of its web servers.
    let less = format!("{file} --set vm.web.cpu.max=0.75");
    let changed = divided.carve(&format!("apply {less}")).ok();
    assert_eq!(changed.lines().count(), 2, "{changed}");
    divided.verify();
    let mut downs = divided.carve("down -t 0").ok().lines().map(str::to_owned).collect::<Vec<_>>();
    downs.sort();
    assert_eq!(downs, names.map(|name| format!("{name}: stopped")));
}

#[test]
fn rates_and_huge_pages_are_read_back_from_the_guest_itself() {
    let divided = Divided::new();
    let add = "ip link add br5 type bridge && ip link set br5 up && sysctl -q vm.nr_hugepages=80";
    assert!(std::process::Command::new("sh").args(["-c", add]).status().unwrap().success());
    divided.write(
        "[host]\nreserve = { cpus = \"0\", memory = \"1GiB\" }\n[pool.p]\npath = \"pool\"\nsize = \"1GiB\"\n\
         [defaults]\nkernel = \"halt\"\nmemory = \"64MiB\"\n\
         [vm.a]\nhugepages = \"2MiB\"\ndisk.d = { pool = \"p\", size = \"32MiB\", iops = 1000, iops_burst = 50 }\n\
         net.lan = { bridge = \"br5\", bandwidth = \"80Mbit/s\" }\n[vm.b]\nhugepages = \"2MiB\"\n",
    );
    divided.apply();
    divided.verify();
    let differs = |what: &str| {
        let said = divided.carve("verify");
        assert!(said.code == 1 && said.out.contains(what), "no {what:?} in {said:?}");
    };
    let path = "carve.slice/carve-a.scope/hugetlb.2MB.max";
    fs::write(Path::new("/sys/fs/cgroup").join(path), "max").unwrap();
    differs(&format!("a: {path}: expected {}, found max", 64 << 20));
    divided.carve("update a --disk d,iops=2000 --net lan,rx-bandwidth=1Gbit/s").ok();
    differs("a: requests of disk d: expected 1000/s, 50 at once, found 2000/s, 200 at once");
    differs("a: bandwidth to the guest by net lan: expected 10MB/s, found 125MB/s");
    // Put right without a restart.
    let before = divided.pid("a");
    assert_eq!(divided.apply(), "a: changed");
    divided.verify();
    assert_eq!((divided.pid("a"), divided.apply().as_str()), (before, ""));
    // A guest that does not answer is named, and does not hold anybody up.
    let stopped = |signal: &str| {
        let pid = divided.pid("a").to_string();
        std::process::Command::new("kill").args([signal, &pid]).output().unwrap();
    };
    stopped("-STOP");
    differs("a: rates of its devices: expected told by its process, found no answer");
    stopped("-CONT");
    divided.verify();
    divided.carve("stop -t 0 a b").ok();
    fs::write("/proc/sys/vm/nr_hugepages", "40").unwrap();
    differs("huge pages of 2MiB: expected at least 64, found 40");
    fs::write("/proc/sys/vm/nr_hugepages", "0").unwrap();
}

/// What a user of the host, made for the test, gets as an answer of a shell.
struct Someone {
    name: &'static str,
    uid: u32,
}

impl Someone {
    fn new(name: &'static str, uid: u32) -> Self {
        let line = format!("{name}:x:{uid}:{uid}::/home/{name}:/bin/sh\n");
        let list = fs::read_to_string("/etc/passwd").unwrap();
        if !list.contains(&line) {
            fs::write("/etc/passwd", list + &line).unwrap();
        }
        let home = PathBuf::from(format!("/home/{name}"));
        fs::create_dir_all(&home).unwrap();
        std::os::unix::fs::chown(&home, Some(uid), Some(uid)).unwrap();
        Self { name, uid }
    }

    fn said(mut command: std::process::Command) -> Said {
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said {
            code: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    /// In a session as `su` would make it: in the control group of whoever calls.
    fn does(&self, line: &str) -> Said {
        let mut command = std::process::Command::new("setpriv");
        let id = self.uid;
        command.args([format!("--reuid={id}"), format!("--regid={id}"), "--clear-groups".into()]);
        command.args([
            "env",
            "-u",
            "CARVE_ROOT",
            &format!("HOME=/home/{}", self.name),
            "sh",
            "-c",
            line,
        ]);
        Self::said(command)
    }

    /// In a session that root began inside `tenant`.
    fn does_in(tenant: &str, line: &str) -> Said {
        let mut command = support::carve();
        command.env_remove("CARVE_ROOT").args(["enter", tenant, "sh", "-c", line]);
        Self::said(command)
    }
}

/// The host file of the system, where root's guests and those of tenants' users are. All of them go with it.
struct System {
    folder: &'static Path,
}

impl System {
    fn new() -> Self {
        let folder = Path::new("/srv/carve-test");
        fs::create_dir_all(folder).unwrap();
        payload::write_elf(payload::halt(), &folder.join("halt"));
        Self { folder }
    }

    fn carve(line: &str) -> Said {
        let mut command = support::carve();
        command.env_remove("CARVE_ROOT").args(line.split_whitespace());
        Someone::said(command)
    }

    fn apply(&self, text: &str) -> Said {
        let file = self.folder.join("carve.toml");
        fs::write(&file, text).unwrap();
        Self::carve(&format!("apply -t 0 --prune {}", file.display()))
    }
}

impl Drop for System {
    fn drop(&mut self) {
        clear_groups();
        self.apply("version = 1\n");
        clear_groups();
        let _ = fs::remove_dir_all(self.folder);
    }
}

#[test]
fn a_tenants_user_books_in_its_tenant_and_nobody_else_does() {
    let carve = support::carve().get_program().to_string_lossy().into_owned();
    let (ada, bob) = (Someone::new("ada", 4001), Someone::new("bob", 4002));
    std::process::Command::new("chmod").args(["666", "/dev/kvm"]).status().unwrap();
    let system = System::new();
    let (folder, root) = (system.folder, System::carve);
    let text = "[host]\nreserve = { cpus = \"0\", memory = \"1GiB\" }\n\
         [tenant.acme]\nuser = \"ada\"\ncpus = 3\nmemory = \"512MiB\"\n[tenant.zeta]\ncpus = 1\nmemory = \"256MiB\"\n\
         [defaults]\nkernel = \"halt\"\nmemory = \"64MiB\"\n[vm.db]\ntenant = \"acme\"\n";
    let apply = |text: &str| system.apply(text);
    let nobody = apply(&text.replace("\"ada\"", "\"nobody-here\""));
    nobody.refused(&["[unknown-name]", "`nobody-here`", "carve.toml:4:"]);
    apply(text).ok();

    // Admitted by what the tenant has left, in its own control group, under its own user.
    let run = |name: &str, flags: &str| {
        let kernel = folder.join("halt");
        format!("{carve} run -d --name {name} --memory 64MiB {flags} --kernel {}", kernel.display())
    };
    ada.does(&run("z", "")).refused(&["carve enter acme"]);
    Someone::does_in("acme", &run("x", "--cpus 2")).ok();
    let scope = |name: &str| format!("carve-acme.slice/carve-{name}.scope");
    let list = || -> Value {
        let said = Someone::does_in("acme", &format!("{carve} inspect x")).ok();
        serde_json::from_str::<Value>(&said).unwrap()[0].clone()
    };
    let pids = |name: &str| group(&format!("{}/cgroup.procs", scope(name)));
    let pid = list()["pid"].to_string();
    assert!(pids("x").lines().any(|other| other == pid), "{}", pids("x"));
    assert_eq!(group(&format!("{}/cpu.max", scope("x"))), "200000 100000");
    assert_eq!(
        fs::metadata(Path::new(CGROUPS).join(scope("x")))
            .map(|found| std::os::unix::fs::MetadataExt::uid(&found))
            .unwrap(),
        ada.uid
    );
    Someone::does_in("acme", &run("full", "")).refused(&["no room", "tenant-full", "acme"]);
    Someone::does_in("acme", &run("db", "")).refused(&["a VM of the host file"]);
    assert_eq!(root("verify").code, 0);
    let own = Someone::does_in("acme", &format!("{carve} verify"));
    assert!(own.code == 0 && own.out.starts_with("All "), "{own:?}");

    // Its limits are not the user's to change.
    let slice = format!("{CGROUPS}/carve-acme.slice");
    let closed = |someone: &Someone, line: &str| assert_ne!(someone.does(line).code, 0, "{line}");
    for line in [
        format!("echo max > {slice}/memory.max"),
        format!("echo 10000 > {slice}/cpu.weight"),
        format!("echo 0-7 > {slice}/cpuset.cpus"),
        format!("mkdir {CGROUPS}/carve-zeta.slice/carve-z.scope"),
        "echo {} > /run/carve-tenants/acme/reservation.json".to_owned(),
    ] {
        closed(&ada, &line);
    }
    closed(&bob, "cat /run/carve-tenants/acme/reservation.json");
    closed(&bob, "touch /run/carve-tenants/acme/books/x");
    closed(&bob, &format!("mkdir {slice}/carve-z.scope"));
    // A user without a tenant books in none.
    bob.does(&run("x", "")).ok();
    assert!(!bob.does(&format!("{carve} ps --format json")).out.contains("ada"));
    assert_eq!(bob.does(&format!("{carve} rm -f x")).code, 0);

    // What is killed gives its share back.
    let report = list();
    for key in ["monitor_pid", "pid"] {
        let pid = report[key].to_string();
        std::process::Command::new("kill").args(["-9", &pid]).output().unwrap();
        until(|| !Path::new(&format!("/proc/{pid}")).exists());
    }
    Someone::does_in("acme", &run("y", "--cpus 2")).ok();
    assert!(!has_group(&scope("x")) && has_group(&scope("y")));
    // The file cannot take a name that a guest of the user has.
    let more = format!("{text}[vm.y]\ntenant = \"acme\"\ncpu = {{ min = 0, max = 1 }}\n");
    apply(&more).refused(&["[name-taken]", "y"]);
    // Without a user nobody books in it.
    Someone::does_in("acme", &format!("{carve} rm -f x y full")).ok();
    apply(&text.replace("user = \"ada\"\n", "")).ok();
    assert!(!Path::new("/run/carve-tenants/acme").exists());
    closed(&ada, &format!("mkdir {slice}/carve-z.scope"));
    apply("version = 1\n").ok();
}

#[test]
fn vms_start_from_images_in_pools_and_after_those_that_are_ready() {
    let divided = Divided::new();
    let stock = support::guests::Guest::new(support::guests::DEFAULT);
    let (kernel, initrd) = (stock.kernel_path().display(), stock.initrd_path().display());
    let (raw, qcow2) = (support::guests::root_image("ext4"), support::guests::root_image("qcow2"));
    // %20 is a space to the guest's init.
    let line = |run: &str| {
        let run = run.replace(' ', "%20");
        format!("quiet root=/dev/vda ro init=/bin/carve-test carve.run={run}")
    };
    // Behind the image's 768 MiB, so that only a disk of its own size has room for it.
    let mark = "echo -n mark | dd of=/dev/vda bs=1M seek=1000 conv=notrunc status=none; sync; sleep 5;\
                socat VSOCK-LISTEN:1024,fork EXEC:cat";
    divided.write(&format!(
        "[host]\nreserve = {{ cpus = \"0\", memory = \"1GiB\" }}\n[pool.p]\npath = \"pool\"\nsize = \"4GiB\"\n\
         [defaults]\nkernel = \"{kernel}\"\ninitrd = \"{initrd}\"\nmemory = \"256MiB\"\n\
         [vm.a]\ncmdline = \"{}\"\nvsock = {{ cid = 42, socket = \"a.v\" }}\nready = {{ vsock = 1024, timeout = \"240s\" }}\n\
         disk.root = {{ pool = \"p\", size = \"1GiB\", image = \"{}\" }}\n\
         [vm.b]\ncmdline = \"{}\"\nafter = [\"a\"]\ndisk.root = {{ pool = \"p\", size = \"1GiB\", image = \"{}\" }}\n\
         [vm.late]\ncmdline = \"{}\"\nvsock = {{ cid = 43, socket = \"late.v\" }}\nready = {{ vsock = 7, timeout = \"2s\" }}\n\
         disk.root = {{ pool = \"p\", size = \"1GiB\", image = \"{}\" }}\n[vm.never]\nafter = [\"late\"]\n",
        line(mark),
        raw.display(),
        line("df /; lsblk -bno size /dev/vda; sleep 600"),
        qcow2.display(),
        line("sleep 600"),
        qcow2.display(),
    ));
    let said = divided.carve("apply carve.toml");
    assert_eq!(said.code, 1, "{said:?}");
    let at = |line: &str| said.out.find(line).unwrap_or_else(|| panic!("no {line} in {said:?}"));
    assert!(at("a: created") < at("b: created"), "{said:?}");
    assert!(said.err.contains("did not listen at port 7"), "{said:?}");
    assert!(said.err.contains("never: create: it comes after late, which failed"), "{said:?}");
    // It was waited for: what it does before it listens is done.
    let copy = fs::File::open(divided.path("pool/a.root.img")).unwrap();
    assert_eq!(copy.metadata().unwrap().len(), 1 << 30);
    let mut found = [0; 4];
    std::os::unix::fs::FileExt::read_exact_at(&copy, &mut found, 1000 << 20).unwrap();
    assert_eq!(&found, b"mark");
    let overlay = fs::read(divided.path("pool/b.root.img")).unwrap();
    assert!(overlay.starts_with(b"QFI\xfb") && overlay.len() < 64 << 20, "{}", overlay.len());
    until(|| divided.carve("logs b").out.contains(&(1u64 << 30).to_string()));
    divided.verify();
}
