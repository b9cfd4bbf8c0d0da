//! How a run ended: what the binary's exit code, message and exit record are made from.

use serde::{Deserialize, Serialize};

/// The end of a guest.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum End {
    /// The guest powered off.
    PoweredOff,
    /// The guest rebooted, and the configuration says that ends the run.
    Rebooted,
    /// The guest's kernel panicked.
    Panicked,
    /// A vCPU could not go on: a triple fault or a KVM internal error.
    Crashed {
        /// What happened, with registers where KVM keeps them.
        reason: String,
    },
    /// The guest rebooted again and again.
    ResetLoop {
        /// Resets within the window.
        resets: u32,
        /// The window's length in seconds.
        seconds: u64,
    },
    /// The guest wrote to the debug-exit port.
    DebugExit {
        /// The byte it wrote.
        code: u8,
    },
    /// The user typed the escape sequence that quits.
    Quit,
    /// It was ended at once through the control interface.
    Ended,
    /// A signal ended the run.
    Signal {
        /// Its number.
        number: i32,
    },
}

/// What a quit by escape key counts as: an interruption by the user, like Ctrl-C.
const QUIT: u8 = 128 + 2;

impl End {
    /// The exit code that stands for it.
    pub fn code(&self) -> u8 {
        match self {
            Self::PoweredOff | Self::Rebooted => 0,
            Self::Panicked | Self::Crashed { .. } | Self::ResetLoop { .. } => 1,
            // As QEMU's isa-debug-exit, whose code never is 0.
            Self::DebugExit { code } => (code << 1) | 1,
            Self::Quit => QUIT,
            // As after `kill`, whichever way the request went.
            Self::Ended => signal_code(libc::SIGKILL),
            Self::Signal { number } => signal_code(*number),
        }
    }

    /// What happened, in a sentence.
    pub fn message(&self) -> String {
        match self {
            Self::PoweredOff => "the guest powered off".to_owned(),
            Self::Rebooted => "the guest rebooted, which ends it here".to_owned(),
            Self::Panicked => "the guest's kernel panicked".to_owned(),
            Self::Crashed { reason } => format!("the guest crashed: {reason}"),
            Self::ResetLoop { resets, seconds } => {
                format!(
                    "the guest was ended because it rebooted {resets} times in {seconds} seconds"
                )
            }
            Self::DebugExit { code } => {
                format!("the guest wrote {code:#04x} to the debug-exit port")
            }
            Self::Quit => "the guest was ended from the keyboard".to_owned(),
            Self::Ended => "the guest was killed on request".to_owned(),
            // The console's reader went away, as in `carve run … | head`.
            Self::Signal { number: libc::SIGPIPE } => {
                "the run was ended because nobody reads its output any more".to_owned()
            }
            Self::Signal { number } => format!("{} ended the run", signal_name(*number)),
        }
    }
}

/// The exit code of what a signal ended, as shells have it.
pub fn signal_code(number: i32) -> u8 {
    128u8.saturating_add(u8::try_from(number).unwrap_or(u8::MAX))
}

/// A signal's name, of those that commonly end processes.
pub fn signal_name(number: i32) -> String {
    let name = match number {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGSYS => "SIGSYS",
        libc::SIGTERM => "SIGTERM",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

/// The whole outcome of a run.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// How often the guest was reset and started again.
    pub resets: u32,
    /// The last lines on its console, at most 4 KiB, where it panicked, crashed or was reset again and again; as it
    /// wrote them, escape sequences included.
    pub last_output: Vec<u8>,
    /// Where the time went.
    pub timings: std::sync::Arc<crate::timings::Timings>,
}
