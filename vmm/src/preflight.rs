//! What can be told to be wrong with a run before KVM is touched.
//!
//! The libraries find these errors too, some of them late and in other words; here
//! they are found at once and said with the flag to change.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use resources::Size;
use resources::config::VmConfig;

/// A reason not to start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such file.
    #[error("the {what} {} does not exist; {remedy}", .path.display())]
    Missing {
        /// Kernel or initrd.
        what: &'static str,
        /// As given.
        path: PathBuf,
        /// What to give instead.
        remedy: &'static str,
    },
    /// A folder, a device, a pipe.
    #[error("the {what} {} is {kind}, not a file; {remedy}", .path.display())]
    NotAFile {
        /// Kernel or initrd.
        what: &'static str,
        /// As given.
        path: PathBuf,
        /// What it is instead.
        kind: &'static str,
        /// What to give instead.
        remedy: &'static str,
    },
    /// The file is there but closed to this user.
    #[error("the {what} {} may not be read by this user; make it readable (sudo chmod a+r {}) or give a copy that is", .path.display(), .path.display())]
    Unreadable {
        /// Kernel or initrd.
        what: &'static str,
        /// As given.
        path: PathBuf,
    },
    /// Any other failure to look at the file.
    #[error("the {what} {} cannot be opened; {remedy}", .path.display())]
    Open {
        /// Kernel or initrd.
        what: &'static str,
        /// As given.
        path: PathBuf,
        /// What to give instead.
        remedy: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// More memory than there is.
    #[error("memory is {asked}, but this host has {} in all; ask for less with --memory", .host.approximate())]
    Memory {
        /// What the guest is to have.
        asked: Size,
        /// What the host has.
        host: Size,
    },
}

const KERNEL: &str = "give --kernel a bzImage or an ELF vmlinux, such as a /boot/vmlinuz file";
const INITRD: &str = "give --initrd an initramfs image, or leave it out";

/// Checks the files and the memory that `config` names.
///
/// # Errors
///
/// The first thing that is wrong.
pub fn check(config: &VmConfig) -> Result<(), Error> {
    check_file("kernel", &config.kernel, KERNEL)?;
    if let Some(initrd) = &config.initrd {
        check_file("initrd", initrd, INITRD)?;
    }
    check_memory(config.memory.size, host_memory())
}

fn check_file(what: &'static str, path: &Path, remedy: &'static str) -> Result<(), Error> {
    let failed = |source: io::Error| {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Error::Missing { what, path, remedy },
            io::ErrorKind::PermissionDenied => Error::Unreadable { what, path },
            _ => Error::Open { what, path, remedy, source },
        }
    };
    // Asked first: opening a pipe would wait for its writer.
    let found = fs::metadata(path).map_err(failed)?;
    if !found.is_file() {
        let kind = if found.is_dir() { "a folder" } else { "a device or a pipe" };
        return Err(Error::NotAFile { what, path: path.to_owned(), kind, remedy });
    }
    File::open(path).map(drop).map_err(failed)
}

fn check_memory(asked: Size, host: Size) -> Result<(), Error> {
    if asked > host { Err(Error::Memory { asked, host }) } else { Ok(()) }
}

/// All memory of the host. sysinfo(2) says what `/proc/meminfo` does, without making its text.
fn host_memory() -> Size {
    let info = rustix::system::sysinfo();
    // The types of these fields differ between C libraries.
    #[allow(clippy::useless_conversion)]
    let (count, unit) = (u64::from(info.totalram), u64::from(info.mem_unit));
    Size::from_bytes(count.saturating_mul(unit))
}

#[cfg(test)]
#[path = "preflight_test.rs"]
mod preflight_test;
