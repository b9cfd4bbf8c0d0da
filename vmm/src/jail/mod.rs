//! What keeps a guest in that has taken over its VMM: what this process can still do once it has opened
//! everything that its guest is made of.

pub mod seccomp;

use std::io;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

/// What the user of a guest says about its confinement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// What is done about system calls that no thread needs.
    #[serde(default)]
    pub seccomp: seccomp::Mode,
}

/// How a run confines its process. Threads and processes that exist already are not confined.
#[derive(Debug, Default)]
pub struct Confinement {
    /// How far it goes.
    pub settings: Settings,
    /// Where the last words of a thread that made one are kept, see [`seccomp::violation`].
    pub last_words: Option<OwnedFd>,
}

impl Confinement {
    /// No confinement: for tests, in whose process others go on.
    pub fn none() -> Self {
        Self { settings: Settings { seccomp: seccomp::Mode::Off }, last_words: None }
    }

    /// Gives everything up that is not needed from here on. The process must be as good as alone: threads
    /// that run already are not confined.
    pub(crate) fn enter(self) -> io::Result<()> {
        let Settings { seccomp } = self.settings;
        if seccomp == seccomp::Mode::On {
            seccomp::violation::report_to(self.last_words)?;
        }
        seccomp::enter(seccomp)
    }
}
