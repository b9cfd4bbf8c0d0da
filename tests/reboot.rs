//! A divided host that loses power. The test runs twice, on two emulated hosts with one disk (`cargo xtask host --emulated
//! --cpus 2 --share FOLDER`): the first is gone in the middle of it, for which its harness counts it as lost and runs it
//! again.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::divided::{CGROUPS, Divided, group};
use support::host::Host;
use support::tool;

/// No VM of it restarts by itself: nobody is to start one in between.
const FILE: &str = r#"
version = 1
[host]
reserve = { memory = "1GiB" }
overcommit = { cpu = 4 }
[pool.fast]
path = "pool"
size = "256MiB"
[tenant.acme]
cpus = 1.5
memory = "512MiB"
storage = { fast = "128MiB" }
[defaults]
kernel = "halt"
memory = "64MiB"
[vm.db]
tenant = "acme"
cpu = "dedicated"
disk.root = { pool = "fast", size = "64MiB" }
[vm.web]
tenant = "acme"
count = 2
cpu = { min = 0.2, max = 0.5 }
"#;
const VMS: [&str; 3] = ["db", "web-1", "web-2"];

/// Where the disk is, which outlives the emulated host.
fn kept(name: &str) -> PathBuf {
    let share =
        std::env::var_os("CARVE_SHARE").expect("CARVE_SHARE: as `cargo xtask host` sets it");
    Path::new(&share).join(name)
}

/// The host with everything that is Carve's on that disk, but what a host keeps in memory.
fn host() -> Divided {
    let root = tempfile::Builder::new().prefix("carve-reboot").rand_bytes(0).tempdir().unwrap();
    let folder = root.path().display();
    tool("modprobe loop");
    tool(&format!("mount -o loop {} {folder}", kept("disk").display()));
    fs::create_dir_all(root.path().join("run")).unwrap();
    tool(&format!("mount -t tmpfs -o mode=755 run {folder}/run"));
    Divided::on(Host { root, has_violations: false })
}

/// What is promised of this host.
fn promised(host: &Divided) -> Value {
    let said = host.carve("capacity carve.toml --format json").ok();
    let capacity: Value = serde_json::from_str(&said).unwrap();
    Value::from_iter(["cpus", "memory"].map(|of| (of.to_owned(), capacity[of]["promised"].clone())))
}

fn db_cpus() -> String {
    group("carve-acme.slice/carve-db.scope/cpuset.cpus")
}

/// Divides the host, and ends it without a warning.
fn lose_power() -> ! {
    tool(&format!("truncate -s 512M {}", kept("disk").display()));
    tool(&format!("mkfs.ext4 -q {}", kept("disk").display()));
    let host = host();
    fs::create_dir(host.path("pool")).unwrap();
    host.write(FILE);
    // These are the test's own; what follows is for Carve to keep.
    tool("sync");
    host.apply();
    host.verify();
    let expected = serde_json::json!({ "promised": promised(&host), "cpus": db_cpus() });
    host.carve("run -d --name extra --memory 64MiB --kernel halt").ok();
    fs::write(kept("expected"), expected.to_string()).unwrap();
    fs::File::open(kept("expected")).unwrap().sync_all().unwrap();
    fs::write("/proc/sysrq-trigger", "b").unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn a_host_that_lost_power_is_divided_as_it_was() {
    let Ok(expected) = fs::read_to_string(kept("expected")) else { lose_power() };
    let expected: Value = serde_json::from_str(&expected).unwrap();
    let host = host();
    assert!(!Path::new(CGROUPS).exists());
    for name in VMS.into_iter().chain(["extra"]) {
        assert_eq!(host.host.state(name), "exited", "{name}");
        let ended = &host.host.inspect(name)["last_run"]["ended"];
        assert_eq!(ended["kind"], "host-down", "{name}: {ended}");
    }
    // VMs of the file hold what they have, running or not; a guest of a command does not.
    assert_eq!(promised(&host), expected["promised"]);
    assert_eq!(host.carve("plan carve.toml").code, 2);
    host.apply();
    host.verify();
    assert_eq!(
        (db_cpus().into(), promised(&host)),
        (expected["cpus"].clone(), expected["promised"].clone())
    );
    assert!(VMS.iter().all(|name| host.host.state(name) == "running"));
    host.carve("start extra").ok();
    assert_eq!(host.host.state("extra"), "running");
    host.verify();
}
