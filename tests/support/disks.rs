//! Disks for guests, and fio in guests to try them with.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::tool;

/// An empty disk that goes away with the test.
pub struct Scratch {
    path: PathBuf,
    // Gone before the folder is.
    mount: Option<Mount>,
    folder: TempDir,
}

/// A file system that is mounted as long as this lives.
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

impl Scratch {
    /// A raw disk of `size` bytes, all of them a hole.
    pub fn raw(size: u64) -> Self {
        let scratch = Self::named("scratch.img");
        File::create(&scratch.path).unwrap().set_len(size).unwrap();
        scratch
    }

    /// A qcow2 image of a size as qemu-img reads it; `options` as it takes them behind `-o`.
    pub fn qcow2(size: &str, options: &str) -> Self {
        let scratch = Self::named("scratch.qcow2");
        let path = scratch.path.display();
        tool(&format!("qemu-img create -q -f qcow2 -o {options} {path} {size}"));
        scratch
    }

    /// A copy of a file that takes no more room than it.
    pub fn copy(of: &Path) -> Self {
        let scratch = Self::named("copy.img");
        let (from, to) = (of.display(), scratch.path.display());
        tool(&format!("cp --sparse=always --reflink=auto {from} {to}"));
        scratch
    }

    /// Moves it to a file system of its own, which has room for `bytes`.
    pub fn in_room_for(self, bytes: u64) -> Self {
        let name = self.path.file_name().unwrap();
        let mut small = Self::named(name.to_str().unwrap());
        tool(&format!("mount -t tmpfs -o size={bytes} tmpfs {}", small.folder.path().display()));
        small.mount = Some(Mount(small.folder.path().to_owned()));
        let (from, to) = (self.path.display(), small.path.display());
        tool(&format!("cp --sparse=always {from} {to}"));
        small
    }

    /// Gives the file system of [`in_room_for`](Self::in_room_for) room for so many bytes.
    pub fn make_room_for(&self, bytes: u64) {
        tool(&format!("mount -o remount,size={bytes} {}", self.folder.path().display()));
    }

    fn named(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        Self { path, mount: None, folder }
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file beside it, which goes away with it.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The argument that gives it to a guest; `options` begin with a comma.
    pub fn argument(&self, options: &str) -> String {
        format!("--disk path={}{options}", self.path.display())
    }

    /// Bytes that the file takes on the host.
    pub fn allocated(&self) -> u64 {
        self.path.metadata().unwrap().blocks() * 512
    }
}

/// The command of a guest that has fio fill part of `device` by the job `options` and read all of it back, each block with
/// a checksum of its own. What it found is printed for [`Fio::all`].
pub fn fio(device: &str, options: &str) -> String {
    format!(
        "fio --name=job --thread --minimal --eta=never --output=/tmp/fio --filename={device} --direct=1 \
         --ioengine=libaio --iodepth=16 --verify=crc32c --verify_fatal=1 {options}; \
         echo fio=$?,$(cut -d';' -f5,6,47 /tmp/fio | tail -1)"
    )
}

/// What fio did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fio {
    /// KiB read, to verify or otherwise.
    pub read: u64,
    /// KiB written.
    pub written: u64,
}

impl Fio {
    /// Reads the results off a guest's output. Any error that fio met, a wrong checksum above all, fails the test.
    #[track_caller]
    pub fn all(log: &str) -> Vec<Self> {
        let mut all = Vec::new();
        for result in log.lines().filter_map(|line| line.trim().strip_prefix("fio=")) {
            let (status, numbers) = result.split_once(',').unwrap();
            let numbers: Vec<u64> = numbers.split(';').filter_map(|n| n.parse().ok()).collect();
            let [error, read, written] = numbers[..] else { panic!("fio said {result}:\n{log}") };
            assert_eq!((status, error), ("0", 0), "fio met an error:\n{log}");
            all.push(Self { read, written });
        }
        all
    }
}
