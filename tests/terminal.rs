//! The user's terminal while a guest's console is on it, and after every kind of end.
#![allow(clippy::unwrap_used, unsafe_code, missing_docs)]

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::termios::tcgetattr;
use support::payload::{self, elf};
use support::pty::Pty;
use support::{have_kvm, run};
use tempfile::TempPath;

/// Longer than anything here takes.
const SOON: Duration = Duration::from_secs(30);

/// A guest whose console is on a pseudo-terminal of its own.
struct Session {
    /// The user's end.
    user: File,
    /// The program's end.
    terminal: File,
    found: String,
    carve: Child,
    _kernel: TempPath,
}

impl Session {
    /// Starts a guest and waits until the terminal is raw.
    fn start(code: &[u8]) -> Self {
        let Pty { user, terminal } = Pty::open();
        let found = modes(&terminal);
        let kernel = elf(code);
        let mut command = run(&kernel);
        command.stdin(terminal.try_clone().unwrap()).stdout(terminal.try_clone().unwrap());
        let carve = command.spawn().unwrap();
        let session = Self { user, terminal, found, carve, _kernel: kernel };
        session.until("the terminal is raw", || modes(&session.terminal) != session.found);
        session
    }

    #[track_caller]
    fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + SOON;
        while !condition() {
            assert!(Instant::now() < deadline, "{what}: not within {SOON:?}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn kind(&mut self, bytes: &[u8]) {
        self.user.write_all(bytes).unwrap();
    }

    /// Reads what the guest shows until it ends in `text`.
    #[track_caller]
    fn shows(&mut self, text: &[u8]) {
        let mut seen = Vec::new();
        while !seen.ends_with(text) {
            let limit = Timespec { tv_sec: SOON.as_secs() as i64, tv_nsec: 0 };
            let ready = poll(&mut [PollFd::new(&self.user, PollFlags::IN)], Some(&limit)).unwrap();
            assert!(ready > 0, "{text:?} did not come: {seen:?}");
            let mut buffer = [0; 512];
            let count = self.user.read(&mut buffer).unwrap();
            seen.extend(&buffer[..count]);
        }
    }

    fn signal(&self, signal: i32) {
        // SAFETY: a signal to our own child, which has not been waited for yet.
        assert_eq!(unsafe { libc::kill(self.carve.id() as i32, signal) }, 0);
    }

    /// Waits for the end, after which the terminal is as it was found.
    #[track_caller]
    fn ends(mut self) -> ExitStatus {
        let deadline = Instant::now() + SOON;
        let status = loop {
            if let Some(status) = self.carve.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "still running");
            thread::sleep(Duration::from_millis(1));
        };
        // After SIGKILL another process does it.
        self.until("the terminal is restored", || modes(&self.terminal) == self.found);
        assert!(!fcntl_getfl(&self.terminal).unwrap().contains(OFlags::NONBLOCK));
        status
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.carve.kill();
        let _ = self.carve.wait();
    }
}

fn modes(terminal: &File) -> String {
    format!("{:?}", tcgetattr(terminal).unwrap())
}

#[test]
fn keys_go_to_the_guest_as_they_are_but_for_the_escape_key() {
    if !have_kvm() {
        return;
    }
    let mut session = Session::start(payload::echo());
    // Ctrl-C, Ctrl-Z, Ctrl-D, Ctrl-\ and Ctrl-A itself, echoed by the guest.
    session.kind(b"a\x03\x1a\x04\x1c\x01\x01z");
    session.shows(b"a\x03\x1a\x04\x1c\x01z");
    session.kind(b"\x01h");
    session.shows(b"send Ctrl-A to the guest\r\n");
    session.kind(b"q");
    assert_eq!(session.ends().code(), Some(0));
}

#[test]
fn quitting_counts_as_interrupted() {
    if !have_kvm() {
        return;
    }
    let mut session = Session::start(payload::halt());
    session.kind(b"\x01x");
    assert_eq!(session.ends().code(), Some(130));
}

#[test]
fn every_signal_leaves_the_terminal_as_it_was_found() {
    if !have_kvm() {
        return;
    }
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        let mut session = Session::start(payload::halt());
        session.shows(b".");
        session.signal(signal);
        assert_eq!(session.ends().code(), Some(128 + signal));
    }
    for signal in [libc::SIGUSR1, libc::SIGALRM, libc::SIGSEGV, libc::SIGABRT, libc::SIGKILL] {
        let session = Session::start(payload::halt());
        session.signal(signal);
        assert_eq!(session.ends().signal(), Some(signal));
    }
}
