//! Disks for guests, and fio in guests to try them with.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{guests, tool};

/// An empty disk that goes away with the test.
pub struct Scratch {
    folder: TempDir,
    path: PathBuf,
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

    fn named(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        Self { folder, path }
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
/// a checksum of its own. What it found is printed for [`Fio::of`].
pub fn fio(device: &str, options: &str) -> String {
    format!(
        "fio --name=job --thread --minimal --output=/tmp/fio --filename={device} --direct=1 \
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
    /// Reads the last result off a guest's output. Any error that fio met, a wrong checksum above all, fails the test.
    #[track_caller]
    pub fn of(log: &str) -> Self {
        let result = guests::value(log, "fio");
        let (status, numbers) = result.split_once(',').unwrap();
        let numbers: Vec<u64> = numbers.split(';').filter_map(|n| n.parse().ok()).collect();
        let [error, read, written] = numbers[..] else { panic!("fio said {result}:\n{log}") };
        assert_eq!((status, error), ("0", 0), "fio met an error:\n{log}");
        Self { read, written }
    }
}
