//! Why a disk cannot be used.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// What stands in the way of a disk: which one, the file it is about, the reason and the remedy.
#[derive(Debug, thiserror::Error)]
pub struct Error {
    /// The disk as the user wrote it.
    pub disk: String,
    /// The file or block device: the disk's own, one it is based on, or its overlay.
    pub path: PathBuf,
    /// What is wrong with that.
    pub problem: Problem,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { disk, path, problem } = self;
        if path.as_os_str() == disk.as_str() {
            return write!(f, "the disk {disk} {problem}");
        }
        write!(f, "the disk `{disk}` cannot be used: {} {problem}", path.display())
    }
}

/// What is wrong with a file: the end of a sentence that begins with its path.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Problem {
    #[error(
        "does not exist; correct the path, or make a disk of 10 GiB with `truncate -s 10G FILE`"
    )]
    Missing,
    #[error("may not be read by this user; change its permissions, or those of its folders")]
    Unreadable,
    #[error("may not be written by this user; change its permissions, or add `readonly`")]
    Unwritable,
    #[error("cannot be opened: {0}; check the path")]
    Open(io::Error),
    #[error("is {0}, not a file or block device; name a disk image")]
    Kind(&'static str),
    #[error("is empty; give it a size, as with `truncate -s 10G FILE`")]
    Empty,
    #[error(
        "has {size} bytes, which are not whole blocks of {block_size}: the guest would not see the end; \
         fill it up with `truncate -s %{block_size} FILE`, or use another block_size"
    )]
    Ragged { size: u64, block_size: u32 },
    #[error("is on a file system without direct I/O ({0}); leave `direct` out")]
    NoDirect(io::Error),
    #[error(
        "can be read and written directly by {0} bytes only; add block_size={0}, or leave `direct` out"
    )]
    DirectBlocks(u32),
    #[error(
        "is in use by another process, perhaps another VM, that must not see it change; end that, or, \
         for a disk of your own on top of it, add overlay=discard or overlay=FILE"
    )]
    WriteLocked,
    #[error(
        "is being written to by another process, perhaps another VM, and would change while the guest reads it; \
         end that, or make a copy"
    )]
    ReadLocked,
    #[error(
        "is in use by the host: mounted, or part of something that is; end that, or add `readonly`"
    )]
    Claimed,
    #[error(
        "cannot be locked against use by another VM: {0}; put it on a file system with locks, or add `readonly`"
    )]
    Lock(io::Error),
    #[error(
        "is also used by the disk `{0}` of this VM, and one of the two writes to it; make a copy, or add \
         `readonly` to both"
    )]
    Twice(String),
    #[error(
        "is a qcow2 image that refers to another file, {0}; if you trust the image, add format=qcow2; if it is \
         a raw disk after all, add format=raw"
    )]
    BackingUnasked(String),
    #[error("is based on {0}, which is not the path of a file; only images in files can be used")]
    BackingName(String),
    #[error("is based on an image of format {0}; only raw and qcow2 can be used")]
    BackingFormat(String),
    #[error("is number {0} of a chain of images; no disk is based on so many, unless on itself")]
    BackingChain(usize),
    #[error("cannot be used as a qcow2 image: {0}; if it is a raw disk, add format=raw")]
    Image(io::Error),
    #[error("cannot be read: {0}")]
    Read(io::Error),
    #[error(
        "is not an overlay of this disk, but {0}; remove it, or choose another path for the overlay"
    )]
    ForeignOverlay(String),
    #[error("has a path that an overlay cannot refer to, as it is not UTF-8; rename it")]
    NotUtf8,
    #[error("cannot be made: {0}; check that its folder exists and can be written to")]
    CreateOverlay(io::Error),
    #[error(
        "has no room for a temporary overlay: {0}; name another folder in TMPDIR, or use overlay=FILE"
    )]
    Temporary(io::Error),
    #[error("cannot be connected to a device: {0}")]
    Device(io::Error),
}

/// A [`Problem`] of a file, of a disk that the caller knows.
#[derive(Debug)]
pub(super) struct Failure {
    pub path: PathBuf,
    pub problem: Problem,
}

impl Failure {
    pub(super) fn of(self, disk: &str) -> Error {
        Error { disk: disk.to_owned(), path: self.path, problem: self.problem }
    }
}
