//! A process that outlives Carve's SIGKILL by the moment it takes to put the
//! terminal back.
//!
//! It waits on a pipe whose other end closes when Carve is gone, however that
//! happened. If the terminal then still is as Carve set it, nobody has restored it:
//! neither Carve nor the shell. It has a session of its own, so that the terminal's
//! signals and those to Carve's process group pass it by, and shares no file but
//! the terminal.
#![allow(unsafe_code)] // fork, and nothing but system calls after it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

use super::{apply, attributes};

/// The guardian process. Dropping this ends it and waits until it is gone.
#[derive(Debug)]
pub struct Guardian {
    pid: libc::pid_t,
    /// What the guardian waits on; `None` only while it is dropped.
    alive: Option<File>,
}

impl Guardian {
    /// Starts a guardian that turns the modes `raw` back into `found`. Without one, as where the
    /// user may have no more processes, all but SIGKILL is still taken care of.
    pub fn start(found: libc::termios, raw: libc::termios) -> Option<Self> {
        match fork_on_pipe(|| watch(&found, &raw)) {
            Ok(guardian) => Some(guardian),
            Err(error) => {
                tracing::debug!("kill -9 would leave the terminal raw: {error}");
                None
            }
        }
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        self.alive = None;
        loop {
            // SAFETY: waits for our own child; its status is not asked for.
            let waited = unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
            if waited >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                return;
            }
        }
    }
}

/// Forks a process that runs `child` and exits. Its standard input is the terminal, its standard
/// output the pipe's reading end, and nothing else is open in it.
fn fork_on_pipe(child: impl FnOnce()) -> io::Result<Guardian> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let reader = unsafe { File::from_raw_fd(ends[0]) };
    // SAFETY: as above.
    let writer = unsafe { File::from_raw_fd(ends[1]) };
    // SAFETY: there is no other thread yet (see `Raw::enter`), and the child makes system calls only.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: both are open descriptors.
            unsafe { libc::dup2(reader.as_raw_fd(), libc::STDOUT_FILENO) };
            // SAFETY: nothing of these files is used in this process any more. Where the kernel
            // has no close_range, the copies of the standard ones are what matters.
            unsafe { libc::syscall(libc::SYS_close_range, 2, u32::MAX, 0) };
            child();
            // SAFETY: ends the process without running what belongs to its parent.
            unsafe { libc::_exit(0) }
        }
        pid => Ok(Guardian { pid, alive: Some(writer) }),
    }
}

/// Waits until the pipe on standard output closes, then restores what nobody restored.
fn watch(found: &libc::termios, raw: &libc::termios) {
    // A session without controlling terminal: its job control does not apply here.
    // SAFETY: changes this process only.
    unsafe { libc::setsid() };
    // `killall carve` is not meant for this one.
    // SAFETY: the name is a C string.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"carve-terminal".as_ptr()) };
    // Keeps no file system busy.
    // SAFETY: the path is a C string.
    unsafe { libc::chdir(c"/".as_ptr()) };
    let mut byte = 0u8;
    loop {
        // SAFETY: `byte` has room for one.
        let count = unsafe { libc::read(libc::STDOUT_FILENO, (&raw mut byte).cast(), 1) };
        if count >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            break;
        }
    }
    if attributes().is_ok_and(|now| same(&now, raw)) {
        let _ = apply(found);
    }
}

/// Whether two terminals treat their bytes alike.
fn same(a: &libc::termios, b: &libc::termios) -> bool {
    let modes = |t: &libc::termios| (t.c_iflag, t.c_oflag, t.c_cflag, t.c_lflag);
    modes(a) == modes(b)
}
