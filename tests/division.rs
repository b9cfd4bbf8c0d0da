//! A host that is divided by a file: what the kernel is told, what it does about it, and what is left when
//! everything is over. Runs on an emulated host of 8 CPUs and 2 NUMA nodes (`cargo xtask host --cpus 8
//! --nodes 2`), of which control groups are this test's.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::host::{Host, Said, until};
use support::payload;

const CGROUPS: &str = "/sys/fs/cgroup/carve.slice";

/// A divided host. Its guests and control groups go with it.
struct Divided {
    host: Host,
}

impl Divided {
    /// A host without a file, in whose folder are kernels called `halt`, `spin` and `touch`.
    fn new() -> Self {
        let host = Host::new();
        let root = host.root.path();
        payload::write_elf(payload::halt(), &root.join("halt"));
        payload::write_elf(payload::spin(), &root.join("spin"));
        payload::write_elf(payload::touch(), &root.join("touch"));
        Self { host }
    }

    fn write(&self, file: &str) {
        fs::write(self.host.root.path().join("carve.toml"), file).unwrap();
    }

    fn carve(&self, arguments: &str) -> Said {
        self.host.carve(arguments)
    }

    #[track_caller]
    fn apply(&self) -> String {
        self.carve("apply carve.toml").ok()
    }

    /// Everything is read back as it is booked.
    #[track_caller]
    fn verify(&self) {
        let said = self.carve("verify");
        assert!(said.code == 0 && said.out.starts_with("All "), "{said:?}");
    }

    fn pid(&self, name: &str) -> i64 {
        self.host.inspect(name)["pid"].as_i64().unwrap()
    }

    fn path(&self, path: &str) -> PathBuf {
        self.host.root.path().join(path)
    }
}

impl Drop for Divided {
    fn drop(&mut self) {
        for guest in self.host.guests() {
            self.carve(&format!("rm -f {}", guest["id"].as_str().unwrap()));
        }
        for _ in 0..3 {
            remove_groups(Path::new(CGROUPS));
        }
    }
}

fn remove_groups(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

/// A file of a control group of Carve's.
#[track_caller]
fn group(path: &str) -> String {
    let path = Path::new(CGROUPS).join(path);
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.trim_end().to_owned()
}

fn has_group(path: &str) -> bool {
    Path::new(CGROUPS).join(path).exists()
}

/// Microseconds that a group has run.
fn usage(path: &str) -> u64 {
    let stat = group(&format!("{path}/cpu.stat"));
    let line = stat.lines().find_map(|line| line.strip_prefix("usage_usec ")).unwrap();
    line.parse().unwrap()
}

/// How many CPUs each group had over `time`.
fn rates<const N: usize>(paths: [&str; N], time: Duration) -> [f64; N] {
    let look = || (Instant::now(), paths.map(usage));
    let (start, before) = look();
    thread::sleep(time);
    let (end, after) = look();
    let took = (end - start).as_secs_f64() * 1e6;
    std::array::from_fn(|at| f64::from(u32::try_from(after[at] - before[at]).unwrap()) / took)
}

#[track_caller]
fn assert_within(value: f64, range: RangeInclusive<f64>, what: &str) {
    assert!(range.contains(&value), "{what}: {value}, not in {range:?}");
}

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
        "[host]\nreserve = { cpus = \"0\", memory = \"1GiB\" }\novercommit = { cpu = 16 }\n",
    );
    divided.apply();
    let (threads, each) = (8, 5);
    thread::scope(|scope| {
        for thread in 0..threads {
            let divided = &divided;
            scope.spawn(move || {
                for run in 0..each {
                    let name = format!("g{thread}-{run}");
                    divided
                        .carve(&format!("run -d --name {name} --kernel halt --memory 32MiB"))
                        .ok();
                    match (thread + run) % 3 {
                        0 => divided.host.kill_9(&name, &["pid", "monitor_pid"]),
                        1 => divided.host.kill_9(&name, &["monitor_pid"]),
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
    assert!(live.len() > 20, "{live:?}");
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
    // Two CPUs for all: 0.5 of one for the victim at any rate, whoever else wants them.
    divided.write(
        "[host]\nreserve = { cpus = \"2-7\", memory = \"1GiB\" }\novercommit = { cpu = 4 }\n\
         [defaults]\nkernel = \"spin\"\nmemory = \"32MiB\"\n\
         [tenant.small]\ncpus = 0.5\nmemory = \"256MiB\"\n[tenant.large]\ncpus = 1.5\nmemory = \"512MiB\"\n\
         [vm.victim]\ntenant = \"small\"\ncpu = { min = 0.5, max = 1 }\n\
         [vm.aggressor]\ntenant = \"large\"\ncount = 4\ncpu = { min = 0.375, max = 1 }\n\
         [vm.capped]\nstate = \"stopped\"\ncpu = { min = 0, max = 0.2 }\n",
    );
    divided.apply();
    divided.verify();
    thread::sleep(Duration::from_secs(2));
    let [small, large] = rates(["carve-small.slice", "carve-large.slice"], Duration::from_secs(20));
    // The kernel balances weights between CPUs by and by; the sum is exact.
    assert_within(small / (small + large), 0.23..=0.27, "share of the victim under load");
    divided.carve("stop -t 0 aggressor-1 aggressor-2 aggressor-3 aggressor-4").ok();
    let [alone] = rates(["carve-small.slice"], Duration::from_secs(10));
    assert_within(alone, 0.9..=1.02, "CPUs of the victim alone, which may have one");
    divided.carve("start capped").ok();
    thread::sleep(Duration::from_secs(1));
    let [capped] = rates(["carve-capped.scope"], Duration::from_secs(15));
    assert_within(capped, 0.19..=0.204, "CPUs of one that may have 0.2");
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
        "[host]\nreserve = { cpus = \"0\", memory = \"1GiB\" }\n[pool.p]\npath = \"pool\"\n\
         [defaults]\nkernel = \"halt\"\nmemory = \"64MiB\"\n\
         [vm.a]\nhugepages = \"2MiB\"\ndisk.d = { pool = \"p\", size = \"32MiB\", iops = 1000, iops_burst = 50 }\n\
         net.lan = { bridge = \"br5\", bandwidth = \"100Mbit/s\" }\n[vm.b]\nhugepages = \"2MiB\"\n",
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
    differs("a: bandwidth to the guest by net lan: expected 100Mbit/s, found 1Gbit/s");
    // Put right without a restart.
    let before = divided.pid("a");
    assert_eq!(divided.apply(), "a: changed");
    divided.verify();
    assert_eq!((divided.pid("a"), divided.apply().as_str()), (before, ""));
    // A guest that does not answer is named, and does not hold anybody up.
    let stopped = |signal: &str| {
        let pid = divided.pid("a").to_string();
        std::process::Command::new("kill").args([signal, &pid]).status().unwrap();
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
