//! What a process gives up of its own: descriptors and environment it was started with, core dumps, the rights
//! of its user, new privileges.
#![allow(unsafe_code)] // prctl(2), and the environment.

use std::fs;
use std::io;
use std::os::fd::RawFd;

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid};

/// The first of the users that VMMs become. The numbers from here up to 2^31 are nobody's by convention
/// (systemd, Users, Groups, UIDs and GIDs), and a process id is below 2^22, so each running VMM is another.
const FIRST_USER: u32 = 0x7000_0000;

/// Has the kernel merge no page of this process with one of another, whatever others asked for on its behalf
/// (prctl(2), PR_SET_MEMORY_MERGE): who writes to a merged page can tell by the time that takes that another
/// guest has the same.
pub fn keep_memory_private() {
    const PR_SET_MEMORY_MERGE: i32 = 67;
    // SAFETY: changes a flag of this process. Kernels before 6.4 have none, and merge nothing unasked.
    unsafe { libc::prctl(PR_SET_MEMORY_MERGE, 0, 0, 0, 0) };
}

/// Closes what came from whoever started this program and is none of the standard descriptors: everything
/// of its own is closed on exec.
pub fn close_inherited() {
    let listed = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers = listed.filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    for number in numbers.filter(|&number| number > 2).collect::<Vec<_>>() {
        // SAFETY: asks only; a descriptor that was of the listing itself is closed, which is an error.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        if flags >= 0 && flags & libc::FD_CLOEXEC == 0 {
            // SAFETY: not opened by this program, so nothing in it refers to it.
            unsafe { libc::close(number) };
        }
    }
}

/// Empties the environment, in memory as well: it may hold what a guest has no business with.
pub fn clear_environment() {
    unsafe extern "C" {
        static mut environ: *mut *mut libc::c_char;
    }
    // SAFETY: the C library's list, which ends with null; there is no other thread.
    let mut at = unsafe { environ };
    // SAFETY: as above, inside the list.
    while let Some(entry) = (!at.is_null()).then(|| unsafe { *at }).filter(|text| !text.is_null()) {
        // SAFETY: a string of that list.
        let len = unsafe { libc::strlen(entry) };
        // SAFETY: `len` bytes of it; they stay a string, of zero length.
        unsafe { std::ptr::write_bytes(entry, 0, len) };
        // SAFETY: up to the null at the end.
        at = unsafe { at.add(1) };
    }
    // SAFETY: no other thread reads it.
    unsafe { libc::clearenv() };
}

/// The most memory that a VMM may keep from being swapped out (mlock(2)): rings of disks are that to kernels before 5.12.
/// Guest memory is the host's to swap.
const LOCKED: u64 = 8 << 20;

/// Leaves no memory of a guest in core dumps, and locks next to none.
pub fn limit() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    bound(Resource::Memlock, LOCKED)
}

/// Has this process's user, who is nobody else, run so many threads at most.
pub fn limit_threads(most: u64) -> io::Result<()> {
    bound(Resource::Nproc, most)
}

/// Lowers a limit for good, if it is not lower.
fn bound(resource: Resource, most: u64) -> io::Result<()> {
    let lowered = |limit: Option<u64>| Some(limit.map_or(most, |limit| limit.min(most)));
    let Rlimit { current, maximum } = getrlimit(resource);
    Ok(setrlimit(resource, Rlimit { current: lowered(current), maximum: lowered(maximum) })?)
}

/// Becomes a user and group of this process's own, in no other group. For root.
pub fn change_user() -> io::Result<()> {
    let number = FIRST_USER + rustix::process::getpid().as_raw_pid().unsigned_abs();
    let (user, group) = (Uid::from_raw(number), Gid::from_raw(number));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(group, group, group)?;
    Ok(rustix::thread::set_thread_res_uid(user, user, user)?)
}

/// Gives up all capabilities, for good.
pub fn drop_capabilities() -> io::Result<()> {
    // Those that the kernel has no name for yet are at the end, where it refuses.
    for bit in 0..64 {
        let set = CapabilitySet::from_bits_retain(1 << bit);
        if rustix::thread::remove_capability_from_bounding_set(set).is_err() {
            // No right to, or no such capability: a program that is executed gets none in any case
            // (no_new_privs).
            break;
        }
    }
    let _ = rustix::thread::clear_ambient_capability_set();
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// From now on executing a program gives no privilege.
pub fn no_new_privileges() -> io::Result<()> {
    Ok(rustix::thread::set_no_new_privs(true)?)
}

/// Keeps other processes of the user from looking into this one (ptrace(2), /proc/PID/mem), and leaves no core.
pub fn not_dumpable() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Asks the processor not to speculate across what a guest could measure: store bypass, and indirect branches of
/// others' making (Documentation/userspace-api/spec_ctrl.rst). Where that cannot be asked for it is not
/// needed, or decided for the whole host.
pub fn control_speculation() {
    const PR_SET_SPECULATION_CTRL: i32 = 53;
    const STORE_BYPASS: libc::c_ulong = 0;
    const INDIRECT_BRANCH: libc::c_ulong = 1;
    const DISABLE: libc::c_ulong = 1 << 2;
    for what in [STORE_BYPASS, INDIRECT_BRANCH] {
        // SAFETY: changes how this thread, and those it starts, are run.
        unsafe { libc::prctl(PR_SET_SPECULATION_CTRL, what, DISABLE, 0, 0) };
    }
}
