//! The user's terminal: raw while a guest's console is on it, and as it was found
//! on every way out.
//!
//! Normal returns and errors drop [`Raw`]; a panic is seen by the panic hook; a
//! signal that would kill the process by a handler that restores the terminal and
//! then lets the signal do what it would have done; SIGKILL by the [`guardian`],
//! another process. When the process is stopped (SIGTSTP) the terminal is restored
//! too, and made raw again when it continues in the foreground.
//!
//! The terminal is never made non-blocking: other processes share it.
#![allow(unsafe_code)] // termios and signal handlers: async-signal-safe libc calls.

mod guardian;

use std::io::{self, IsTerminal};
use std::mem;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use guardian::Guardian;

const INPUT: i32 = libc::STDIN_FILENO;

/// Signals whose default is to end the process, other than SIGKILL.
const FATAL: [i32; 21] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGUSR1,
    libc::SIGSEGV,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGTERM,
    libc::SIGSTKFLT,
    libc::SIGXCPU,
    libc::SIGXFSZ,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
    libc::SIGSYS,
];

/// Whether the terminal is to be raw now. While the process is stopped it stays set.
static RAW: AtomicBool = AtomicBool::new(false);

/// What signal handlers need; set once, before the first handler is installed.
static SAVED: OnceLock<Saved> = OnceLock::new();

struct Saved {
    found: libc::termios,
    raw: libc::termios,
    /// What [`FATAL`] signals did before, in the same order.
    previous: [Option<libc::sigaction>; FATAL.len()],
}

/// The terminal cannot be used as a console.
#[derive(Debug, thiserror::Error)]
#[error(
    "the terminal on standard input cannot be put in raw mode; give the guest another input, such as < /dev/null"
)]
pub struct Error(#[source] io::Error);

/// While it lives the terminal is raw.
#[derive(Debug)]
pub struct Raw {
    _guardian: Option<Guardian>,
}

impl Raw {
    /// Makes the terminal raw if both standard input and standard output are one. The process
    /// must have no other thread yet.
    ///
    /// # Errors
    ///
    /// The terminal refuses.
    pub fn enter() -> Result<Option<Self>, Error> {
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Ok(None);
        }
        let found = attributes().map_err(Error)?;
        let mut raw = found;
        // SAFETY: `raw` is a termios the kernel filled in.
        unsafe { libc::cfmakeraw(&raw mut raw) };
        // Before signal handlers, which are not the guardian's.
        let guardian = Guardian::start(found, raw);
        let previous = FATAL.map(disposition_to_replace);
        let saved = SAVED.get_or_init(|| Saved { found, raw, previous });
        for (signal, previous) in FATAL.into_iter().zip(saved.previous) {
            if previous.is_some() {
                handle(signal, on_fatal as *const () as usize);
            }
        }
        if disposition_to_replace(libc::SIGTSTP).is_some() {
            handle(libc::SIGTSTP, on_stop as *const () as usize);
        }
        handle(libc::SIGCONT, on_continue as *const () as usize);
        restore_on_panic();
        // From here on a signal restores the terminal, raw already or not.
        RAW.store(true, Ordering::SeqCst);
        apply(&saved.raw).map_err(|error| {
            RAW.store(false, Ordering::SeqCst);
            Error(error)
        })?;
        Ok(Some(Self { _guardian: guardian }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Whether the terminal is raw, so that a line must end in `\r\n` to look like one.
pub fn is_raw() -> bool {
    RAW.load(Ordering::SeqCst)
}

fn restore_on_panic() {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        restore();
        previous(info);
    }));
}

/// Puts the terminal back as it was found, once. Only on the main thread: others may not touch terminals once
/// they are confined. Where they fault the guardian does it, and where they panic the main thread, at the end.
fn restore() {
    // SAFETY: takes nothing and returns a number.
    let thread = unsafe { libc::gettid() };
    // SAFETY: as above.
    let main = unsafe { libc::getpid() };
    if thread == main && RAW.swap(false, Ordering::SeqCst) {
        put_back();
    }
}

/// Puts the terminal back as it was found, if this process may: in the background it is
/// another job's, and the shell has set it up for that job already. Async-signal-safe.
fn put_back() {
    if let Some(saved) = SAVED.get()
        && in_foreground()
    {
        // A terminal that hung up cannot be restored and need not be.
        let _ = apply(&saved.found);
    }
}

/// A FATAL signal: the terminal first, then whatever the signal did before.
extern "C" fn on_fatal(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    preserving_errno(|| {
        restore();
        // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler.
        let sent = unsafe { (*info).si_code } <= 0;
        if sent {
            // What a process sent does not come again by itself: raised, it is delivered when
            // the handler returns. By default, as handlers of faults expect real faults.
            handle(signal, libc::SIG_DFL);
            // SAFETY: raise is async-signal-safe.
            unsafe { libc::raise(signal) };
            return;
        }
        // A fault happens again when the handler returns, now to what was there before.
        let position = FATAL.iter().position(|&fatal| fatal == signal);
        let previous = position.zip(SAVED.get()).and_then(|(index, saved)| saved.previous[index]);
        if let Some(previous) = previous {
            // SAFETY: `previous` came from sigaction for this signal.
            unsafe { libc::sigaction(signal, &raw const previous, ptr::null_mut()) };
        }
    });
}

/// SIGTSTP: the terminal is the shell's while the process is stopped.
extern "C" fn on_stop(signal: i32, _info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    preserving_errno(|| {
        if is_raw() {
            put_back();
        }
        // Stop as if there were no handler, which also leaves an orphaned process running.
        handle(signal, libc::SIG_DFL);
        // SAFETY: raise is async-signal-safe.
        unsafe { libc::raise(signal) };
        let set = only(signal);
        // SAFETY: `set` is initialized; the process stops in this call, and the mask is put
        // back when the handler returns.
        unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut()) };
        handle(signal, on_stop as *const () as usize);
    });
}

/// SIGCONT, while nobody has taken it over.
extern "C" fn on_continue(_signal: i32, _info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    preserving_errno(continued);
}

/// Back in the foreground after a stop the terminal is the guest's again.
pub fn continued() {
    if is_raw()
        && in_foreground()
        && let Some(saved) = SAVED.get()
    {
        let _ = apply(&saved.raw);
    }
}

/// Handlers interrupt code that is about to read `errno`.
fn preserving_errno(body: impl FnOnce()) {
    // SAFETY: takes nothing and returns the address of this thread's errno.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the address is valid for as long as the thread lives.
    let saved = unsafe { *errno };
    body();
    // SAFETY: as above.
    unsafe { *errno = saved };
}

/// Whether the terminal obeys this process: it is in the foreground, or the terminal is not
/// its controlling one and knows no jobs of it.
fn in_foreground() -> bool {
    // SAFETY: takes a descriptor and returns a number.
    let owner = unsafe { libc::tcgetpgrp(INPUT) };
    // SAFETY: takes nothing and returns a number.
    let own = unsafe { libc::getpgrp() };
    owner < 0 || owner == own
}

fn attributes() -> io::Result<libc::termios> {
    // SAFETY: an all-zero termios is valid storage for the answer.
    let mut attributes: libc::termios = unsafe { mem::zeroed() };
    // SAFETY: `attributes` is ours.
    match unsafe { libc::tcgetattr(INPUT, &raw mut attributes) } {
        0 => Ok(attributes),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets the terminal's attributes at once: waiting for output would hang on a terminal stopped
/// by Ctrl-S. Async-signal-safe.
fn apply(attributes: &libc::termios) -> io::Result<()> {
    loop {
        // SAFETY: `attributes` is initialized.
        if unsafe { libc::tcsetattr(INPUT, libc::TCSANOW, attributes) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// What `signal` does now, unless it is ignored, which stays as it is (`nohup`).
fn disposition_to_replace(signal: i32) -> Option<libc::sigaction> {
    // SAFETY: an all-zero sigaction is valid storage for the answer.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: asks only; `action` is ours.
    let asked = unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) };
    (asked == 0 && action.sa_sigaction != libc::SIG_IGN).then_some(action)
}

/// Makes `handler` (or SIG_DFL) what `signal` does. Async-signal-safe.
fn handle(signal: i32, handler: usize) {
    // SAFETY: an all-zero sigaction is a valid one.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = handler;
    // On its own stack, because a stack overflow is one of the faults.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    // SAFETY: `action` is initialized; handlers have the signature SA_SIGINFO asks for and
    // call async-signal-safe functions only.
    unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
}

fn only(signal: i32) -> libc::sigset_t {
    // SAFETY: an all-zero sigset_t is valid storage, which sigemptyset then initializes.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: `set` is ours.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: `set` is ours, the number valid.
    unsafe { libc::sigaddset(&raw mut set, signal) };
    set
}
