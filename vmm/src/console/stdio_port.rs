//! The terminal's other way: to the port of the virtio console that is `stdio`, not to the UART.
//!
//! Input takes a pipe, so that escape keys work there too; output goes straight from the device.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use resources::config::{ConsoleTarget, VmConfig};
use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::tcgetwinsize;

use crate::machine::console_ports::{self, Stdio};

/// What [`Input`](super::input::Input) writes to, and what the device gets.
#[derive(Debug)]
pub(crate) struct StdioPort {
    pub input: OwnedFd,
    pub device: Stdio,
}

impl StdioPort {
    /// The number of the guest's console (`hvcN`) that is on standard input and output, if one is.
    pub fn console_number(config: &VmConfig) -> Option<usize> {
        let mut consoles = config.console.values().filter(|port| port.name.is_none());
        consoles.position(|port| port.target == ConsoleTarget::Stdio)
    }

    /// The port that `config` wants on standard input and `output`; `None` if it wants none.
    ///
    /// # Errors
    ///
    /// The host has no more descriptors.
    pub fn wanted(config: &VmConfig, output: &OwnedFd) -> io::Result<Option<Self>> {
        if !config.console.values().any(|port| port.target == ConsoleTarget::Stdio) {
            return Ok(None);
        }
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let output = console_ports::own_description(output.as_fd(), OFlags::WRONLY)?;
        Ok(Some(Self { input: writer, device: Stdio { input: reader, output } }))
    }
}

/// Columns and rows of the terminal `output`; `None` if it is none or does not know.
pub(crate) fn window_size(output: &OwnedFd) -> Option<(u16, u16)> {
    let size = tcgetwinsize(output).ok()?;
    (size.ws_col != 0 && size.ws_row != 0).then_some((size.ws_col, size.ws_row))
}
