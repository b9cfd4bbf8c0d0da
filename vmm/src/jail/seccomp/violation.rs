//! What becomes of a thread that makes a system call its filter forbids: its last words are written to the
//! file of the guest's sign of life, and to standard error, and the process dies of SIGSYS.
//!
//! All of this happens in a signal handler: no allocation, no lock, and of system calls only write(2).
#![allow(unsafe_code)] // A signal handler.

use std::cell::Cell;
use std::io::{self, Write};
use std::mem;
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::fs::SeekFrom;

thread_local! {
    /// Const-initialized and without a destructor: reading it in a signal handler neither allocates nor locks.
    static ROLE: Cell<&'static str> = const { Cell::new("unnamed") };
}

/// Where last words are kept; -1 where they are not.
static KEPT: AtomicI32 = AtomicI32::new(-1);

/// `si_code` of a signal that seccomp sent (sigaction(2)).
const SYS_SECCOMP: i32 = 1;

/// The name of a system call, and its number.
fn name(number: i32) -> &'static str {
    let sysno = usize::try_from(number).ok().and_then(syscalls::Sysno::new);
    sysno.map_or("of an unknown name", |sysno| sysno.name())
}

/// Notes what this thread does, for its last words.
pub fn set_role(role: &'static str) {
    ROLE.set(role);
}

/// Has violations reported from now on, also in `file`, where they begin after the first byte.
///
/// # Errors
///
/// The kernel's answer when the handler cannot be installed.
pub fn report_to(file: Option<OwnedFd>) -> io::Result<()> {
    if let Some(file) = file {
        rustix::fs::seek(&file, SeekFrom::Start(1))?;
        // For as long as the process lives.
        KEPT.store(file.into_raw_fd(), Ordering::Relaxed);
    }
    // SAFETY: an all-zero sigaction is a valid one.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = on_violation as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler has the signature SA_SIGINFO asks for, and calls async-signal-safe functions only.
    match unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn on_violation(_: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    /// The beginning of siginfo_t where the signal is SIGSYS (sigaction(2)).
    #[repr(C)]
    struct SysInfo {
        signo: i32,
        errno: i32,
        code: i32,
        address: *mut libc::c_void,
        number: i32,
    }
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler, larger than this part of it.
    let info = unsafe { info.cast::<SysInfo>().read() };
    if info.code == SYS_SECCOMP {
        let mut text = Text::default();
        let role = ROLE.get();
        let (number, name) = (info.number, name(info.number));
        // SAFETY: the kernel passes the context to an SA_SIGINFO handler.
        let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
        let [first, second, third] =
            [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX].map(|at| registers[at as usize]);
        // A text of bounded length into an array of that length.
        let _ = write!(
            text,
            "the thread {role} made the system call {name} ({number}; {first:#x}, {second:#x}, {third:#x}), which its filter forbids"
        );
        let kept = KEPT.load(Ordering::Relaxed);
        if kept >= 0 {
            // SAFETY: open for as long as the process lives.
            let kept = unsafe { BorrowedFd::borrow_raw(kept) };
            // After the letter that is there.
            let _ = rustix::io::write(kept, text.bytes());
        }
        let _ = rustix::io::write(rustix::stdio::stderr(), b"carve: error: ");
        let _ = writeln!(text);
        let _ = rustix::io::write(rustix::stdio::stderr(), text.bytes());
    }
    // Forbidden as well, and while this signal is blocked, which it is in its handler, fatal
    // (force_sig_info() in the kernel). Where nothing is forbidden, a process sent the signal.
    // SAFETY: takes nothing that has to be valid.
    unsafe { libc::syscall(libc::SYS_reboot, 0, 0, 0, 0) };
    // SAFETY: ends the process without running anything.
    unsafe { libc::_exit(128 + libc::SIGSYS) };
}

/// Text in an array.
#[derive(Default)]
struct Text {
    bytes: Buffer,
    len: usize,
}

struct Buffer([u8; 256]);

impl Default for Buffer {
    fn default() -> Self {
        Self([0; 256])
    }
}

impl Text {
    fn bytes(&self) -> &[u8] {
        &self.bytes.0[..self.len]
    }
}

impl Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = &mut self.bytes.0[self.len..];
        let count = bytes.len().min(room.len());
        room[..count].copy_from_slice(&bytes[..count]);
        self.len += count;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
