//! How a run ended: what the binary's exit code, message and exit record are made from.

use serde::Serialize;

/// The end of a guest.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
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

/// The whole outcome of a run.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// How often the guest was reset and started again.
    pub resets: u32,
    /// Where the time went.
    pub timings: std::sync::Arc<crate::timings::Timings>,
}
