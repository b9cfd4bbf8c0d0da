//! The clerk: a small process outside the jail that does for a guest's VMM what takes paths or other programs,
//! and only for that guest: it notes what happens in the journal, writes down the end, removes what the guest
//! leaves, and keeps its passt processes.
//!
//! What it is asked for may come from a VMM that its guest has taken over, so errands name nothing: paths and
//! names are those the clerk knows from before. It ends when the VMM does, whichever way.
#![allow(unsafe_code)] // fork.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use devices::mutex::lock;
use resources::config::Forward;
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, setsid, waitpid};
use serde::{Deserialize, Serialize};

use super::record::Ended;
use crate::jail;
use crate::machine::passt;
use crate::messages::{pair, receive, send};

/// What a clerk can be asked for.
#[derive(Debug, Serialize, Deserialize)]
pub enum Errand {
    /// Something happened to the guest: the event's name, and more about it.
    Note(String, Vec<(String, String)>),
    /// Its run has ended.
    Ended(Box<Ended>),
    /// This is to be in the exit record.
    ExitRecord(Vec<u8>),
    /// The VMM has taken its share of the host, to which the clerk is charged, too. Before [`Self::Closed`].
    Share,
    /// Its share of the host is free. Where the clerk has a part in it, it will be once both are gone.
    Release,
    /// It is to be removed.
    Remove,
    /// A network needs a passt process, news of which go to the descriptor that is passed. Only before
    /// [`Self::Closed`].
    Passt(passt::Options, Vec<Forward>),
    /// The VMM is in its jail, and its guest about to run.
    Closed,
}

/// The VMM's end of its clerk. Dropped, it ends the clerk and waits until it is gone, unless that waits for the VMM.
#[derive(Debug)]
pub struct Clerk {
    /// None only while it is dropped. One errand at a time.
    line: Mutex<Option<Line>>,
    pid: Pid,
    /// Whether the clerk stays until the VMM is gone.
    stays: AtomicBool,
}

/// The way to a clerk.
#[derive(Debug)]
struct Line {
    socket: OwnedFd,
    /// What the clerk said first, once it was heard: whether it is in namespaces of its own.
    apart: Option<bool>,
}

impl Line {
    fn apart(&mut self) -> bool {
        *self.apart.get_or_insert_with(|| {
            receive(self.socket.as_fd()).ok().flatten().is_some_and(|(apart, _)| apart)
        })
    }
}

impl Errand {
    /// Whether the VMM hears what became of it. Of the others, the clerk does the one that was sent first first.
    fn is_answered(&self) -> bool {
        !matches!(self, Self::Closed | Self::Release)
    }
}

impl Clerk {
    /// Starts a clerk that does errands by `serve`, which is also given the descriptor that came with one. This
    /// process must have no other thread. One that is `apart` first makes namespaces that the VMM can
    /// [borrow](Self::lender), while that opens what it needs.
    ///
    /// # Errors
    ///
    /// The host has no more processes or descriptors.
    pub fn start(
        mut serve: impl FnMut(Errand, Option<OwnedFd>) -> Result<(), String>,
        finish: impl FnOnce(),
        apart: bool,
    ) -> io::Result<Self> {
        let (ours, theirs) = pair()?;
        // SAFETY: there is no other thread, so that nothing is left half done in the child.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                drop(ours);
                settle();
                let _ = send(theirs.as_fd(), &(apart && jail::prepare_namespaces()), None);
                while let Ok(Some((errand, fd))) = receive::<Errand>(theirs.as_fd()) {
                    let is_answered = errand.is_answered();
                    let done = serve(errand, fd);
                    if !is_answered {
                        if let Err(why) = done {
                            tracing::warn!("{why}");
                        }
                    } else if send(theirs.as_fd(), &done, None).is_err() {
                        break;
                    }
                }
                drop(theirs);
                finish();
                // SAFETY: ends the process without running what belongs to its parent.
                unsafe { libc::_exit(0) }
            }
            pid => {
                let gone = || io::Error::from(io::ErrorKind::NotFound);
                let pid = Pid::from_raw(pid).ok_or_else(gone)?;
                let line = Line { socket: ours, apart: None };
                Ok(Self { line: Some(line).into(), pid, stays: AtomicBool::new(false) })
            }
        }
    }

    /// The clerk will outlive the VMM, and nobody is to wait for it.
    pub fn stays(&self) {
        self.stays.store(true, Ordering::Relaxed);
    }

    /// The clerk's pidfd, if it is in namespaces that the VMM can have, too.
    pub fn lender(&self) -> Option<OwnedFd> {
        let apart = lock(&self.line).as_mut().is_some_and(Line::apart);
        apart.then(|| pidfd_open(self.pid, PidfdFlags::empty()).ok()).flatten()
    }

    /// Has an errand done.
    ///
    /// # Errors
    ///
    /// Why it could not be done, where that is answered.
    pub fn ask(&self, errand: &Errand, fd: Option<BorrowedFd<'_>>) -> Result<(), String> {
        let mut line = lock(&self.line);
        let gone = || "the process that does it (carve-clerk) is gone".to_owned();
        let line = line.as_mut().ok_or_else(gone)?;
        line.apart();
        let socket = line.socket.as_fd();
        send(socket, errand, fd).map_err(|error| format!("{}: {error}", gone()))?;
        if !errand.is_answered() {
            return Ok(());
        }
        match receive::<Result<(), String>>(socket) {
            Ok(Some((answer, _))) => answer,
            Ok(None) => Err(gone()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Drop for Clerk {
    fn drop(&mut self) {
        drop(lock(&self.line).take());
        if self.stays.load(Ordering::Relaxed) {
            return;
        }
        let _ = waitpid(Some(self.pid), WaitOptions::empty());
    }
}

/// Leaves the terminal and the pipes that are the VMM's.
fn settle() {
    // Ctrl-C is for the guest, or for its VMM to act on.
    let _ = setsid();
    let _ = rustix::thread::set_name(c"carve-clerk");
    if let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}
