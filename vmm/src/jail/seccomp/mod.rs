//! System calls of this process's threads (seccomp(2)): each thread has an allow-list for its role, which
//! it takes on before it looks at anything of the guest's. A call that is not on it ends the process, see
//! [`violation`].
//!
//! Filters are inherited by the threads that a thread starts, so threads are started by one that may do what
//! any of them may, the nursery; the others cannot start any. What a nursery's filter forbids, nothing in the
//! process can do, whichever thread is taken over.
//!
//! The [processes outside](Process) of a jail that hear what a VMM says have lists, too.

#![allow(unsafe_code)] // Signal masks.

mod ioctls;
mod roles;
mod rules;
pub mod violation;

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use devices::mutex::lock;
use devices::thread::{Job, Keeper, Role};
use schemars::JsonSchema;
use seccompiler::{SeccompAction, apply_filter};
use serde::{Deserialize, Serialize};

use self::rules::Allowed;
use crate::kvm::kick;

/// What is done about system calls that are on no list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// They end the process.
    #[default]
    On,
    /// They are carried out, and noted in the kernel's log (`dmesg`, the audit log): for finding out what
    /// lists lack.
    Log,
    /// There are no lists.
    Off,
}

/// Not a [`Mode`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is none of on, log and off")]
pub struct NoMode(String);

impl FromStr for Mode {
    type Err = NoMode;

    fn from_str(text: &str) -> Result<Self, NoMode> {
        match text {
            "on" => Ok(Self::On),
            "log" => Ok(Self::Log),
            "off" => Ok(Self::Off),
            other => Err(NoMode(other.to_owned())),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Log => "log",
            Self::Off => "off",
        })
    }
}

/// A process of one thread outside the jail, which does for a guest what takes paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// It does its VMM's errands.
    Clerk,
    /// It watches over its VMM, and keeps the console's log.
    Monitor,
}

impl Process {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Clerk, Self::Monitor];

    /// What it is called in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clerk => "clerk",
            Self::Monitor => "monitor",
        }
    }

    /// Has this thread do only what this process needs from now on, for good, and whatever it starts as well.
    /// Violations are told on standard error.
    ///
    /// # Errors
    ///
    /// The kernel has no seccomp.
    pub fn confine(self, mode: Mode) -> io::Result<()> {
        match mode {
            Mode::Off => return Ok(()),
            Mode::On => violation::report_to(None)?,
            Mode::Log => {}
        }
        find_clocks();
        install(self.name(), &roles::outside(), mode.action())
    }
}

/// The size of a role's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Size {
    /// The role, or the process.
    pub role: &'static str,
    /// System calls that it has.
    pub calls: usize,
    /// Rules: a call has one, or one for each set of arguments that it is allowed with.
    pub rules: usize,
    /// Instructions of its filter.
    pub instructions: usize,
}

/// The sizes of all lists.
pub fn sizes() -> Vec<Size> {
    let of = |(role, list): (&'static str, Allowed)| {
        let (calls, rules) = list.size();
        let instructions = list.compile(SeccompAction::Trap).map_or(0, |filter| filter.len());
        Size { role, calls, rules, instructions }
    };
    let roles = Role::ALL.map(|role| (role.name(), roles::allowed(role)));
    let processes = Process::ALL.map(|process| (process.name(), roles::outside()));
    roles.into_iter().chain(processes).map(of).collect()
}

/// Puts this thread (`jailed`: which needs no paths) and all that it starts from now on under their filters, once for the process.
///
/// # Errors
///
/// The kernel has no seccomp, or no thread can be had.
pub fn enter(mode: Mode, jailed: bool) -> io::Result<()> {
    if mode == Mode::Off {
        return Ok(());
    }
    find_clocks();
    let (jobs, next) = channel::<Job>();
    let (answer, answered) = channel();
    let body = move || {
        signals_to_main();
        let confined = install_absent().and_then(|()| confine(Role::Nursery, mode.action()));
        let fit = confined.is_ok();
        let _ = answer.send(confined);
        if fit {
            next.into_iter().for_each(|job| job());
        }
    };
    thread::Builder::new().name(Role::Nursery.name().to_owned()).stack_size(STACK).spawn(body)?;
    // Meanwhile this one: each takes half a millisecond.
    let main = roles::allowed(Role::Main);
    if jailed {
        install_absent()?;
        install(Role::Main.name(), &main, mode.action())?;
    } else {
        // This thread itself writes down how the run ended.
        install(Role::Main.name(), &main.and(&roles::records()), mode.action())?;
    }
    answered.recv().map_err(io::Error::other)??;
    let nursery = Nursery { jobs: Mutex::new(jobs), mode };
    if !devices::thread::keep(Box::new(nursery)) {
        return Err(io::Error::other("this process has filters already"));
    }
    Ok(())
}

/// Asks the kernel where its clocks are, once, which no thread can do later.
fn find_clocks() {
    let _ = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
}

/// Of the nursery, which starts threads and nothing else.
const STACK: usize = 128 << 10;

impl Mode {
    fn action(self) -> SeccompAction {
        match self {
            Self::On => SeccompAction::Trap,
            Self::Log => SeccompAction::Log,
            Self::Off => SeccompAction::Allow,
        }
    }
}

struct Nursery {
    jobs: Mutex<Sender<Job>>,
    mode: Mode,
}

impl Keeper for Nursery {
    fn delegate(&self, job: Job) -> io::Result<()> {
        lock(&self.jobs).send(job).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn confine(&self, role: Role) -> io::Result<()> {
        confine(role, self.mode.action())
    }
}

/// Gives up what `role` does not need, for this thread and those it starts.
fn confine(role: Role, otherwise: SeccompAction) -> io::Result<()> {
    install(role.name(), &roles::allowed(role), otherwise)
}

fn install(role: &'static str, list: &Allowed, otherwise: SeccompAction) -> io::Result<()> {
    violation::set_role(role);
    let filter = list.compile(otherwise).map_err(io::Error::other)?;
    apply_filter(&filter).map_err(io::Error::other)
}

/// Leaves signals that are sent to the process to the main thread, whose handlers do what other threads'
/// filters forbid; for this thread and those it starts.
fn signals_to_main() {
    let kick = kick::signal();
    // SAFETY: an all-zero sigset_t is valid storage, which sigfillset then initializes.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is ours.
    unsafe { libc::sigfillset(&raw mut set) };
    for signal in [libc::SIGSYS, kick].into_iter().chain(roles::FAULTS) {
        // SAFETY: `set` is ours, the number valid.
        unsafe { libc::sigdelset(&raw mut set, signal) };
    }
    // SAFETY: `set` is initialized, and this thread's mask its own.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
}

/// Has calls that C libraries can do without answered as if this kernel had none.
fn install_absent() -> io::Result<()> {
    let filter = roles::absent().compile_refusing(libc::ENOSYS).map_err(io::Error::other)?;
    apply_filter(&filter).map_err(io::Error::other)
}
