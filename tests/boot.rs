//! Stock distribution kernels booted end to end. Runs on a KVM host (`cargo xtask host`).
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, unsafe_code, missing_docs)]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use support::guests::{BOOT, DEFAULT, Guest, LONG, assert_clean, value};

/// Boots a kernel at one size and checks what it found.
#[track_caller]
fn boots(id: &str, memory: &str, cpus: u32) {
    let mut guest = Guest::new(id).with(&format!("--memory {memory} --cpus {cpus}"));
    let mib: u64 = memory.trim_end_matches("MiB").parse().unwrap();
    if mib < 128 {
        guest = guest.initrd(id, "tiny");
    }
    let script = "echo cpus=$(nproc); echo kib=$(grep MemTotal /proc/meminfo | tr -dc 0-9); \
        for c in $(seq 0 $(($(nproc)-1))); do taskset -c $c sh -c 'i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done' || echo bad=$c; done; \
        echo worked=$(grep -c ^cpu[0-9] /proc/stat)";
    let log = guest.run(script).expect(0).text();
    assert_eq!(value(&log, "cpus"), cpus.to_string());
    assert_eq!(value(&log, "worked"), cpus.to_string());
    assert!(!log.contains("bad="), "{log}");
    assert!(log.contains("carve-guest: exit 0"), "{log}");
    // The kernel keeps its image, page structures and (small guests) its initrd to itself.
    let total: u64 = value(&log, "kib").parse().unwrap();
    assert!(total <= mib * 1024 && total > (mib - 48) * 1024 * 9 / 10, "{total} KiB of {mib} MiB");
}

macro_rules! boots {
    ($($name:ident: $id:literal, $memory:literal, $cpus:literal;)+) => {
        $(#[test] fn $name() { boots($id, $memory, $cpus); })+
    };
}

// Every kernel at every size, and every kernel with every number of vCPUs.
boots! {
    debian_6_1_cloud_96_mib: "debian-6.1-cloud", "96MiB", 1;
    debian_6_1_cloud_512_mib: "debian-6.1-cloud", "512MiB", 2;
    debian_6_1_cloud_3_gib: "debian-6.1-cloud", "3072MiB", 4;
    debian_6_1_cloud_5_gib: "debian-6.1-cloud", "5120MiB", 8;
    debian_6_1_96_mib: "debian-6.1", "96MiB", 2;
    debian_6_1_512_mib: "debian-6.1", "512MiB", 1;
    debian_6_1_3_gib: "debian-6.1", "3072MiB", 8;
    debian_6_1_5_gib: "debian-6.1", "5120MiB", 4;
    debian_6_12_cloud_96_mib: "debian-6.12-cloud", "96MiB", 4;
    debian_6_12_cloud_512_mib: "debian-6.12-cloud", "512MiB", 8;
    debian_6_12_cloud_3_gib: "debian-6.12-cloud", "3072MiB", 1;
    debian_6_12_cloud_5_gib: "debian-6.12-cloud", "5120MiB", 2;
    debian_6_12_96_mib: "debian-6.12", "96MiB", 8;
    debian_6_12_512_mib: "debian-6.12", "512MiB", 4;
    debian_6_12_3_gib: "debian-6.12", "3072MiB", 2;
    debian_6_12_5_gib: "debian-6.12", "5120MiB", 1;
}

const KERNELS: [&str; 4] = ["debian-6.1-cloud", "debian-6.1", "debian-6.12-cloud", "debian-6.12"];

/// Prints the addresses of a few symbols far apart. The list is long: it is read once, without regular expressions.
const SYMBOLS: &str = "grep -Fw -e _text -e linux_banner -e _end /proc/kallsyms > /tmp/symbols; \
    while read address kind name; do echo $name=$address; done < /tmp/symbols";

fn symbols(log: &str) -> Vec<u64> {
    ["_text", "linux_banner", "_end"]
        .map(|name| u64::from_str_radix(value(log, name), 16).unwrap())
        .to_vec()
}

#[test]
fn each_boot_has_a_text_base_of_its_own_and_symbols_move_together() {
    for id in KERNELS {
        let fixed = symbols(&Guest::new(id).cmdline("nokaslr").run(SYMBOLS).expect(0).text());
        assert_eq!(fixed[0], 0xffff_ffff_8100_0000, "{id} without KASLR");
        let mut bases = BTreeSet::new();
        // There are some 500 places: the same one twice is a matter of chance, three times hardly.
        for _ in 0..3 {
            let boot = symbols(&Guest::new(id).run(SYMBOLS).expect(0).text());
            let shift = boot[0] - fixed[0];
            assert_eq!(shift % (2 << 20), 0);
            assert!(boot.iter().zip(&fixed).all(|(moved, fixed)| moved - fixed == shift), "{id}");
            bases.insert(boot[0]);
            if bases.len() > 1 {
                break;
            }
        }
        assert!(bases.len() > 1, "{id} always boots at {bases:x?}");
    }
}

#[test]
fn modules_and_the_direct_map_are_randomized_too() {
    let script = "echo module=$(sort -k3 /proc/modules | head -1 | sed 's/.* 0x/0x/; s/ .*//')";
    let modules: Vec<_> = (0..3)
        .map(|_| value(&Guest::new(DEFAULT).run(script).expect(0).text(), "module").to_owned())
        .collect();
    assert!(modules.iter().any(|address| *address != modules[0]), "{modules:?}");
}

#[test]
fn pvh_boots_every_kernel() {
    for id in KERNELS {
        let log =
            Guest::new(id).with("--boot-protocol pvh").run("echo cpus=$(nproc)").expect(0).text();
        assert_eq!(value(&log, "cpus"), "1");
    }
}

#[test]
fn a_kernel_can_unpack_itself() {
    let log = Guest::new(DEFAULT).with("--no-extract").run("echo ok=yes").expect(0).text();
    assert_eq!(value(&log, "ok"), "yes");
}

#[test]
fn an_elf_vmlinux_boots_by_both_protocols() {
    let image = std::fs::read(Guest::new(DEFAULT).kernel_path()).unwrap();
    let header = boot::kernel::bzimage::Header::parse(&image, image.len() as u64).unwrap();
    let payload = header.payload();
    let payload = &image[payload.start as usize..payload.end as usize];
    let elf = boot::kernel::payload::extract(payload, 1 << 30).unwrap();
    let vmlinux = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(vmlinux.path(), elf).unwrap();
    for protocol in ["linux64", "pvh"] {
        let guest = Guest::new(DEFAULT).kernel(vmlinux.path());
        guest.with(&format!("--boot-protocol {protocol}")).run("true").expect(0);
    }
}

#[test]
fn a_huge_initrd_arrives_unharmed() {
    let guest = Guest::new(DEFAULT).initrd(DEFAULT, "huge").with("--memory 1GiB");
    let log = guest
        .run_within(LONG, "cd / && sha256sum -c ballast.sha256 && echo sum=right")
        .expect(0)
        .text();
    assert_eq!(value(&log, "sum"), "right");
}

#[test]
fn ten_reboots_give_ten_fresh_machines() {
    let script = "echo _text=$(grep -m1 ' _text$' /proc/kallsyms | cut -d' ' -f1); \
        echo up=$(cut -d. -f1 /proc/uptime); echo round=done; reboot -f";
    let mut guest = Guest::new(DEFAULT).start(Some(script));
    let mut log = String::new();
    for round in 1..=11 {
        log = guest.wait_for_count("round=done", round, BOOT);
    }
    guest.signal(libc::SIGTERM);
    guest.finish(BOOT + BOOT).expect(128 + libc::SIGTERM);
    assert_clean(&log);
    let values = |key: &str| -> Vec<String> {
        log.lines().filter_map(|l| l.trim().strip_prefix(key)).map(str::to_owned).collect()
    };
    let mut bases = values("_text=");
    bases.sort_unstable();
    bases.dedup();
    assert!(bases.len() > 3, "text bases over reboots: {bases:?}");
    assert!(values("up=").iter().all(|up| up.parse::<u32>().unwrap() < 60), "clocks start again");
}

#[test]
fn no_reboot_ends_the_run_at_the_first_reboot() {
    let log = Guest::new(DEFAULT).with("--no-reboot").run("reboot -f").expect(0).text();
    assert_eq!(log.matches("carve-guest: ready").count(), 1);
}

#[test]
fn a_kernel_panic_is_told_from_a_power_off() {
    for id in ["debian-6.1-cloud", "debian-6.12-cloud"] {
        let record = tempfile::NamedTempFile::new().unwrap();
        let arguments = format!("--exit-record {}", record.path().display());
        let guest = Guest::new(id).with(&arguments);
        let mut running = guest.start(Some("echo c > /proc/sysrq-trigger"));
        running.close_input();
        let finished = running.finish(BOOT).expect(1);
        assert!(finished.text().contains("Kernel panic"), "{}", finished.text());
        assert!(finished.stderr.contains("panic"), "{}", finished.stderr);
        let record: serde_json::Value =
            serde_json::from_slice(&std::fs::read(record.path()).unwrap()).unwrap();
        assert_eq!(record["end"]["kind"], "panicked", "{record}");
    }
}

#[test]
fn clocks_are_right_and_advance_at_the_right_rate() {
    let script = "echo source=$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource); \
        echo rtc=$(cat /sys/class/rtc/rtc0/since_epoch); echo now=$(date +%s); \
        a=$(cut -d' ' -f1 /proc/uptime); sleep 3; b=$(cut -d' ' -f1 /proc/uptime); \
        echo slept=$(awk \"BEGIN{print int(($b-$a)*100)}\")";
    let mut guest = Guest::new(DEFAULT).start(Some(script));
    let log = guest.wait_for("slept=", BOOT);
    let host = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - 3;
    let log = format!("{log}{}", guest.finish(BOOT).expect(0).text());
    assert!(["kvm-clock", "tsc"].contains(&value(&log, "source")), "{log}");
    for clock in ["now", "rtc"] {
        let seconds: u64 = value(&log, clock).parse().unwrap();
        assert!(seconds.abs_diff(host) <= 3, "{clock} {seconds}, host {host}");
    }
    let slept: u32 = value(&log, "slept").parse().unwrap();
    assert!((295..400).contains(&slept), "slept {slept} hundredths");
}

#[test]
fn the_topology_asked_for_is_the_one_seen() {
    let script = "cd /sys/devices/system/cpu; for c in 0 1 2 3 4 5 6 7 8 9 10 11; do \
        echo place$c=$(cat cpu$c/topology/physical_package_id),$(cat cpu$c/topology/core_id),$(cat cpu$c/topology/thread_siblings_list); done";
    let log = Guest::new(DEFAULT)
        .with("--topology sockets=2,cores=3,threads=2")
        .run(script)
        .expect(0)
        .text();
    for cpu in 0..12 {
        let pair = format!("{}-{}", cpu / 2 * 2, cpu / 2 * 2 + 1);
        let place = value(&log, &format!("place{cpu}"));
        let parts: Vec<_> = place.split(',').collect();
        assert_eq!(parts[0], (cpu / 6).to_string(), "package of CPU {cpu}: {place}");
        assert!(parts[2..].join(",") == pair, "siblings of CPU {cpu}: {place}");
    }
}

#[test]
fn a_vcpu_whose_apic_id_passes_254_runs_programs() {
    // Three sockets of 65 cores with two threads: ids with gaps, up to 0x281. All of them are parsed, the last one is started.
    let script = "echo possible=$(cat /sys/devices/system/cpu/possible); cd /sys/devices/system/cpu/cpu389; \
        echo 1 > online; echo cpus=$(nproc); taskset -c 389 sh -c 'i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; echo ran=$i'; \
        echo id=$(grep -A30 'processor.*: 389$' /proc/cpuinfo | grep -m1 apicid | tr -dc 0-9)";
    let guest = Guest::new(DEFAULT).with("--topology sockets=3,cores=65,threads=2");
    let log = guest.cmdline("maxcpus=1").run(script).expect(0).text();
    assert_eq!(value(&log, "possible"), "0-389");
    assert_eq!((value(&log, "cpus"), value(&log, "ran")), ("2", "2000"));
    assert_eq!(value(&log, "id"), (2 << 8 | 64 << 1 | 1).to_string());
}

#[test]
fn console_output_larger_than_every_buffer_arrives_whole() {
    // One line, so that the guest's terminal hands the UART whole bursts and not a few bytes each.
    let script = "seq -s ' ' 100000 120000 > /tmp/numbers; cat /tmp/numbers";
    let log = Guest::new(DEFAULT).run_within(LONG, script).expect(0).text();
    let mut expected = 100_000;
    for word in log.split_whitespace() {
        if word == expected.to_string() {
            expected += 1;
        }
    }
    assert_eq!(expected, 120_001);
}

#[test]
fn console_input_larger_than_every_buffer_arrives_whole() {
    let script =
        "stty raw -echo crtscts; echo listening=yes; head -c 131072 | md5sum | sed 's/^/sum=/'";
    let mut guest = Guest::new(DEFAULT).start(Some(script));
    guest.wait_for("listening=yes", BOOT);
    let bytes: Vec<u8> = (0..131_072u32).map(|i| (i * 31 + (i >> 10)) as u8).collect();
    guest.send(&bytes);
    let log = guest.finish(LONG).expect(0).text();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &bytes).unwrap();
    let sum = std::process::Command::new("md5sum").arg(file.path()).output().unwrap();
    let sum = String::from_utf8_lossy(&sum.stdout);
    assert_eq!(value(&log, "sum").split(' ').next(), sum.split(' ').next());
}

#[test]
fn two_guests_at_once_do_not_disturb_each_other() {
    let guests: Vec<_> = ["one", "two"]
        .map(|name| Guest::new(DEFAULT).with("--cpus 2").start(Some(&format!("echo name={name}"))))
        .into();
    for (guest, name) in guests.into_iter().zip(["one", "two"]) {
        let log = guest.finish(BOOT).expect(0).text();
        assert_clean(&log);
        assert_eq!(value(&log, "name"), name);
    }
}

#[test]
fn a_killed_run_leaves_no_files_behind() {
    let cache = tempfile::tempdir().unwrap();
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGKILL] {
        let mut command = Guest::new(DEFAULT).command(Some("sleep 1000"));
        command.env("XDG_CACHE_HOME", cache.path());
        let mut guest = support::Running::start(&mut command);
        guest.wait_for("carve-guest: ready", BOOT);
        guest.signal(signal);
        let finished = guest.finish(BOOT);
        if signal != libc::SIGKILL {
            finished.expect(128 + signal);
        }
        assert_eq!(temporaries(cache.path()), Vec::<String>::new());
    }
}

/// Temporary files below `folder`.
fn temporaries(folder: &std::path::Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return vec![] };
    let inside = |entry: std::fs::DirEntry| match entry.path() {
        path if path.is_dir() => temporaries(&path),
        path => vec![path.file_name().unwrap().to_string_lossy().into_owned()],
    };
    entries.flatten().flat_map(inside).filter(|name| name.contains("tmp")).collect()
}

#[test]
fn too_little_memory_is_refused_with_the_least_that_works() {
    let guest = Guest::new(DEFAULT);
    let mut small = guest.clone().with("--memory 32MiB").start(None);
    small.close_input();
    let refused = small.finish(Duration::from_secs(20)).expect(125);
    assert!(
        refused.stderr.contains("32 MiB") && refused.stderr.contains("--memory"),
        "{}",
        refused.stderr
    );
}
