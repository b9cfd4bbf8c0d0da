//! The host's end of the guest's console: a terminal, a pipe or a file on each side, and whoever is attached to it
//! through the control interface.
//!
//! The console outlives the machines of a run: a guest that reboots finds the same one. The UART
//! itself is [`devices::legacy::serial`]; raw mode is the binary's. Other consoles than the
//! terminal's are [`console_ports`](crate::machine::console_ports).

pub mod input;
mod keys;
pub mod output;
pub mod remote;
pub mod ring;
pub(crate) mod stdio_port;

use std::os::fd::OwnedFd;

use self::remote::RemoteInput;
use self::ring::Ring;

/// Where a guest's console goes.
#[derive(Debug, Default)]
pub struct Console {
    /// What the guest reads; `None` when there is nothing to read from.
    pub input: Option<OwnedFd>,
    /// Where the guest's output goes, besides its [`Ring`].
    pub output: Option<OwnedFd>,
    /// Whether the input is a terminal in raw mode, where Ctrl-A is the escape key.
    pub escapes: bool,
    /// Called on the main thread when the process goes on after a stop (SIGCONT), whose signal is taken
    /// over meanwhile.
    pub on_continue: Option<fn()>,
    /// Whether somebody is about to come who keeps the output, and is to miss nothing.
    pub kept: bool,
}

/// The console for other threads.
#[derive(Debug, Clone)]
pub struct ConsoleHandle {
    /// What the guest writes.
    pub ring: Ring,
    /// What the guest reads.
    pub input: RemoteInput,
}
