//! Setting up the emulated host's user space, as its first process: file systems, modules, limits, clock.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use rustix::mount::{MountFlags, mount, mount_bind};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::time::{ClockId, Timespec, clock_settime};

use super::protocol::Start;
use super::{prepare, qemu};

/// Open files a process may have.
const OPEN_FILES: u64 = 1 << 20;

/// Sets everything up, as a booted system would have it.
pub fn set_up(start: &Start) -> io::Result<()> {
    set_clock(start.now)?;
    mount_all()?;
    mount_share(&start.share)?;
    offer_modules(start)?;
    set_limits()?;
    rustix::system::sethostname(b"carve-host")?;
    Ok(())
}

fn set_clock(now: u64) -> io::Result<()> {
    const NANOSECONDS: u64 = 1_000_000_000;
    let time = Timespec {
        tv_sec: i64::try_from(now / NANOSECONDS).map_err(io::Error::other)?,
        tv_nsec: i64::try_from(now % NANOSECONDS).map_err(io::Error::other)?,
    };
    Ok(clock_settime(ClockId::Realtime, time)?)
}

fn mount_all() -> io::Result<()> {
    let nosuid = MountFlags::NOSUID;
    for (kind, target, flags, options) in [
        ("devpts", "/dev/pts", nosuid, Some(c"gid=5,mode=620,ptmxmode=666")),
        ("tmpfs", "/dev/shm", nosuid, None),
        ("mqueue", "/dev/mqueue", nosuid, None),
        ("hugetlbfs", "/dev/hugepages", nosuid, None),
        ("tmpfs", "/run", nosuid, Some(c"mode=755")),
        ("cgroup2", "/sys/fs/cgroup", nosuid, None),
        ("securityfs", "/sys/kernel/security", nosuid, None),
        ("debugfs", "/sys/kernel/debug", nosuid, None),
    ] {
        let path = Path::new(target);
        // Another first process has mounted some of them.
        if is_mounted(target) {
            continue;
        }
        if !path.exists() {
            fs::create_dir_all(path)?;
        }
        let mounted = mount(kind, path, kind, flags, options);
        mounted.map_err(|error| named(&format!("mount {kind} on {target}"), error))?;
    }
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        match std::os::unix::fs::symlink(target, link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn is_mounted(target: &str) -> bool {
    let mounted = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounted.lines().any(|line| line.split(' ').nth(4) == Some(target))
}

/// Written through to the machine outside: what the command leaves must be there when the host is killed.
fn mount_share(share: &Path) -> io::Result<()> {
    fs::create_dir_all(share)?;
    let options = c"trans=virtio,version=9p2000.L,msize=512000,cache=mmap";
    mount(qemu::SHARE_TAG, share, "9p", MountFlags::empty(), options)
        .map_err(|error| named("mount the share", error))
}

/// Puts the modules where `modprobe` looks, gives the machine a `modprobe` if it has none, and loads those every KVM
/// host has.
fn offer_modules(start: &Start) -> io::Result<()> {
    let release = rustix::system::uname();
    let folder = Path::new("/lib/modules").join(release.release().to_string_lossy().as_ref());
    fs::create_dir_all(&folder)?;
    mount_bind(&start.modules, &folder).map_err(|error| named("offer kernel modules", error))?;
    let modprobe = Path::new("/sbin/modprobe");
    if !modprobe.exists() {
        std::os::unix::fs::symlink(&start.busybox, modprobe)?;
    }
    let output =
        Command::new(&start.busybox).args(["modprobe", "-a"]).args(prepare::LOADED).output()?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("cannot load kernel modules: {message}")))
}

fn set_limits() -> io::Result<()> {
    fs::write("/proc/sys/fs/nr_open", OPEN_FILES.to_string())?;
    let files = Rlimit { current: Some(OPEN_FILES), maximum: Some(OPEN_FILES) };
    let unlimited = Rlimit { current: None, maximum: None };
    setrlimit(Resource::Nofile, files)?;
    setrlimit(Resource::Memlock, unlimited)?;
    setrlimit(Resource::Nproc, unlimited)?;
    Ok(())
}

fn named(doing: &str, error: rustix::io::Errno) -> io::Error {
    io::Error::new(error.kind(), format!("{doing}: {error}"))
}
