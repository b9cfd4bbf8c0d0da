//! The kernel command line: defaults that make the console and panics work, the user's text after
//! them, and the checks that need no kernel.
//!
//! How long a line may be depends on the kernel, so the length is checked where both are known.

/// Parameters put before the user's: the console is the first serial port, and a kernel panic
/// resets the machine at once so that it is seen by the VMM instead of hanging.
pub const DEFAULTS: &str = "console=ttyS0 panic=-1";

/// Longest command line, without its NUL, of an x86 Linux kernel whose own limit is not known
/// (`COMMAND_LINE_SIZE - 1`).
pub const DEFAULT_LIMIT: u64 = 2047;

/// Why a text cannot be a command line.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The kernel would see only what stands before the NUL.
    #[error("the kernel command line has a NUL byte at position {0}; remove it")]
    Nul(usize),
    /// The kernel takes a newline for part of a value.
    #[error("the kernel command line has a line break at position {0}; put it on one line")]
    LineBreak(usize),
}

/// A kernel command line without NUL and line breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine(String);

impl CommandLine {
    /// [`DEFAULTS`] followed by `user`. Where both set one parameter the kernel takes the later.
    pub fn new(user: &str) -> Result<Self, Error> {
        Self::after(DEFAULTS, user)
    }

    /// The same with the console on the virtio console `number` and not on the serial port.
    pub fn on_virtio_console(number: usize, user: &str) -> Result<Self, Error> {
        Self::after(&format!("console=hvc{number} panic=-1"), user)
    }

    fn after(defaults: &str, user: &str) -> Result<Self, Error> {
        let user = user.trim_matches(' ');
        let space = if user.is_empty() { "" } else { " " };
        Self::exactly(&format!("{defaults}{space}{user}")).map_err(|error| {
            let before = defaults.len() + 1;
            match error {
                Error::Nul(at) => Error::Nul(at - before),
                Error::LineBreak(at) => Error::LineBreak(at - before),
            }
        })
    }

    /// `line` as it is, without defaults.
    pub fn exactly(line: &str) -> Result<Self, Error> {
        if let Some(at) = line.find('\0') {
            return Err(Error::Nul(at));
        }
        if let Some(at) = line.find(['\n', '\r']) {
            return Err(Error::LineBreak(at));
        }
        Ok(Self(line.to_owned()))
    }

    /// The line without its NUL.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Length in bytes without the NUL.
    pub fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// Whether the line is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The parameters, split as the kernel's early option search does: at every byte up to the
    /// space (`arch/x86/lib/cmdline.c`).
    fn words(&self) -> impl Iterator<Item = &str> {
        self.0.split(|c: char| c <= ' ').filter(|word| !word.is_empty())
    }

    /// Whether the parameter `name` stands on the line as a word of its own.
    pub fn has_flag(&self, name: &str) -> bool {
        self.words().any(|word| word == name)
    }

    /// Whether the line gives a value to the parameter `name`.
    pub fn has_value(&self, name: &str) -> bool {
        self.words().any(|word| word.split_once('=').is_some_and(|(key, _)| key == name))
    }
}

#[cfg(test)]
#[path = "cmdline_test.rs"]
mod cmdline_test;
