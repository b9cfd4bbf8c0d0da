//! The host's end of the guest's serial console: a terminal, a pipe or a file on each side.
//!
//! The console outlives the machines of a run: a guest that reboots finds the same one. The UART
//! itself is [`devices::legacy::serial`]; raw mode is the binary's. Other consoles than the
//! terminal's are [`console_ports`](crate::machine::console_ports).

pub mod input;
mod keys;
pub mod output;
pub(crate) mod stdio_port;

use std::os::fd::OwnedFd;

/// Where a guest's serial console goes.
#[derive(Debug)]
pub struct Console {
    /// What the guest reads; `None` when there is nothing to read from.
    pub input: Option<OwnedFd>,
    /// Where the guest's output goes.
    pub output: OwnedFd,
    /// Whether the input is a terminal in raw mode, where Ctrl-A is the escape key.
    pub escapes: bool,
}
