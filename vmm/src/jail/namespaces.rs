//! Namespaces (namespaces(7)) with nothing in them: an empty root that cannot be written to, no network, no System
//! V objects, no host name. Who may make none makes them in a user namespace of their own.
//!
//! There is no process namespace: a process cannot move into one, and which process it is says who the guest's
//! VMM is to everybody else. Filters of system calls and Landlock keep other processes out of reach.
#![allow(unsafe_code)] // unshare(2) and pivot_root(2).

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change,
    mount_remount, unmount,
};
use rustix::process::{chdir, pivot_root};
use rustix::thread::{
    CapabilitySet, ThreadNameSpaceType, UnshareFlags, capabilities, move_into_thread_name_spaces,
};

use super::SOCKETS;

/// Where the new root is mounted before it is the root: exists on every host, and is covered only here.
const PLACE: &str = "/proc";

/// Those that take the kernel long to make, and that nothing is mounted in or mapped to: another process can make
/// them in the meantime.
const LENDABLE: UnshareFlags =
    UnshareFlags::NEWNET.union(UnshareFlags::NEWIPC).union(UnshareFlags::NEWUTS);

static NESTED: AtomicBool = AtomicBool::new(false);

/// Whether the process is in a user namespace that [`enter`] made.
pub fn is_nested() -> bool {
    NESTED.load(Ordering::Relaxed)
}

/// Moves this process into new namespaces that another one can [`enter`] later. Says whether it has: that takes
/// privilege.
pub fn prepare() -> bool {
    is_privileged().unwrap_or(false) && unshare(LENDABLE).is_ok()
}

/// Moves this process, which must have one thread, into new namespaces; of the file systems nothing is left but
/// the folder `sockets`, at [`SOCKETS`]. `lender` (a pidfd) is a process that has [prepared](prepare) some.
///
/// # Errors
///
/// The host does not let this user make namespaces, or mount anything in them.
pub fn enter(sockets: Option<&Path>, lender: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let own = UnshareFlags::NEWNS | UnshareFlags::NEWCGROUP;
    if is_privileged()? {
        match lender.map(borrow) {
            Some(Ok(())) => unshare(own)?,
            Some(Err(_)) | None => unshare(own | LENDABLE)?,
        }
    } else {
        let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
        unshare(own | LENDABLE | UnshareFlags::NEWUSER)?;
        NESTED.store(true, Ordering::Relaxed);
        // The same numbers as outside; nobody else has any.
        let (user, group) = (user.as_raw(), group.as_raw());
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
        fs::write("/proc/self/gid_map", format!("{group} {group} 1"))?;
    }
    empty_root(sockets)
}

fn is_privileged() -> io::Result<bool> {
    Ok(capabilities(None)?.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// Joins the namespaces that the process `lender` has made.
fn borrow(lender: BorrowedFd<'_>) -> io::Result<()> {
    let spaces = ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME;
    Ok(move_into_thread_name_spaces(lender, spaces)?)
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: no descriptor is shared or closed by it.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

fn empty_root(sockets: Option<&Path>) -> io::Result<()> {
    let none = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    // Before the place is covered, where relative paths may lead through.
    let sockets = sockets.map(|path| rustix::fs::open(path, folder(), rustix::fs::Mode::empty()));
    let sockets = sockets.transpose()?;
    mount("carve", PLACE, "tmpfs", none, Some(c"size=4k,nr_inodes=4,mode=0555"))?;
    chdir(PLACE)?;
    if let Some(sockets) = sockets {
        let place = SOCKETS.trim_start_matches('/');
        fs::create_dir(place)?;
        rustix::process::fchdir(&sockets)?;
        let at = format!("{PLACE}{SOCKETS}");
        mount_bind_recursive(".", &at)?;
        chdir(PLACE)?;
    }
    mount_remount(PLACE, none | MountFlags::BIND | MountFlags::RDONLY, c"")?;
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    Ok(chdir("/")?)
}

fn folder() -> rustix::fs::OFlags {
    rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC
}
