//! A host that is divided by a file, in the folder and the control groups of one test.

use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::host::{Host, Said};
use super::payload;

pub const CGROUPS: &str = "/sys/fs/cgroup/carve.slice";

/// A divided host. Its guests and control groups go with it.
pub struct Divided {
    pub host: Host,
}

impl Divided {
    /// A host without a file, in whose folder are kernels called `halt`, `spin` and `touch`.
    pub fn new() -> Self {
        Self::on(Host::new())
    }

    /// The same in a folder that is there.
    pub fn on(host: Host) -> Self {
        let root = host.root.path();
        payload::write_elf(payload::halt(), &root.join("halt"));
        payload::write_elf(payload::spin(), &root.join("spin"));
        payload::write_elf(payload::touch(), &root.join("touch"));
        Self { host }
    }

    pub fn write(&self, file: &str) {
        fs::write(self.host.root.path().join("carve.toml"), file).unwrap();
    }

    pub fn carve(&self, arguments: &str) -> Said {
        self.host.carve(arguments)
    }

    #[track_caller]
    pub fn apply(&self) -> String {
        self.carve("apply carve.toml").ok()
    }

    /// Everything is read back as it is booked.
    #[track_caller]
    pub fn verify(&self) {
        let said = self.carve("verify");
        assert!(said.code == 0 && said.out.starts_with("All "), "{said:?}");
    }

    pub fn pid(&self, name: &str) -> i64 {
        self.host.pid(name).into()
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.host.root.path().join(path)
    }
}

impl Drop for Divided {
    fn drop(&mut self) {
        for guest in self.host.guests() {
            self.carve(&format!("rm -f {}", guest["id"].as_str().unwrap()));
        }
        // Who gives back what a guest had limits groups, which else come back.
        for _ in 0..100 {
            if self.host.processes().is_empty() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        clear_groups();
    }
}

/// Whether the host's first process is systemd, whose the control groups are then.
pub fn is_run_by_systemd() -> bool {
    Path::new("/run/systemd/system").exists()
}

/// Ends what is left in control groups of Carve's, and removes them.
pub fn clear_groups() {
    if is_run_by_systemd() {
        // Everything in it ends with it.
        Command::new("systemctl").args(["stop", "carve.slice"]).status().unwrap();
    }
    for _ in 0..50 {
        if !Path::new(CGROUPS).exists() {
            return;
        }
        let _ = fs::write(Path::new(CGROUPS).join("cgroup.kill"), "1");
        remove_groups(Path::new(CGROUPS));
        thread::sleep(Duration::from_millis(20));
    }
}

pub fn remove_groups(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

/// A file of a control group of Carve's.
#[track_caller]
pub fn group(path: &str) -> String {
    let path = Path::new(CGROUPS).join(path);
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.trim_end().to_owned()
}

pub fn has_group(path: &str) -> bool {
    Path::new(CGROUPS).join(path).exists()
}

/// Microseconds that a group has run.
pub fn usage(path: &str) -> u64 {
    let stat = group(&format!("{path}/cpu.stat"));
    let line = stat.lines().find_map(|line| line.strip_prefix("usage_usec ")).unwrap();
    line.parse().unwrap()
}

/// How many CPUs each group had over `time`.
pub fn rates<const N: usize>(paths: [&str; N], time: Duration) -> [f64; N] {
    let look = || (Instant::now(), paths.map(usage));
    let (start, before) = look();
    thread::sleep(time);
    let (end, after) = look();
    let took = (end - start).as_secs_f64() * 1e6;
    std::array::from_fn(|at| f64::from(u32::try_from(after[at] - before[at]).unwrap()) / took)
}

#[track_caller]
pub fn assert_within(value: f64, range: RangeInclusive<f64>, what: &str) {
    assert!(range.contains(&value), "{what}: {value}, not in {range:?}");
}
