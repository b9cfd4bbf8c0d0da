//! A guest that does everything a driver must not (`xtask/payload/src/hostile/`), from two processors at once, with every
//! device there is. It may break itself. Its VMM must go on or end it in good order, and must not grow.
//!
//! `CARVE_HOSTILE_OPERATIONS` says how many operations each transport takes, `CARVE_HOSTILE_SEED` which: the same seed
//! does the same again, as far as two processors at once can. `cargo xtask hostile` runs it for as long as one likes.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Finished, Running, carve, kvm_tests};

/// Of one guest; the more there are, the more of them break themselves before they are through.
const ROUND: u64 = 20_000;
/// How long a guest may say nothing; it takes seconds for all where nothing else runs. One that has written over its own
/// counters goes on without end.
const SILENCE: Duration = Duration::from_secs(60);
/// In which a VMM must end its guest that is asked to.
const LIMIT: Duration = Duration::from_secs(60);
/// More than a VMM has at any time with these devices, and the descriptors that pass through it.
const THREADS: usize = 32;
const DESCRIPTORS: usize = 200;
/// Beside the guest's memory, which the guest touches before it begins.
const GROWTH_KIB: u64 = 16 << 10;

/// What a VMM has of its host.
#[derive(Debug)]
struct Held {
    threads: usize,
    descriptors: usize,
    memory_kib: u64,
}

impl Held {
    fn of(pid: i32) -> Option<Self> {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let count = |folder| Some(fs::read_dir(proc.join(folder)).ok()?.count());
        let status = fs::read_to_string(proc.join("status")).ok()?;
        let memory = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
        let memory_kib = memory.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(Self { threads: count("task")?, descriptors: count("fd")?, memory_kib })
    }
}

/// How a guest's playing ended, besides being through.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// All operations are done.
    Through,
    /// It broke itself.
    ByItself(String),
}

/// Plays one guest.
fn play(payload: &Path, transport: &str, seed: u64, operations: u64) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let disk = fs::File::create(place("disk")).unwrap();
    disk.set_len(1 << 20).unwrap();
    let overlaid = fs::File::create(place("overlaid")).unwrap();
    overlaid.set_len(1 << 20).unwrap();
    let mut command = carve();
    command.args([
        "run",
        "--log-level",
        "error",
        "--memory",
        "64MiB",
        "--cpus",
        "2",
        "--debug-exit",
        "--no-reboot",
    ]);
    command.args(["--transport", transport, "--exit-record"]).arg(place("end"));
    let hypercalls = u8::from(support::is_hardware_virtualization());
    let line = format!("hostile={seed} operations={operations} hypercalls={hypercalls}");
    command.args(["--cmdline", &line]);
    command.arg("--disk").arg(format!("path={},queues=2", place("disk").display()));
    command.arg("--disk").arg(format!("path={},overlay=discard", place("overlaid").display()));
    command.arg("--console").arg(format!("file={}", place("console").display()));
    command.arg("--console").arg(format!("socket={},name=port", place("port").display()));
    command.arg("--vsock").arg(format!("cid=3,socket={}", place("vsock").display()));
    command.args(["--net", "tap=carvehostile,queues=2", "--balloon", "--kernel"]).arg(payload);
    let mut running = Running::start(&mut command);
    let what = format!("{transport}, seed {seed}, {operations} operations");
    let (mut first, mut last) = (None, None);
    let (mut said, mut spoke, mut asked) = (0, Instant::now(), None);
    while !running.exited() {
        if running.seen().len() != said {
            (said, spoke) = (running.seen().len(), Instant::now());
        }
        match asked {
            None if spoke.elapsed() > SILENCE => {
                running.signal(libc::SIGTERM);
                asked = Some(Instant::now());
            }
            Some(asked) if asked.elapsed() > LIMIT => {
                panic!("{what}: stands still: {}", threads(running.pid()))
            }
            _ => {}
        }
        if let Some(held) = Held::of(running.pid()) {
            assert!(held.threads <= THREADS && held.descriptors <= DESCRIPTORS, "{what}: {held:?}");
            // The guest has touched its memory once its first line is there.
            if running.seen().contains("hostile ") {
                first.get_or_insert(held.memory_kib);
                last = Some(held.memory_kib);
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let grown = last.unwrap_or(0).saturating_sub(first.unwrap_or(0));
    assert!(grown <= GROWTH_KIB, "{what}: the VMM grew by {grown} KiB");
    let finished = running.finish(LIMIT);
    judge(&what, &finished, &place("end"))
}

/// What each thread of the process is in, for who has to find out why it stands still.
fn threads(pid: i32) -> String {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let words = tasks.map(|task| {
        let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        format!("{}: {}", read("comm").trim(), read("syscall").trim())
    });
    words.collect::<Vec<_>>().join("; ")
}

/// Accepts ends of the guest's own making, and no others.
fn judge(what: &str, finished: &Finished, record: &Path) -> Ended {
    let said =
        || format!("{what}: {:?}\n{}\n{}", finished.status, finished.text(), finished.stderr);
    assert!(!finished.stderr.contains("panicked"), "{}", said());
    let record = fs::read(record).unwrap_or_else(|error| panic!("{error}: {}", said()));
    let record: Value = serde_json::from_slice(&record).unwrap();
    let end = &record["end"];
    let kind = end["kind"].as_str().unwrap_or_default();
    match (kind, end["code"].as_u64()) {
        ("debug-exit", Some(0)) => Ended::Through,
        // An exception, or its own panic.
        ("debug-exit", Some(1)) => Ended::ByItself(finished.text()),
        ("crashed" | "rebooted" | "powered-off" | "panicked" | "reset-loop", _) => {
            Ended::ByItself(end["reason"].as_str().unwrap_or(kind).to_owned())
        }
        // Asked to, as it said nothing any more.
        ("signal", _) => Ended::ByItself("it went on without end".to_owned()),
        _ => panic!("{record}: {}", said()),
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Plays guests one after another until enough of them have done all they were to.
fn campaign(transport: &str) {
    let Some(payload) = support::payload::bare_metal() else { return };
    let first = number("CARVE_HOSTILE_SEED").unwrap_or(1);
    let operations = number("CARVE_HOSTILE_OPERATIONS").unwrap_or(ROUND);
    let rounds = operations.div_ceil(ROUND);
    let mut through = 0;
    for seed in first..first + 4 * (rounds + 1) {
        match play(&payload, transport, seed, operations.min(ROUND)) {
            Ended::Through => through += 1,
            Ended::ByItself(why) => {
                eprintln!("{transport}, seed {seed}: the guest broke itself: {why}");
            }
        }
        if through == rounds {
            return;
        }
    }
    // A guest that mostly breaks itself attacks nothing.
    panic!("{through} of {rounds} guests did all they were to");
}

kvm_tests! {
    fn a_hostile_driver_on_pci_gains_nothing() {
        campaign("pci");
    }

    fn a_hostile_driver_on_mmio_gains_nothing() {
        campaign("mmio");
    }
}
