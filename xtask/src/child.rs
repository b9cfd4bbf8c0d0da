//! What a child process sets up between fork and exec, which `std` has no safe interface for.
#![allow(unsafe_code, reason = "Command::pre_exec is unsafe: its closure runs in the forked child")]

use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::Signal;

/// Has the kernel kill the child when the thread that starts it ends, however that comes about. Start such a child from a thread that
/// lives as long as the process.
pub fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            Ok(())
        });
    }
}

/// Makes the child the leader of a session of its own; with `terminal`, its standard input becomes the
/// session's controlling terminal.
pub fn lead_session(command: &mut Command, terminal: bool) {
    // SAFETY: between fork and exec the closure makes two system calls and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            rustix::process::setsid()?;
            if terminal {
                rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
            }
            Ok(())
        });
    }
}
