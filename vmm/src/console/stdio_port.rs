//! The console's other way: to the port of the virtio console that is `stdio`, not to the UART.
//!
//! A pipe each way lies in between, so that escape keys work there too, and that what the guest says reaches all who
//! follow it.

use std::io;
use std::os::fd::OwnedFd;

use resources::config::{ConsoleTarget, VmConfig};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::tcgetwinsize;

use crate::machine::console_ports::Stdio;

/// This side of the pipes, and what the device gets.
#[derive(Debug)]
pub(crate) struct StdioPort {
    /// What [`Input`](super::input::Input) writes to.
    pub input: OwnedFd,
    /// What [`Output`](super::output::Output) carries.
    pub output: OwnedFd,
    pub device: Stdio,
}

impl StdioPort {
    /// The number of the guest's console (`hvcN`) that is on standard input and output, if one is.
    pub fn console_number(config: &VmConfig) -> Option<usize> {
        let mut consoles = config.console.values().filter(|port| port.name.is_none());
        consoles.position(|port| port.target == ConsoleTarget::Stdio)
    }

    /// The port that `config` wants in place of the UART; `None` if it wants none.
    ///
    /// # Errors
    ///
    /// The host has no more descriptors.
    pub fn wanted(config: &VmConfig) -> io::Result<Option<Self>> {
        if !config.console.values().any(|port| port.target == ConsoleTarget::Stdio) {
            return Ok(None);
        }
        let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
        let (from_us, input) = pipe_with(flags)?;
        let (output, from_guest) = pipe_with(flags)?;
        Ok(Some(Self { input, output, device: Stdio { input: from_us, output: from_guest } }))
    }
}

/// Columns and rows of the terminal `output`; `None` if it is none or does not know.
pub(crate) fn window_size(output: &OwnedFd) -> Option<(u16, u16)> {
    let size = tcgetwinsize(output).ok()?;
    (size.ws_col != 0 && size.ws_row != 0).then_some((size.ws_col, size.ws_row))
}
