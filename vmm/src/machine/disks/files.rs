//! The files behind a VM's disks: opened, and kept from whoever would be in their way.
//!
//! A lock belongs to the inode, whatever path leads there, and to the opened file (OFD locks), so that
//! copies of its descriptor keep it, as do those in devices. The bytes that are locked are QEMU's
//! (its `block/file-posix.c`), which makes both respect each other: byte 100 + p is locked for reading
//! by who has permission p, byte 200 + p by who lets nobody else have it; 1: to write, 3: to resize.
#![allow(unsafe_code)] // fcntl(2) with a lock of an opened file.

use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::error::{Failure, Problem};

/// The permission to write.
const WRITING: libc::off_t = 101;
/// Nobody else may write, nor resize.
const NO_WRITERS: (libc::off_t, libc::off_t) = (201, 3);

/// How long the files of a process that has ended may stay open.
const LAST_MOMENTS: Duration = Duration::from_millis(400);

/// Files of all disks of a VM.
#[derive(Debug, Default)]
pub(super) struct Files {
    used: Vec<Use>,
}

#[derive(Debug)]
struct Use {
    identity: Identity,
    write: bool,
    disk: String,
}

/// What makes two paths those of one file or block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// Device and inode.
    File(u64, u64),
    /// The number of a block device, which several inodes may lead to.
    Device(u64),
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        if metadata.file_type().is_block_device() {
            return Self::Device(metadata.rdev());
        }
        Self::File(metadata.dev(), metadata.ino())
    }

    /// What `path` leads to.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::of(&metadata))
    }
}

impl Files {
    /// Opens and locks a file or block device for the disk called `disk`.
    pub(super) fn open(&mut self, disk: &str, path: &Path, write: bool) -> Result<File, Failure> {
        let result = self.try_open(disk, path, write);
        result.map_err(|problem| Failure { path: path.to_owned(), problem })
    }

    fn try_open(&mut self, disk: &str, path: &Path, write: bool) -> Result<File, Problem> {
        // Looked at before it is opened, which may wait for somebody (FIFOs) or do something (devices).
        let refused = |error| refusal(error, write);
        check_kind(fs::metadata(path).map_err(refused)?.file_type())?;
        let file = OpenOptions::new().read(true).write(write).open(path).map_err(refused)?;
        let metadata = file.metadata().map_err(refused)?;
        check_kind(metadata.file_type())?;
        let identity = Identity::of(&metadata);
        let other = self.used.iter().find(|used| used.identity == identity && used.write | write);
        if let Some(other) = other {
            return Err(Problem::Twice(other.disk.clone()));
        }
        let file = match identity {
            Identity::Device(_) if write => claim(path, file)?,
            _ => file,
        };
        lock(&file, write)?;
        self.used.push(Use { identity, write, disk: disk.to_owned() });
        Ok(file)
    }
}

/// Makes the I/O of a file direct. Afterwards, so that what a file is can be seen without.
pub(super) fn make_direct(file: &File) -> Result<(), Problem> {
    let done = fcntl_getfl(file).and_then(|flags| fcntl_setfl(file, flags | OFlags::DIRECT));
    done.map_err(|error| Problem::NoDirect(error.into()))
}

fn refusal(error: io::Error, write: bool) -> Problem {
    match error.raw_os_error() {
        Some(libc::ENOENT) => Problem::Missing,
        Some(libc::EACCES | libc::EPERM | libc::EROFS) if write => Problem::Unwritable,
        Some(libc::EACCES | libc::EPERM) => Problem::Unreadable,
        _ => Problem::Open(error),
    }
}

fn check_kind(kind: FileType) -> Result<(), Problem> {
    let other = match kind {
        kind if kind.is_file() || kind.is_block_device() => return Ok(()),
        kind if kind.is_dir() => "a folder",
        kind if kind.is_char_device() => "a character device",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        _ => "something else",
    };
    Err(Problem::Kind(other))
}

/// Opens a block device once more such that neither a file system of the host nor another VM has it, by
/// whatever inode (O_EXCL; open(2)).
fn claim(path: &Path, opened: File) -> Result<File, Problem> {
    drop(opened);
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_EXCL).open(path);
    file.map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) => Problem::Claimed,
        _ => refusal(error, true),
    })
}

/// Locks a file as [`try_lock`], waiting a little for a VM that has just ended: the kernel closes the
/// files of its rings (io_uring) afterwards, on a thread of its own.
fn lock(file: &File, write: bool) -> Result<(), Problem> {
    let deadline = Instant::now() + LAST_MOMENTS;
    loop {
        match try_lock(file, write) {
            Err(Problem::WriteLocked | Problem::ReadLocked) if Instant::now() < deadline => {
                thread::sleep(LAST_MOMENTS / 20);
            }
            result => return result,
        }
    }
}

/// Locks a file until it is closed, so that who writes is alone, and nobody writes what others read.
fn try_lock(file: &File, write: bool) -> Result<(), Problem> {
    if write {
        // Bytes of all permissions: nobody may have any.
        return match ofd_lock(file, libc::F_OFD_SETLK, libc::F_WRLCK, (0, 0)) {
            Ok(_) => Ok(()),
            Err(error) if is_conflict(&error) => Err(Problem::WriteLocked),
            Err(error) => Err(Problem::Lock(error)),
        };
    }
    // First locked and then looked, as everybody does: of two at once, one at least sees the other.
    let locked = ofd_lock(file, libc::F_OFD_SETLK, libc::F_RDLCK, NO_WRITERS)
        .and_then(|_| ofd_lock(file, libc::F_OFD_GETLK, libc::F_WRLCK, (WRITING, 1)));
    match locked {
        Ok(libc::F_UNLCK) => Ok(()),
        Ok(_) => Err(Problem::ReadLocked),
        Err(error) if is_conflict(&error) => Err(Problem::ReadLocked),
        Err(error) => {
            tracing::warn!("a read-only disk cannot be locked against writers: {error}");
            Ok(())
        }
    }
}

fn is_conflict(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES))
}

/// Sets a lock of `length` bytes (0: all) from `start` on, or asks for one in its way; its type then.
fn ofd_lock(
    file: &File,
    command: libc::c_int,
    kind: libc::c_int,
    (start, length): (libc::off_t, libc::off_t),
) -> io::Result<libc::c_int> {
    let mut lock = libc::flock {
        l_type: libc::c_short::try_from(kind).map_err(io::Error::other)?,
        l_whence: libc::c_short::try_from(libc::SEEK_SET).map_err(io::Error::other)?,
        l_start: start,
        l_len: length,
        // Must be 0 (F_OFD_SETLK).
        l_pid: 0,
    };
    // SAFETY: the kernel reads and writes the structure.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) } {
        0 => Ok(lock.l_type.into()),
        _ => Err(io::Error::last_os_error()),
    }
}
