//! A user's guests, by the commands that the user types.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::{TempDir, TempPath};

use super::{carve, payload};

/// A user's guests, in a folder of their own; all of them are killed in the end.
pub struct Host {
    pub root: TempDir,
    /// Whether a process that made a forbidden call is what the test is about.
    pub has_violations: bool,
}

/// What a command answered.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out.trim_end().to_owned()
    }

    /// A refusal that has these words.
    #[track_caller]
    pub fn refused(self, words: &[&str]) {
        assert!(self.code != 0, "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in {self:?}");
        }
    }
}

impl Host {
    pub fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap(), has_violations: false }
    }

    pub fn command(&self, arguments: &str) -> Command {
        let mut command = carve();
        command.env("CARVE_ROOT", self.root.path()).current_dir(self.root.path());
        command.args(["--log-level", "error"]).args(arguments.split_whitespace());
        command
    }

    pub fn carve(&self, arguments: &str) -> Said {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Said { code: status.code().unwrap_or(-1), out: text(&stdout), err: text(&stderr) }
    }

    /// All guests, as `ps` lists them.
    pub fn guests(&self) -> Vec<Value> {
        let list: Value = serde_json::from_str(&self.carve("ps -a --format json").ok()).unwrap();
        list["guests"].as_array().unwrap().clone()
    }

    pub fn state(&self, name: &str) -> String {
        let found = self.guests().into_iter().find(|guest| guest["name"] == name);
        found.map_or_else(|| "none".to_owned(), |guest| guest["state"].as_str().unwrap().to_owned())
    }

    pub fn inspect(&self, name: &str) -> Value {
        let report: Value =
            serde_json::from_str(&self.carve(&format!("inspect {name}")).ok()).unwrap();
        report[0].clone()
    }

    /// The process of the guest's VMM.
    pub fn pid(&self, name: &str) -> i32 {
        let seen = self.inspect(name);
        let pid = seen["pid"].as_i64().unwrap_or_else(|| panic!("{seen}"));
        i32::try_from(pid).unwrap()
    }

    /// What Carve itself had to say while it ran the guest.
    pub fn messages(&self, name: &str) -> String {
        let id = self.inspect(name)["id"].as_str().unwrap().to_owned();
        let file = self.root.path().join("state/guests").join(id).join("messages.log");
        std::fs::read_to_string(file).unwrap()
    }

    /// Kills the guest's VMM, its monitor, or both, without a warning.
    pub fn kill_9(&self, name: &str, which: &[&str]) {
        let report = self.inspect(name);
        let pids = which.iter().filter_map(|key| report[key].as_i64());
        for pid in pids.collect::<Vec<_>>() {
            // It may have ended by itself meanwhile; what `kill` says of that is nobody's.
            Command::new("kill").args(["-9", &pid.to_string()]).output().unwrap();
            until(|| !Path::new(&format!("/proc/{pid}")).exists() || zombie(pid));
        }
    }

    /// Processes that were started for guests of this host.
    pub fn processes(&self) -> Vec<String> {
        let mark = format!("CARVE_ROOT={}\0", self.root.path().display());
        let listed = std::fs::read_dir("/proc").unwrap().flatten();
        let of_ours = |folder: &PathBuf| {
            std::fs::read(folder.join("environ"))
                .is_ok_and(|environment| String::from_utf8_lossy(&environment).contains(&mark))
        };
        let folders = listed.map(|entry| entry.path()).filter(of_ours);
        folders.filter_map(|folder| std::fs::read_to_string(folder.join("comm")).ok()).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let guests = std::fs::read_dir(self.root.path().join("state/guests"));
        let messages =
            guests.into_iter().flatten().flatten().filter_map(|guest| {
                std::fs::read_to_string(guest.path().join("messages.log")).ok()
            });
        let violation = messages.into_iter().find(|text| text.contains("filter forbids"));
        for guest in self.guests() {
            self.carve(&format!("rm -f {}", guest["id"].as_str().unwrap()));
        }
        if !self.has_violations && !std::thread::panicking() {
            assert_eq!(violation, None, "a filter lacks what is needed");
        }
    }
}

/// The folder in /proc of each thread of a process, with its name.
pub fn threads(pid: i32) -> Vec<(String, PathBuf)> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let named = tasks.filter_map(|task| {
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        Some((name.trim().to_owned(), task.path()))
    });
    named.collect()
}

/// The thread called `name` of a process.
pub fn thread(pid: i32, name: &str) -> Option<i32> {
    let found = threads(pid).into_iter().find(|(found, _)| found == name)?;
    found.1.file_name()?.to_str()?.parse().ok()
}

/// The clerk of the VMM `pid`.
pub fn clerk_of(pid: i32) -> i32 {
    let parent = format!("PPid:\t{pid}\n");
    let is_clerk = |folder: &PathBuf| {
        let status = std::fs::read_to_string(folder.join("status")).unwrap_or_default();
        status.starts_with("Name:\tcarve-clerk\n") && status.contains(&parent)
    };
    let folders = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let clerk = folders.into_iter().find(is_clerk);
    clerk.unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap()
}

pub fn zombie(pid: i64) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // What the process had open is closed with the last of its threads, not with the first.
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    threads <= 1 && status.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

#[track_caller]
pub fn until(condition: impl Fn() -> bool) {
    until_within(Duration::from_secs(60), condition);
}

#[track_caller]
pub fn until_within(limit: Duration, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "it did not come to that");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A guest that runs until it is stopped, and `run -d` of it.
pub fn spinning(host: &Host, name: &str, flags: &str) -> TempPath {
    let kernel = payload::elf(payload::spin());
    host.carve(&run_of(&kernel, name, flags)).ok();
    kernel
}

pub fn run_of(kernel: &Path, name: &str, flags: &str) -> String {
    format!("run -d --name {name} --memory 16MiB {flags} --kernel {}", kernel.display())
}
