//! Room on the host for what a guest writes: [`Room`] is how much its disks' file systems have left, [`Full`] what there
//! was none for.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, fstatvfs};

/// Free space below which a file system counts as full: a hundredth of it, but from 64 MiB to 4 GiB,
/// so that there is some left for what is written until the guest has stopped.
const LEAST: u64 = 64 << 20;
const MOST: u64 = 4 << 30;

/// Folders whose file systems are watched.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Each opened while paths can be.
    folders: Vec<(PathBuf, OwnedFd)>,
}

impl Room {
    /// Folders that cannot be opened are not watched.
    pub(super) fn in_folders(folders: Vec<PathBuf>) -> Self {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |folder: PathBuf| {
            let opened = rustix::fs::open(&folder, flags, Mode::empty()).ok()?;
            Some((folder, opened))
        };
        Self { folders: folders.into_iter().filter_map(open).collect() }
    }

    /// A folder whose file system is full.
    pub(super) fn full(&self) -> Option<&Path> {
        let full = self.folders.iter().find(|(_, opened)| {
            fstatvfs(opened).is_ok_and(|found| {
                let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
                is_full(bytes(found.f_blocks), bytes(found.f_bavail))
            })
        });
        full.map(|(folder, _)| folder.as_path())
    }
}

/// What happens to a guest whose host has no room left for what it writes, as an event.
pub const DISK_FULL: &str = "disk-full";

/// Where there is no room left for what a guest writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Full {
    /// On the file system below this folder: the guest is about to be paused.
    Folder(PathBuf),
    /// For a disk, in this file or device: requests failed.
    Disk(String, PathBuf),
}

impl Full {
    /// As details of an event.
    pub(super) fn words(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Folder(folder) => vec![("folder", folder.display().to_string())],
            Self::Disk(name, path) => {
                vec![("disk", name.clone()), ("path", path.display().to_string())]
            }
        }
    }
}

/// How often what was told is told again that goes on: a guest may cause as many failures as it likes.
const AGAIN: Duration = Duration::from_secs(60);

/// When disks without room were told of last.
#[derive(Debug, Default)]
pub(super) struct Shortages {
    last: Option<Instant>,
}

impl Shortages {
    /// Whether it may be told of again.
    pub(super) fn is_time(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now.saturating_duration_since(last) >= AGAIN)
    }

    pub(super) fn told(&mut self, now: Instant) {
        self.last = Some(now);
    }
}

fn is_full(size: u64, free: u64) -> bool {
    free < (size / 100).clamp(LEAST, MOST)
}

#[cfg(test)]
mod room_test {
    use super::*;

    #[test]
    fn a_file_system_is_full_before_nothing_is_left() {
        assert!(is_full(1 << 30, (64 << 20) - 1) && !is_full(1 << 30, 64 << 20));
        assert!(is_full(100 << 30, (1 << 30) - 1) && !is_full(100 << 30, 1 << 30));
        assert!(is_full(10 << 40, (4 << 30) - 1) && !is_full(10 << 40, 4 << 30));
    }

    #[test]
    fn a_lack_of_room_that_goes_on_is_told_of_once_a_minute() {
        let (mut shortages, now) = (Shortages::default(), Instant::now());
        assert!(shortages.is_time(now));
        shortages.told(now);
        assert!(!shortages.is_time(now + Duration::from_secs(59)));
        assert!(shortages.is_time(now + Duration::from_secs(60)));
    }

    #[test]
    fn only_folders_that_are_watched_count() {
        assert_eq!(Room::default().full(), None);
        assert_eq!(Room::in_folders(vec!["/none".into()]).full(), None);
    }
}
