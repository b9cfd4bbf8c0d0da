//! [`Settings`]: what a VMM does to itself before it has any other thread, so that all of them have it.
#![allow(unsafe_code)] // set_mempolicy(2) has no safe wrapper.

use std::fs;
use std::io;

use rustix::process::Pid;
use rustix::thread::{
    CoreSchedulingScope, CpuSet as Mask, create_core_scheduling_cookie, sched_getaffinity,
    sched_setaffinity,
};

use crate::CpuSet;

/// Most NUMA nodes of a kernel (`CONFIG_NODES_SHIFT` is at most 10).
const NODES: usize = 1024;
/// Memory of these nodes where they have some, of others where not; Linux 5.15.
const MPOL_PREFERRED_MANY: libc::c_int = 5;

/// What a process asks of the scheduler and of memory management for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Where threads run that say nothing else; anywhere if empty.
    pub cpus: CpuSet,
    /// NUMA nodes whose memory is wanted; any if empty.
    pub nodes: CpuSet,
    /// Whether siblings of a core must not run anything else while these threads run.
    pub core_scheduling: bool,
    /// `oom_score_adj`, -1000 to 1000.
    pub oom_score_adj: i32,
}

/// What the kernel would not do.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}")]
pub struct ProcessError {
    /// Which of the settings it is, in a word.
    pub setting: &'static str,
    what: &'static str,
    source: io::Error,
}

impl Settings {
    /// Applies them to the process that calls, which has one thread. Returns those that the kernel refuses.
    #[must_use]
    pub fn apply(&self) -> Vec<ProcessError> {
        let mut refused = Vec::new();
        let mut tried = |setting, what, result: io::Result<()>| {
            refused.extend(result.err().map(|source| ProcessError { setting, what, source }));
        };
        if !self.cpus.is_empty() {
            let what = "keep the process to its CPUs (sched_setaffinity(2))";
            tried("affinity", what, pin(&self.cpus));
        }
        if !self.nodes.is_empty() {
            let what = "ask for memory of its NUMA nodes (set_mempolicy(2))";
            tried("numa", what, prefer(&self.nodes));
        }
        if self.core_scheduling {
            let own = rustix::process::getpid();
            let made = create_core_scheduling_cookie(own, CoreSchedulingScope::ThreadGroup);
            let what = "keep siblings of cores to itself (PR_SCHED_CORE of prctl(2))";
            tried("core-scheduling", what, made.map_err(Into::into));
        }
        if self.oom_score_adj != 0 {
            let score = self.oom_score_adj.to_string();
            let written = fs::write("/proc/self/oom_score_adj", score);
            tried("oom_score_adj", "write /proc/self/oom_score_adj", written);
        }
        refused
    }
}

/// Keeps the thread that calls to `cpus`.
///
/// # Errors
///
/// None of them may be used by this process.
pub fn pin(cpus: &CpuSet) -> io::Result<()> {
    let mut mask = Mask::new();
    for cpu in cpus.iter().filter(|&cpu| (cpu as usize) < Mask::MAX_CPU) {
        mask.set(cpu as usize);
    }
    Ok(sched_setaffinity(None, &mask)?)
}

/// The CPUs that a thread may run on.
///
/// # Errors
///
/// It is gone.
pub fn affinity_of(thread: u32) -> io::Result<CpuSet> {
    let thread = i32::try_from(thread).ok().and_then(Pid::from_raw);
    let mask = sched_getaffinity(Some(thread.ok_or(io::ErrorKind::InvalidInput)?))?;
    Ok((0..Mask::MAX_CPU)
        .filter(|&cpu| mask.is_set(cpu))
        .filter_map(|cpu| cpu.try_into().ok())
        .collect())
}

fn prefer(nodes: &CpuSet) -> io::Result<()> {
    let mut mask = [0u64; NODES / 64];
    for node in nodes.iter() {
        if let Some(word) = mask.get_mut(node as usize / 64) {
            *word |= 1 << (node % 64);
        }
    }
    // SAFETY: the kernel reads `NODES` bits of the mask.
    let result = unsafe {
        libc::syscall(libc::SYS_set_mempolicy, MPOL_PREFERRED_MANY, mask.as_ptr(), NODES + 1)
    };
    let error = io::Error::last_os_error();
    match (result, error.raw_os_error()) {
        (0, _) => Ok(()),
        // A kernel without NUMA has one node, and no such call; memory on the wrong node is slower,
        // and nothing else.
        (_, Some(libc::ENOSYS | libc::EINVAL)) => Ok(()),
        _ => Err(error),
    }
}

#[cfg(test)]
mod process_test {
    use super::*;

    #[test]
    fn a_thread_is_kept_to_its_cpus() {
        let thread = std::thread::spawn(|| {
            let own = u32::try_from(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            let one: CpuSet = affinity_of(own).unwrap().iter().take(1).collect();
            pin(&one).unwrap();
            (one, affinity_of(own).unwrap())
        });
        let (asked, had) = thread.join().unwrap();
        assert_eq!(asked, had);
    }

    #[test]
    fn memory_is_asked_of_nodes() {
        prefer(&CpuSet::from_iter([0])).unwrap();
    }
}
