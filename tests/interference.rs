//! One guest at its worst beside others, on an emulated host of 2 CPUs of which none is kept for the host (`cargo xtask
//! host --emulated --cpus 2 --core 0`): whatever it does, they have what they were promised, and it no more than that.
//!
//! Each trouble is made and not made in turn, by the same guest. What is promised is asserted: CPU time, the work of a
//! guest that asks for less than its cap, memory, requests and bytes. What a guest gets done that takes all it can get
//! is printed beside what it gets done in peace: emulated CPUs are too unsteady for more.
//! `CARVE_INTERFERENCE_SECONDS` says how long a turn is.
//!
//! A guest cannot ask its host for processes or for more memory than it has. What holds should it have taken over its
//! VMM is shown by a process of the test in the VMM's control group.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use support::divided::{CGROUPS, Divided, assert_within, group};
use support::guests::BOOT;
use support::host::{thread, until, until_within};
use support::scene::{NOISY, SHARE, Scene, log_of, say};
use support::{payload, tool};

/// Processes of the whole host, threads counted.
fn tasks_of_host() -> u64 {
    let load = fs::read_to_string("/proc/loadavg").unwrap();
    load.split([' ', '/']).nth(4).unwrap().parse().unwrap()
}

/// The number behind `key` in a file of the noisy guest's control group; none is there before there is something to count.
#[track_caller]
fn counted(file: &str, key: &str) -> u64 {
    let found = group(&format!("{NOISY}/{file}"));
    let mut words = found.split([' ', '\n', '=']).skip_while(|word| *word != key);
    words.nth(1).map_or(0, |number| number.parse().unwrap())
}

#[track_caller]
fn number(file: &str) -> u64 {
    group(&format!("{NOISY}/{file}")).parse().unwrap()
}

/// A shell in the noisy guest's control group.
fn in_its_group(script: &str) -> Output {
    let script = format!("echo $$ > {CGROUPS}/{NOISY}/cgroup.procs; {script}");
    Command::new("sh").args(["-c", &script]).output().unwrap()
}

/// Keeps vCPU N of a guest on CPU N. Whether all its threads are on one, or one beside two of others', is otherwise up
/// to the kernel, and moves more CPU time than weights do.
fn spread(divided: &Divided, name: &str) {
    for (vcpu, cpu) in [("vcpu0", "0"), ("vcpu1", "1")] {
        tool(&format!("taskset -cp {cpu} {}", thread(divided.host.pid(name), vcpu).unwrap()));
    }
}

#[test]
fn one_that_spins_on_all_its_vcpus_leaves_others_their_share() {
    let scene = Scene::new("kernel = \"busy\"\nvcpus = 2\ncpu = { min = 1, max = 2 }\n");
    spread(&scene.divided, "busy");
    spread(&scene.divided, "noisy");
    scene.pairs("spinning", || 0);
    // One that sleeps and wakes up is given a little more than its weight is worth.
    scene.divided.carve("pause steady").ok();
    let everybody = scene.turns(Duration::from_secs(3), 5, || 0);
    let share = everybody.median(|done| done.share());
    assert_within(share, 0.98 * SHARE..=1.02 * SHARE, "share of who is beside it");
    say(&format!("spinning: share of the other tenant, of {SHARE}: {share:.4}"));
}

#[test]
fn one_that_touches_all_its_memory_against_its_balloon_stays_in_its_own() {
    let scene = Scene::new(
        "kernel = \"touch\"\nmemory = { size = \"64MiB\", min = \"32MiB\" }\nballoon = { target = \"32MiB\" }\n\
         cpu = { min = 1, max = 2 }\n",
    );
    // Each dot is a round over all of it.
    until(|| scene.units_of("noisy") > 1.0);
    scene.pairs("memory", || 0);
    let (peak, max) = (number("memory.peak"), number("memory.max"));
    // It does without nothing that it was asked to, and its limit has room for all of it.
    assert!(peak > 56 << 20 && peak < max, "{peak} of {max}");
    assert_eq!(counted("memory.events", "oom_kill"), 0);
    // Whoever is killed, it is one in its group.
    in_its_group("exec tail /dev/zero");
    assert!(counted("memory.events", "oom_kill") > 0);
    assert!(group("carve-quiet.slice/memory.events").contains("oom_kill 0"));
    assert!(["steady", "busy"].iter().all(|name| scene.divided.host.state(name) == "running"));
}

#[test]
fn one_with_huge_pages_has_those_of_nobody_else() {
    // 32 are its own, the others nobody's.
    fs::write("/proc/sys/vm/nr_hugepages", "64").unwrap();
    let scene = Scene::new(
        "kernel = \"touch\"\nmemory = \"64MiB\"\nhugepages = \"2MiB\"\ncpu = { min = 1, max = 2 }\n",
    );
    let free =
        || fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").unwrap();
    until(|| free().trim() == "32");
    let more = in_its_group("exec fallocate -l 2M /dev/hugepages/carve-test");
    let _ = fs::remove_file("/dev/hugepages/carve-test");
    assert!(!more.status.success(), "{more:?}");
    assert!(counted("hugetlb.2MB.events", "max") > 0);
    assert_eq!(number("hugetlb.2MB.current"), 64 << 20);
    assert_eq!(free().trim(), "32");
    scene.divided.verify();
    drop(scene);
    fs::write("/proc/sys/vm/nr_hugepages", "0").unwrap();
}

/// The bare-metal guest at work without end, as keys of a host file.
fn at_work(kernel: &Path, work: &str) -> String {
    format!(
        "kernel = \"{}\"\nmemory = \"128MiB\"\ndevices.transport = \"mmio\"\ncpu = {{ min = 1, max = 2 }}\n\
         cmdline = \"cycles={} {work}\"\n",
        kernel.display(),
        u64::MAX / 2,
    )
}

#[test]
fn one_that_floods_a_disk_has_its_rate_and_no_more() {
    let Some(kernel) = payload::bare_metal() else { return };
    let divided = Divided::new();
    let pool = divided.path("pool");
    fs::create_dir(&pool).unwrap();
    // The host's root has no block device, to which alone there are limits.
    tool("modprobe null_blk nr_devices=1 gb=1 memory_backed=1");
    tool("mkfs.ext4 -q /dev/nullb0");
    tool(&format!("mount /dev/nullb0 {}", pool.display()));
    let flood = at_work(&kernel, "bench=block run=randwrite-4k-8");
    let scene = Scene::on(
        divided,
        &format!(
            "{flood}disk.d = {{ pool = \"p\", size = \"64MiB\", direct = true, preallocate = true, iops = 120, iops_burst = 4 }}\n\
             [pool.p]\npath = \"pool\"\n[tenant.noisy.storage]\np = \"64MiB\"\n"
        ),
    );
    let writes = || counted("io.stat", "wios");
    let trouble = scene.pairs("disk", writes);
    let rate = trouble.median(|done| done.extra);
    assert_within(rate, 0.95 * 120.0..=1.05 * 120.0, "writes a second where 120 are allowed");
    // Should the device not keep to it, the kernel's limit is a quarter looser.
    scene.divided.carve("update noisy --disk d,iops=100000").ok();
    let held = scene.turns(Duration::from_secs(3), 1, writes).median(|done| done.extra);
    assert_within(held, 0.95 * 150.0..=1.05 * 150.0, "writes a second where io.max is 150");
    say(&format!("disk: writes a second, of 120: {rate:.1}; by io.max alone, of 150: {held:.1}"));
    scene.divided.carve("rm -f noisy").ok();
    tool(&format!("umount -l {}", pool.display()));
}

#[test]
fn one_that_floods_a_network_has_its_rate_and_no_more() {
    let Some(kernel) = payload::bare_metal() else { return };
    let bridge = support::networks::Interface::bridge();
    let flood = at_work(&kernel, "bench=net run=tx-1514-32");
    let scene = Scene::new(&format!(
        "{flood}net.lan = {{ bridge = \"{}\", bandwidth = \"8Mbit/s\" }}\n",
        bridge.name()
    ));
    let tap = format!("/sys/class/net/{}/brif", bridge.name());
    let tap = fs::read_dir(tap).unwrap().next().unwrap().unwrap().file_name();
    let sent = format!("/sys/class/net/{}/statistics/rx_bytes", tap.to_str().unwrap());
    let sent = || fs::read_to_string(&sent).unwrap().trim().parse().unwrap();
    let rate = scene.pairs("network", sent).median(|done| done.extra) / 1e6;
    assert_within(rate, 0.95..=1.05, "megabytes a second where one is allowed");
    say(&format!("network: megabytes a second, of 1: {rate:.3}"));
}

#[test]
fn one_that_floods_its_console_fills_nothing_of_the_hosts() {
    let scene = Scene::new("kernel = \"torrent\"\ncpu = { min = 1, max = 2 }\n");
    scene.pairs("console", || 0);
    let (peak, max) = (number("memory.peak"), number("memory.max"));
    assert!(peak < max / 2, "{peak} of {max}");
    let log = log_of(&scene.divided, "noisy");
    let files = fs::read_dir(log.parent().unwrap()).unwrap().flatten();
    let kept: u64 = files.map(|file| file.metadata().unwrap().len()).sum();
    // Two files of 8 MiB, and their times.
    assert!(kept > 1024 && kept < 21 << 20, "{kept}");
}

#[test]
fn one_that_bombs_itself_with_processes_makes_none_on_the_host() {
    let stock = support::guests::Guest::new(support::guests::DEFAULT);
    let (kernel, initrd) = (stock.kernel_path().display(), stock.initrd_path().display());
    // The quotes keep what is printed apart from the command line, which the log has, too.
    let bomb = "echo bomb''ing;f(){ f|f& };f;sleep 1000".replace(' ', "%20");
    let divided = Divided::new();
    // The cache of unpacked kernels is in this host's memory, and would be the guest's whose process fills it.
    divided.carve(&format!("run -d --name first --kernel {kernel} --memory 128MiB")).ok();
    divided.carve("rm -f first").ok();
    let bomb = format!(
        "kernel = \"{kernel}\"\ninitrd = \"{initrd}\"\nmemory = \"256MiB\"\nvcpus = 2\ncpu = {{ min = 1, max = 2 }}\n\
         cmdline = \"quiet carve.run={bomb}\"\n"
    );
    let scene = Scene::on(divided, &bomb);
    // It is a while until it is there, and would be a longer one.
    scene.divided.carve("pause busy").ok();
    until_within(BOOT, || scene.divided.carve("logs noisy").out.contains("bombing"));
    scene.divided.carve("unpause busy").ok();
    let (of_guest, of_host) = (number("pids.current"), tasks_of_host());
    scene.pairs("processes", || 0);
    // Workers of the kernel's come and go.
    assert!(tasks_of_host() < of_host + 30, "{of_host}, then {}", tasks_of_host());
    assert!(number("pids.current") <= of_guest, "{of_guest}");
    let max = number("pids.max");
    let refused = in_its_group(&format!("for n in $(seq {max}); do sleep 1 & done"));
    assert!(!refused.status.success(), "{refused:?}");
    assert!(counted("pids.events", "max") > 0);
    assert_eq!(scene.divided.host.state("noisy"), "running");
    until(|| number("pids.current") <= of_guest);
}
