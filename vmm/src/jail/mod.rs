//! What keeps a guest in that has taken over its VMM: what this process can still do once it has opened
//! everything that its guest is made of. [`Confinement::enter`] gives up everything else, in the order in which
//! each step still can be made.

mod landlock;
mod namespaces;
mod privileges;
pub mod seccomp;
mod settings;
pub mod support;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

pub use self::namespaces::prepare as prepare_namespaces;
pub use self::settings::{NoSwitch, Settings, Switch};

/// How a run confines its process. Threads and processes that exist already are not confined.
#[derive(Debug, Default)]
pub struct Confinement {
    /// How far it goes.
    pub settings: Settings,
    /// Where the last words of a thread are kept that made a forbidden system call, see
    /// [`seccomp::violation`].
    pub last_words: Option<OwnedFd>,
    /// The one folder in which connections to sockets may be made for the guest: the vsock device's.
    pub sockets: Option<PathBuf>,
    /// A process (a pidfd) that has made namespaces for it, see [`prepare_namespaces`].
    pub lender: Option<OwnedFd>,
    /// The most threads that the guest's devices ever need, where that is known.
    pub threads: Option<u64>,
}

/// Why a process could not be confined.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that every host can be expected to allow.
    #[error(
        "the VMM cannot be confined: cannot {what}: {source}; `carve doctor` says what this host lacks"
    )]
    Needed {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Something that not all hosts allow, and `--jail strict` asks for.
    #[error(
        "the jail would not be complete: cannot {what}: {source}; allow it on this host (see `carve doctor`), or use --jail on"
    )]
    Incomplete {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

static CLOSED: AtomicBool = AtomicBool::new(false);

/// Whether this process is in its jail, where there are no paths.
pub fn is_closed() -> bool {
    CLOSED.load(Ordering::Relaxed)
}

/// Where [`Confinement::sockets`] is in the jail.
pub const SOCKETS: &str = "/sockets";

impl Confinement {
    /// No confinement: for tests, in whose process others go on.
    pub fn none() -> Self {
        let settings = Settings { jail: Switch::Off, seccomp: seccomp::Mode::Off };
        Self { settings, ..Self::default() }
    }

    /// Gives everything up that is not needed from here on. The process must have no other thread. Returns where
    /// the folder for sockets is from now on, if it has moved.
    pub(crate) fn enter(self) -> Result<Option<PathBuf>, Error> {
        let Settings { jail, seccomp } = self.settings;
        let needed = |what| move |source| Error::Needed { what, source };
        let mut moved = None;
        privileges::keep_memory_private();
        if jail != Switch::Off {
            let strict = jail == Switch::Strict;
            moved = close(strict, self.sockets.as_deref(), self.lender, self.threads)?;
        }
        if seccomp == seccomp::Mode::On {
            seccomp::violation::report_to(self.last_words)
                .map_err(needed("install the handler of SIGSYS"))?;
        }
        seccomp::enter(seccomp, jail != Switch::Off)
            .map_err(needed("install filters of system calls (seccomp)"))?;
        Ok(moved)
    }
}

/// Closes the jail.
fn close(
    strict: bool,
    sockets: Option<&Path>,
    lender: Option<OwnedFd>,
    threads: Option<u64>,
) -> Result<Option<PathBuf>, Error> {
    let needed = |what| move |source| Error::Needed { what, source };
    let wanted = |what, done: io::Result<()>| match done {
        Ok(()) => Ok(true),
        Err(source) if strict => Err(Error::Incomplete { what, source }),
        Err(source) => {
            tracing::info!("the jail is not complete: cannot {what}: {source}");
            Ok(false)
        }
    };
    privileges::close_inherited();
    privileges::clear_environment();
    privileges::limit().map_err(needed("set resource limits"))?;
    let emptied = namespaces::enter(sockets, lender.as_ref().map(AsFd::as_fd));
    drop(lender);
    let emptied = wanted("make namespaces with an empty root", emptied)?;
    // Sockets of this user's programs are out of the reach of another.
    let change_user = sockets.is_none() && !namespaces::is_nested();
    if change_user && rustix::process::geteuid().is_root() {
        let limited = threads.map_or(Ok(()), privileges::limit_threads);
        limited.map_err(needed("set resource limits"))?;
        wanted("become a user of its own", privileges::change_user())?;
    }
    privileges::drop_capabilities().map_err(needed("drop capabilities"))?;
    privileges::no_new_privileges().map_err(needed("set no_new_privs"))?;
    privileges::control_speculation();
    privileges::not_dumpable().map_err(needed("keep its memory from other processes"))?;
    wanted("restrict itself with Landlock", landlock::restrict())?;
    CLOSED.store(true, Ordering::Relaxed);
    Ok(sockets.filter(|_| emptied).map(|_| SOCKETS.into()))
}
