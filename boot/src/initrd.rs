//! The initial RAM disk: an opened file that is read straight into guest memory at every boot.
//!
//! Where it goes is decided together with the kernel's place, in [`crate::BootSource`].

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::layout::PAGE_SIZE;

/// Why an initrd cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file's metadata cannot be read.
    #[error("cannot examine the initrd {}", .path.display())]
    Examine {
        /// The file.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// A pipe, directory or device; a reboot could not read it again.
    #[error("the initrd {} is not a regular file; write it to a file first", .0.display())]
    NotRegular(PathBuf),
    /// Nothing to load.
    #[error("the initrd {} is empty; leave it out or build it again", .0.display())]
    Empty(PathBuf),
    /// Reading into guest memory failed, for instance because the file has become shorter.
    #[error("cannot read {size} bytes of the initrd {} into guest memory", .path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// Its size when it was opened, in bytes.
        size: u64,
        /// What failed.
        #[source]
        source: vm_memory::GuestMemoryError,
    },
    /// The file cannot be read from its start.
    #[error("cannot rewind the initrd {}", .path.display())]
    Rewind {
        /// The file.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
}

/// An initrd kept open, so that a reboot loads it again.
#[derive(Debug)]
pub struct Initrd {
    // The lock covers the file's cursor: guest memory is filled with plain reads.
    file: Mutex<File>,
    path: PathBuf,
    size: u64,
}

impl Initrd {
    /// Takes a file opened for reading; `path` is only for messages.
    pub fn open(file: File, path: &Path) -> Result<Self, Error> {
        let metadata =
            file.metadata().map_err(|source| Error::Examine { path: path.to_owned(), source })?;
        if !metadata.is_file() {
            return Err(Error::NotRegular(path.to_owned()));
        }
        if metadata.len() == 0 {
            return Err(Error::Empty(path.to_owned()));
        }
        Ok(Self { file: Mutex::new(file), path: path.to_owned(), size: metadata.len() })
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The path for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The highest page-aligned place that ends at or below `ceiling` and starts at or above
    /// `floor`, if there is one.
    pub fn place(&self, floor: u64, ceiling: u64) -> Option<Range<u64>> {
        let start = ceiling.checked_sub(self.size)? / PAGE_SIZE * PAGE_SIZE;
        (start >= floor).then(|| start..start + self.size)
    }

    /// Reads the file to guest-physical `address`.
    pub fn load<M: GuestMemoryBackend>(&self, memory: &M, address: u64) -> Result<(), Error> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(0))
            .map_err(|source| Error::Rewind { path: self.path.clone(), source })?;
        let fail = |source| Error::Load { path: self.path.clone(), size: self.size, source };
        let size = usize::try_from(self.size)
            .map_err(|_| fail(vm_memory::GuestMemoryError::GuestAddressOverflow))?;
        memory.read_exact_volatile_from(GuestAddress(address), &mut *file, size).map_err(fail)
    }
}

#[cfg(test)]
#[path = "initrd_test.rs"]
mod initrd_test;
