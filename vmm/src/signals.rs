//! Signals that end a run, and that of a resized window, as a file descriptor of the event loop.
#![allow(unsafe_code)] // signalfd and the signal mask.

use std::fs::File;
use std::io::{self, Read};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd};

/// Termination, Ctrl-C where the terminal is not raw, a closed terminal, Ctrl-\.
pub const ENDING: [i32; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];

/// The terminal's window has another size; ignored by default.
pub const WINDOW: i32 = libc::SIGWINCH;

/// The process was stopped and goes on; ignored by default.
pub const CONTINUED: i32 = libc::SIGCONT;

/// While it lives, the signals in [`ENDING`] are queued here instead of ending the process, and
/// [`WINDOW`] and [`CONTINUED`] too; SIGXFSZ does nothing. Make it before any other thread, so that all inherit the mask.
#[derive(Debug)]
pub struct Signals {
    file: File,
    previous: libc::sigset_t,
}

impl Signals {
    /// Blocks the signals and opens the queue. A signal the parent process chose to ignore stays
    /// ignored (`nohup`).
    ///
    /// # Errors
    ///
    /// The kernel's answer when it gives no signalfd.
    pub fn new() -> io::Result<Self> {
        // SAFETY: an all-zero sigset_t is valid storage, which sigemptyset then initializes.
        let mut set: libc::sigset_t = unsafe { mem::zeroed() };
        // SAFETY: `set` is ours.
        unsafe { libc::sigemptyset(&raw mut set) };
        let ending = ENDING.into_iter().filter(|&signal| !is_ignored(signal));
        for signal in ending.chain([WINDOW, CONTINUED]) {
            // SAFETY: `set` is ours, the number valid.
            unsafe { libc::sigaddset(&raw mut set, signal) };
        }
        // SAFETY: -1 asks for a new descriptor; `set` is initialized.
        let fd =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let file = unsafe { File::from_raw_fd(fd) };
        // A disk's file that reaches the limit of file sizes is an error of that one write (EFBIG).
        // SAFETY: `set` is ours, the number valid.
        unsafe { libc::sigaddset(&raw mut set, libc::SIGXFSZ) };
        // SAFETY: as for `set`.
        let mut previous: libc::sigset_t = unsafe { mem::zeroed() };
        // SAFETY: both sets are ours.
        match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut previous) } {
            0 => Ok(Self { file, previous }),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Takes the next queued signal.
    pub fn take(&mut self) -> Option<i32> {
        let mut info = [0; mem::size_of::<libc::signalfd_siginfo>()];
        self.file.read_exact(&mut info).ok()?;
        // The number is the structure's first field (signalfd(2)).
        let number = u32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
        i32::try_from(number).ok()
    }
}

fn is_ignored(signal: i32) -> bool {
    // SAFETY: an all-zero sigaction is valid storage for the answer.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: asks only; `action` is ours.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
    asked == 0 && action.sa_sigaction == libc::SIG_IGN
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // SAFETY: restores the mask that `new` replaced.
        unsafe {
            libc::pthread_sigmask(
                libc::SIG_SETMASK,
                &raw const self.previous,
                std::ptr::null_mut(),
            );
        }
    }
}
