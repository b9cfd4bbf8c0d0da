//! [`Hierarchy`]: the control groups of a host (Documentation/admin-guide/cgroup-v2.rst), as a folder.
//!
//! The kernel's answers are not taken for granted: what was written is read back by
//! [`differences`](Hierarchy::differences), which knows how the kernel rounds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::enforce::systemd::{self, Systemd};
use crate::plan::Cgroup;

mod units;

/// Where systemd and everybody else mount them.
const ROOT: &str = "/sys/fs/cgroup";
/// Controllers that limits of [`Cgroup`] belong to.
const CONTROLLERS: [&str; 6] = ["cpuset", "cpu", "memory", "hugetlb", "pids", "io"];
/// What the kernel rounds limits of memory down to.
const PAGE: u64 = 4096;
/// Groups that a user may make in one that was given away.
const GROUPS_OF_A_USER: &str = "4096";
/// How long processes that were killed may take to leave their group.
const ENDING: Duration = Duration::from_millis(250);
/// The top of everything of Carve's.
const TOP: &str = "carve.slice";

/// The control groups below one folder.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    root: PathBuf,
    keeper: Keeper,
}

/// Who makes groups, and writes the limits of those that Carve does not make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeper {
    /// Carve, and nobody else.
    Carve,
    /// systemd, which is asked.
    Systemd,
}

/// Why a control group is not as it should be.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}", .path.display())]
pub struct HierarchyError {
    /// What was tried.
    pub what: String,
    /// On which file.
    pub path: PathBuf,
    /// The kernel's answer.
    pub source: io::Error,
}

/// A limit that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// The file, below the root of the hierarchy.
    pub file: String,
    /// What it should say.
    pub expected: String,
    /// What it says; nothing if it is not there.
    pub found: Option<String>,
}

fn failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> HierarchyError {
    let (what, path) = (what.to_owned(), path.to_owned());
    move |source| HierarchyError { what, path, source }
}

fn write(path: &Path, content: &str) -> Result<(), HierarchyError> {
    fs::write(path, content).map_err(failed(&format!("write {content} to"), path))
}

fn read(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim_end().to_owned())
}

/// Makes a group that may be there already.
fn make(folder: &Path) -> Result<(), HierarchyError> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(failed("make the control group", folder)(error))
        }
        _ => Ok(()),
    }
}

/// Gives a group with what its owner needs to have groups in it.
fn give(folder: &Path, uid: u32, gid: u32) -> Result<(), HierarchyError> {
    let files = ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"];
    for path in files.map(|file| folder.join(file)).iter().chain([&folder.to_owned()]) {
        chown(path, Some(uid), Some(gid)).map_err(failed("give away", path))?;
    }
    Ok(())
}

impl Default for Hierarchy {
    fn default() -> Self {
        // Others than root have been given the group in which they make theirs.
        let asked = rustix::process::geteuid().is_root() && systemd::runs(Path::new("/"));
        let keeper = if asked { Keeper::Systemd } else { Keeper::Carve };
        Self { root: ROOT.into(), keeper }
    }
}

impl Hierarchy {
    /// The group in one that was given to a user, in which the user's other processes are.
    pub const SESSIONS: &str = "sessions";

    /// The control groups of this host, in `/sys/fs/cgroup`; by systemd where that is its first process.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Those in another folder.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), keeper: Keeper::Carve }
    }

    /// Whether the group of a VM is there without a process in it. To systemd it is a scope, which goes with its last
    /// process.
    #[must_use]
    pub fn outlives_processes(&self) -> bool {
        self.keeper == Keeper::Carve
    }

    /// The folder of a control group.
    #[must_use]
    pub fn folder(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Whether there is a hierarchy of version 2 with a controller to limit anything by.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        let controllers = read(&self.root.join("cgroup.controllers")).unwrap_or_default();
        controllers.split_whitespace().any(|name| CONTROLLERS.contains(&name))
    }

    /// Makes each group and writes its limits; one that is there gets the new ones. `groups` has each
    /// group after those above it. Those of VMs are made where they [outlive](Self::outlives_processes) processes.
    ///
    /// # Errors
    ///
    /// The file that cannot be written. Groups before it are as they should be.
    pub fn apply<'g>(
        &self,
        groups: impl IntoIterator<Item = &'g Cgroup>,
    ) -> Result<(), HierarchyError> {
        if self.keeper == Keeper::Systemd {
            return self.apply_units(groups.into_iter());
        }
        let mut opened = BTreeSet::new();
        for group in groups {
            let folder = self.folder(&group.path);
            let parent = folder.parent().unwrap_or(&self.root).to_owned();
            if opened.insert(parent.clone()) {
                self.open(&parent, &CONTROLLERS)?;
            }
            make(&folder)?;
            self.limit(group, &folder)?;
        }
        Ok(())
    }

    /// Lets groups in `folder` have limits, by every one of these controllers that the folder itself has.
    fn open(&self, folder: &Path, controllers: &[&str]) -> Result<(), HierarchyError> {
        let path = folder.join("cgroup.controllers");
        let available = fs::read_to_string(&path).map_err(failed("read", &path))?;
        let path = folder.join("cgroup.subtree_control");
        let enabled = read(&path).unwrap_or_default();
        let has = |list: &str, name: &str| list.split_whitespace().any(|word| word == name);
        for name in controllers {
            if has(&available, name) && !has(&enabled, name) {
                write(&path, &format!("+{name}"))?;
            }
        }
        Ok(())
    }

    fn limit(&self, group: &Cgroup, folder: &Path) -> Result<(), HierarchyError> {
        if !group.partition {
            // One that no longer is a partition gives its CPUs back.
            let path = folder.join("cpuset.cpus.partition");
            if read(&path).is_some_and(|kind| kind.starts_with("root")) {
                write(&path, "member")?;
            }
        }
        for (file, content) in group.files() {
            let path = folder.join(&file);
            // The kernel does nothing about what is the same, but takes global locks for it.
            if read(&path).is_some_and(|found| agrees(&file, &content, &found)) {
                continue;
            }
            write(&path, &content)?;
        }
        let path = folder.join("io.max");
        let limited: BTreeSet<&str> = group.io.iter().map(|io| io.device.as_str()).collect();
        for line in read(&path).unwrap_or_default().lines() {
            let device = line.split(' ').next().unwrap_or_default();
            if !limited.contains(device) {
                write(&path, &format!("{device} rbps=max wbps=max riops=max wiops=max"))?;
            }
        }
        Ok(())
    }

    /// What of `group` is not as it should be, in the kernel's own words; where the kernel takes a set
    /// of CPUs or a partition but cannot give it, that is one, too.
    #[must_use]
    pub fn differences(&self, group: &Cgroup) -> Vec<Difference> {
        let folder = self.folder(&group.path);
        let mut files = group.files();
        if files.iter().any(|(file, _)| file == "cpuset.cpus") {
            files.push(("cpuset.cpus.effective".into(), group.cpus.to_string()));
        }
        let difference = |(file, expected): (String, String)| {
            let found = read(&folder.join(&file));
            // What dedicated VMs have and do not share is not effective for the others, but theirs.
            let agrees = found.as_ref().is_some_and(|found| agrees(&file, &expected, found));
            let file = format!("{}/{file}", group.path);
            (!agrees).then_some(Difference { file, expected, found })
        };
        files.into_iter().filter_map(difference).collect()
    }

    /// Gives a group to a user (Documentation/admin-guide/cgroup-v2.rst, Delegation): it may make groups in
    /// it, limit those, and move its processes between them; what limits the group itself stays root's. Its
    /// processes begin in [`Self::SESSIONS`], as a group with groups in it has none itself.
    ///
    /// # Errors
    ///
    /// The file or folder that cannot be given away.
    pub fn delegate(&self, path: &str, uid: u32, gid: u32) -> Result<(), HierarchyError> {
        let folder = self.folder(path);
        self.open(&folder, &CONTROLLERS)?;
        // Groups are the kernel's memory: a user must not fill it with them.
        write(&folder.join("cgroup.max.descendants"), GROUPS_OF_A_USER)?;
        let sessions = folder.join(Self::SESSIONS);
        make(&sessions)?;
        give(&folder, uid, gid)?;
        let path = sessions.join("cgroup.procs");
        chown(&path, Some(uid), Some(gid)).map_err(failed("give away", &path))
    }

    /// Moves the process that calls into [`Self::SESSIONS`] of a group that was given to a user. A scope of systemd's is
    /// there only while somebody is in it: it begins with this process, and is given then.
    ///
    /// # Errors
    ///
    /// The group is not there and cannot be made, or lets nobody in.
    pub fn begin_session(&self, group: &Cgroup, uid: u32, gid: u32) -> Result<(), HierarchyError> {
        let sessions = format!("{}/{}", group.path, Self::SESSIONS);
        if self.keeper == Keeper::Systemd && !self.folder(&group.path).exists() {
            self.occupy_unit(group)?;
            make(&self.folder(&sessions))?;
            self.enter(&sessions)?;
            return self.delegate(&group.path, uid, gid);
        }
        self.enter(&sessions)
    }

    /// Takes a group back from the user it was given to.
    ///
    /// # Errors
    ///
    /// The file or folder that stays with the user.
    pub fn take_back(&self, path: &str) -> Result<(), HierarchyError> {
        let folder = self.folder(path);
        match fs::metadata(&folder) {
            Ok(found) if found.uid() != 0 => give(&folder, 0, 0),
            _ => Ok(()),
        }
    }

    /// Moves the process that calls into the group of a VM, which is made for it where it is not there yet.
    ///
    /// # Errors
    ///
    /// The file that cannot be written, or what systemd says.
    pub fn occupy(&self, group: &Cgroup) -> Result<(), HierarchyError> {
        match self.keeper {
            Keeper::Systemd => self.occupy_unit(group),
            Keeper::Carve => {
                self.apply([group])?;
                self.enter(&group.path)
            }
        }
    }

    /// Moves the process that calls into a group.
    ///
    /// # Errors
    ///
    /// The group is not there, or lets nobody in.
    pub fn enter(&self, path: &str) -> Result<(), HierarchyError> {
        write(&self.folder(path).join("cgroup.procs"), "0")
    }

    /// The processes in a group; none if it is not there.
    #[must_use]
    pub fn processes(&self, path: &str) -> Vec<u32> {
        let listed = read(&self.folder(path).join("cgroup.procs")).unwrap_or_default();
        listed.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// A number in a file of a group, such as `memory.current`.
    #[must_use]
    pub fn number(&self, path: &str, file: &str) -> Option<u64> {
        read(&self.folder(path).join(file))?.parse().ok()
    }

    /// CPU time that a group has had, in microseconds.
    #[must_use]
    pub fn cpu_time(&self, path: &str) -> Option<u64> {
        self.statistic(path, "cpu.stat", "usage_usec")
    }

    /// A number by its key in a file of a group, such as `file` in `memory.stat`.
    #[must_use]
    pub fn statistic(&self, path: &str, file: &str, key: &str) -> Option<u64> {
        let listed = read(&self.folder(path).join(file))?;
        let number = |line: &str| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok();
        listed.lines().find_map(number)
    }

    /// Removes a group in which nobody is any more, or who is there is about to end. One that is gone already
    /// is no error.
    ///
    /// # Errors
    ///
    /// There are processes or groups in it.
    pub fn remove(&self, path: &str) -> Result<(), HierarchyError> {
        if self.keeper == Keeper::Systemd {
            return self.remove_unit(path);
        }
        let folder = self.folder(path);
        let begun = Instant::now();
        let removed = loop {
            match fs::remove_dir(&folder) {
                Err(error)
                    if error.kind() == io::ErrorKind::ResourceBusy && begun.elapsed() < ENDING =>
                {
                    thread::sleep(ENDING / 50);
                }
                removed => break removed,
            }
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove the control group", &folder)(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes every group of Carve's that is not in `kept` and in which nobody is: what killed
    /// processes and former plans left.
    pub fn sweep<'p>(&self, kept: impl IntoIterator<Item = &'p str>) {
        let mut keep: BTreeSet<&str> = BTreeSet::new();
        for path in kept {
            let above = path.match_indices('/').map(|(end, _)| &path[..end]);
            keep.extend(above.chain([path]));
        }
        let systemd = (self.keeper == Keeper::Systemd).then(|| self.connect());
        // Without an answer it is swept another time, as is what is in use.
        if let Ok(mut systemd) = systemd.transpose() {
            self.sweep_below(TOP, &keep, systemd.as_mut());
        }
    }

    fn sweep_below(&self, path: &str, keep: &BTreeSet<&str>, mut systemd: Option<&mut Systemd>) {
        let entries = fs::read_dir(self.folder(path)).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            // Whatever others may have put there stays.
            if name.starts_with("carve-") || name == Self::SESSIONS {
                self.sweep_below(&format!("{path}/{name}"), keep, systemd.as_deref_mut());
            }
        }
        if !keep.contains(path) {
            // In use: it is swept another time.
            let _ = match systemd {
                Some(systemd) => self.end_unit(systemd, path).is_ok(),
                None => fs::remove_dir(self.folder(path)).is_ok(),
            };
        }
    }
}

/// Whether a file that should say `expected` does so with `found`.
fn agrees(file: &str, expected: &str, found: &str) -> bool {
    let rounded = |unit: u64| {
        let number = |text: &str| text.parse::<u64>().ok().map(|bytes| bytes / unit);
        number(expected).zip(number(found)).is_some_and(|(expected, found)| expected == found)
    };
    match file {
        "io.max" => {
            let of = |line: &str| -> BTreeMap<String, String> {
                let pairs = line.split_whitespace().skip(1).filter_map(|word| word.split_once('='));
                pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
            };
            let device = expected.split(' ').next().unwrap_or_default();
            let line = found.lines().find(|line| line.split(' ').next() == Some(device));
            line.is_some_and(|line| of(line) == of(expected))
        }
        // The kernel counts in pages.
        "memory.min" | "memory.max" => rounded(PAGE),
        _ => expected == found,
    }
}

#[cfg(test)]
#[path = "hierarchy_test.rs"]
mod hierarchy_test;
