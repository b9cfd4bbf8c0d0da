//! What a host offers for keeping guests in, and what its processor leaks, for `carve doctor`.
#![allow(unsafe_code)] // fork(2) and landlock_create_ruleset(2).

use std::fs;
use std::io;
use std::path::Path;

use rustix::process::{Pid, WaitOptions, waitpid};

use super::namespaces;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Support {
    /// Filters of system calls whose violations can be told (`SECCOMP_RET_TRAP`).
    pub seccomp: bool,
    /// The version of Landlock, if the kernel has it and it is turned on.
    pub landlock: Option<u32>,
    /// Whether this user can have namespaces with an empty root, or why not.
    pub namespaces: Result<(), String>,
    /// What the host says about itself.
    pub leaks: Leaks,
}

/// Ways between guests that are the processor's or the kernel's, as far as the host tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leaks {
    /// Whether the kernel looks for pages with the same contents (KSM).
    pub merging: Option<bool>,
    /// What is done about guests that can halt the processor through executable huge pages (iTLB multihit).
    pub huge_pages: Option<String>,
    /// Weaknesses of the processor that are open: their names in sysfs, and what the kernel says.
    pub open: Vec<(String, String)>,
    /// Weaknesses that the kernel knows of.
    pub known: usize,
    /// Revision of the processor's microcode.
    pub microcode: Option<String>,
}

/// Looks at this host. The process must have no other thread.
pub fn look() -> Support {
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    Support {
        seccomp: actions.split_whitespace().any(|action| action == "trap"),
        landlock: landlock_version(),
        namespaces: try_namespaces().map_err(|error| error.to_string()),
        leaks: Leaks::read(Path::new("/")),
    }
}

impl Leaks {
    /// Reads what `/proc` and `/sys` below `root` say.
    pub fn read(root: &Path) -> Self {
        let text = |path: &str| {
            fs::read_to_string(root.join(path)).ok().map(|text| text.trim().to_owned())
        };
        let folder = root.join("sys/devices/system/cpu/vulnerabilities");
        let mut known: Vec<(String, String)> = fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|file| {
                let says = fs::read_to_string(file.path()).ok()?;
                Some((file.file_name().into_string().ok()?, says.trim().to_owned()))
            })
            .collect();
        known.sort();
        let microcode = text("proc/cpuinfo").and_then(|cpus| {
            let line = cpus.lines().find(|line| line.starts_with("microcode"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        });
        let is_open = |says: &str| says.to_lowercase().contains("vulnerable");
        Self {
            merging: text("sys/kernel/mm/ksm/run").map(|run| run == "1"),
            huge_pages: known
                .iter()
                .find(|(name, _)| name == "itlb_multihit")
                .map(|(_, says)| says.clone()),
            known: known.len(),
            open: known.into_iter().filter(|(_, says)| is_open(says)).collect(),
            microcode,
        }
    }
}

fn landlock_version() -> Option<u32> {
    const VERSION: libc::c_long = 1;
    // SAFETY: without attributes it only asks for the version.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0_usize,
            VERSION,
        )
    };
    u32::try_from(version).ok().filter(|&version| version > 0)
}

/// Enters namespaces as a guest's process does, in a process for that.
fn try_namespaces() -> io::Result<()> {
    // SAFETY: there is no other thread, so that nothing is left half done in the child.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = namespaces::enter(None, None)
                .err()
                .map_or(0, |e| e.raw_os_error().unwrap_or(libc::EIO));
            // SAFETY: ends the process without running what belongs to its parent.
            unsafe { libc::_exit(code & 0xff) }
        }
        pid => {
            let status = waitpid(Pid::from_raw(pid), WaitOptions::empty())?;
            match status.and_then(|(_, status)| status.exit_status()) {
                Some(0) => Ok(()),
                Some(code) => Err(io::Error::from_raw_os_error(code)),
                None => Err(io::ErrorKind::Interrupted.into()),
            }
        }
    }
}

#[cfg(test)]
mod support_test {
    use super::*;

    #[test]
    fn what_the_host_says_is_read() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(Leaks::read(root.path()), Leaks::default());
        write("sys/kernel/mm/ksm/run", "1\n");
        write("proc/cpuinfo", "processor\t: 0\nmicrocode\t: 0xffffffff\n");
        let folder = "sys/devices/system/cpu/vulnerabilities";
        write(&format!("{folder}/itlb_multihit"), "KVM: Mitigation: VMX disabled\n");
        write(&format!("{folder}/mds"), "Mitigation: Clear CPU buffers; SMT vulnerable\n");
        write(&format!("{folder}/meltdown"), "Not affected\n");
        let leaks = Leaks::read(root.path());
        assert_eq!((leaks.merging, leaks.known), (Some(true), 3));
        assert_eq!(leaks.huge_pages.as_deref(), Some("KVM: Mitigation: VMX disabled"));
        let mds = ("mds".to_owned(), "Mitigation: Clear CPU buffers; SMT vulnerable".to_owned());
        assert_eq!((leaks.open, leaks.microcode.as_deref()), (vec![mds], Some("0xffffffff")));
    }
}
