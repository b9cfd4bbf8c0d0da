//! The control groups of a [`Hierarchy`] that are units of systemd's: made, changed and ended by asking it.
//!
//! What systemd has no property for (partitions of CPUs, huge pages, `io.max`) is written beside it, into files that it
//! never writes; so is the controller of huge pages opened, which it does not know.

use std::io;
use std::path::Path;
use std::thread;
use std::time::Instant;

use super::{ENDING, Hierarchy, HierarchyError, failed, read};
use crate::enforce::systemd::{Error, Systemd};
use crate::plan::Cgroup;

/// Controllers that systemd does not open, as it does not know them.
const BESIDE: [&str; 1] = ["hugetlb"];

/// The unit that a group is, and the slice it is in; those of the root of all are in none.
fn unit(path: &str) -> (&str, &str) {
    let (above, unit) = path.rsplit_once('/').unwrap_or(("", path));
    (above.rsplit('/').next().unwrap_or(above), unit)
}

fn is_slice(unit: &str) -> bool {
    unit.ends_with(".slice")
}

impl Hierarchy {
    /// Runs a call of systemd's about the group in `path`.
    fn ask<T>(
        &self,
        what: &str,
        path: &str,
        call: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, HierarchyError> {
        let folder = self.folder(path);
        call().map_err(io::Error::other).map_err(failed(what, &folder))
    }

    pub(super) fn connect(&self) -> Result<Systemd, HierarchyError> {
        self.ask("have systemd keep", "", Systemd::connect)
    }

    /// Slices are made, scopes only changed: they begin with the process that they are for.
    pub(super) fn apply_units<'g>(
        &self,
        groups: impl Iterator<Item = &'g Cgroup>,
    ) -> Result<(), HierarchyError> {
        let mut systemd = None;
        for group in groups {
            let systemd = match &mut systemd {
                Some(systemd) => systemd,
                none => none.insert(self.connect()?),
            };
            let (_, unit) = unit(&group.path);
            let folder = self.folder(&group.path);
            let there = self.ask("look for", &group.path, || systemd.has(unit))?;
            // A scope begins with its process.
            if !there && !is_slice(unit) {
                continue;
            }
            self.open(folder.parent().unwrap_or(&self.root), &BESIDE)?;
            // What it writes takes time, and the kernel's global locks.
            let asked = match there && self.differences(group).is_empty() {
                true => Ok(()),
                false => self.ask("have systemd limit", &group.path, || match is_slice(unit) {
                    true => systemd.slice(unit, group),
                    false => systemd.change(unit, group),
                }),
            };
            // A limit that systemd could not write is a line in its log only; here it is an error.
            let limited = asked.and_then(|()| self.limit(group, &folder));
            // One whose process has ended meanwhile is held to nothing any more.
            if is_slice(unit) || folder.exists() {
                limited?;
            }
        }
        Ok(())
    }

    /// Has systemd make a scope of the process that calls.
    pub(super) fn occupy_unit(&self, group: &Cgroup) -> Result<(), HierarchyError> {
        let folder = self.folder(&group.path);
        self.open(folder.parent().unwrap_or(&self.root), &BESIDE)?;
        let mut systemd = self.connect()?;
        self.ask("have systemd make", &group.path, || {
            systemd.scope(unit(&group.path), group, std::process::id())
        })?;
        self.limit(group, &folder)
    }

    /// Waits until systemd has removed a scope in which nobody is any more. To remove it would keep systemd from seeing
    /// that nobody is in it.
    pub(super) fn remove_unit(&self, path: &str) -> Result<(), HierarchyError> {
        let folder = self.folder(path);
        let begun = Instant::now();
        while folder.exists() && begun.elapsed() < ENDING {
            thread::sleep(ENDING / 50);
        }
        if is_populated(&folder) {
            let busy = io::Error::from(io::ErrorKind::ResourceBusy);
            return Err(failed("remove the control group", &folder)(busy));
        }
        match folder.exists() {
            true => self.end_unit(&mut self.connect()?, path),
            false => Ok(()),
        }
    }

    /// Ends the unit of a group in which there is nobody; a group that is none of systemd's is removed.
    pub(super) fn end_unit(&self, systemd: &mut Systemd, path: &str) -> Result<(), HierarchyError> {
        let (_, unit) = unit(path);
        let folder = self.folder(path);
        if is_populated(&folder) {
            return Ok(());
        }
        self.ask("have systemd end", path, || systemd.stop(unit))?;
        match std::fs::remove_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove the control group", &folder)(error))
            }
            _ => Ok(()),
        }
    }
}

/// Whether a process is in a group or below it.
fn is_populated(folder: &Path) -> bool {
    read(&folder.join("cgroup.events"))
        .is_some_and(|events| events.lines().any(|line| line == "populated 1"))
}

#[cfg(test)]
mod units_test {
    use super::*;

    #[test]
    fn a_groups_place_is_its_unit_and_slice() {
        assert_eq!(unit("carve.slice"), ("", "carve.slice"));
        assert_eq!(unit("carve.slice/carve-a.slice"), ("carve.slice", "carve-a.slice"));
        let scope = unit("carve.slice/carve-a.slice/carve-db.scope");
        assert_eq!(scope, ("carve-a.slice", "carve-db.scope"));
        assert!(is_slice("carve.slice") && !is_slice("carve-slice.scope"));
    }
}
