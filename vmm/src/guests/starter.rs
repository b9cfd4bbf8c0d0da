//! [`Starter`]: the part of a monitor that starts programs, as a process of its own. The monitor can start none once it
//! hears what its guest's VMM says (see [`Process::Monitor`](crate::jail::seccomp::Process)), and a VMM needs more than
//! it could inherit. The starter hears its monitor alone, and ends with it; VMMs go on.
#![allow(unsafe_code)] // fork.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::Child;

use rustix::process::Pid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::messages::{pair, receive, send};

/// What a starter is asked for.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    /// Start the VMM, which is the guest's so-manyeth start by the restart policy.
    Start(u32),
    /// Wait for its end, and say what signal that was.
    Bury,
}

/// A process that starts VMMs. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Starter {
    socket: OwnedFd,
}

/// A VMM that was started.
#[derive(Debug)]
pub(super) struct Started {
    /// It. Nobody else has its id before it is [buried](Starter::bury).
    pub pid: Pid,
    /// Its standard output.
    pub output: OwnedFd,
}

impl Starter {
    /// Makes the process, which starts by `start`: with a pipe for standard output. This one must have no other thread.
    ///
    /// # Errors
    ///
    /// The host has no more processes or descriptors.
    pub fn fork(start: impl Fn(u32) -> io::Result<Child>) -> io::Result<Self> {
        let (ours, theirs) = pair()?;
        // SAFETY: there is no other thread, so that nothing is left half done in the child.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                drop(ours);
                let _ = rustix::thread::set_name(c"carve-starter");
                let _ = serve(theirs.as_fd(), start);
                // SAFETY: ends the process without running what belongs to its parent.
                unsafe { libc::_exit(0) }
            }
            _ => Ok(Self { socket: ours }),
        }
    }

    /// Starts a VMM. The one before must be buried.
    ///
    /// # Errors
    ///
    /// It cannot be started, or the starter is gone.
    pub fn start(&self, restarts: u32) -> io::Result<Started> {
        let started: (Result<i32, i32>, _) = self.ask(&Order::Start(restarts))?;
        let (Ok(pid), Some(output)) = started else {
            let why = started.0.err().map(io::Error::from_raw_os_error);
            return Err(why.unwrap_or_else(gone));
        };
        Ok(Started { pid: Pid::from_raw(pid).ok_or_else(gone)?, output })
    }

    /// Waits for the end of the VMM that was started last. Returns the signal that ended it.
    ///
    /// # Errors
    ///
    /// The starter is gone.
    pub fn bury(&self) -> io::Result<Option<i32>> {
        Ok(self.ask(&Order::Bury)?.0)
    }

    fn ask<T: DeserializeOwned>(&self, order: &Order) -> io::Result<(T, Option<OwnedFd>)> {
        send(self.socket.as_fd(), order, None)?;
        receive(self.socket.as_fd())?.ok_or_else(gone)
    }
}

fn gone() -> io::Error {
    io::Error::other("the process that does it (carve-starter) is gone")
}

/// Follows orders until there is nobody left who gives any.
fn serve(orders: BorrowedFd<'_>, start: impl Fn(u32) -> io::Result<Child>) -> io::Result<()> {
    let mut running: Option<Child> = None;
    while let Some((order, _)) = receive(orders)? {
        match order {
            Order::Start(restarts) => match start(restarts) {
                Ok(mut child) => {
                    let pid = Pid::from_child(&child).as_raw_pid();
                    let output = child.stdout.take().map(OwnedFd::from);
                    running = Some(child);
                    send(orders, &Ok::<_, i32>(pid), output.as_ref().map(AsFd::as_fd))?;
                }
                Err(error) => {
                    let number = error.raw_os_error().unwrap_or(libc::EIO);
                    send(orders, &Err::<i32, _>(number), None)?;
                }
            },
            Order::Bury => {
                let status = running.take().map(|mut child| child.wait()).transpose()?;
                send(orders, &status.and_then(|status| status.signal()), None)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod starter_test {
    use std::fs::File;
    use std::io::Read;
    use std::process::{Command, Stdio};

    use rustix::process::{PidfdFlags, pidfd_open};

    use super::*;

    /// One that runs `script`, and reports to this thread as its own thread.
    fn starter(script: &'static str) -> Starter {
        let (ours, theirs) = pair().unwrap();
        let start = move |restarts: u32| {
            let mut command = Command::new(if script.is_empty() { "/nonsense" } else { "sh" });
            command.args(["-c", script, "sh", &restarts.to_string()]).stdout(Stdio::piped()).spawn()
        };
        std::thread::spawn(move || serve(theirs.as_fd(), start));
        Starter { socket: ours }
    }

    #[test]
    fn one_after_the_other_is_started_heard_and_buried() {
        let starter = starter("echo start $1; test $1 = 1 && kill -TERM $$; exit 3");
        for (restarts, signal) in [(0, None), (1, Some(libc::SIGTERM))] {
            let Started { pid, output } = starter.start(restarts).unwrap();
            let mut said = String::new();
            File::from(output).read_to_string(&mut said).unwrap();
            assert_eq!(said, format!("start {restarts}\n"));
            // It is not taken back from the kernel before.
            pidfd_open(pid, PidfdFlags::empty()).unwrap();
            assert_eq!(starter.bury().unwrap(), signal);
        }
    }

    #[test]
    fn what_cannot_be_started_is_told() {
        let error = starter("").start(0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn without_a_starter_nothing_is_started() {
        let (ours, theirs) = pair().unwrap();
        drop(theirs);
        assert!(Starter { socket: ours }.start(0).is_err());
    }
}
