//! `carve kill`: the end, at once.

use std::process::ExitCode;

use rustix::process::Signal;
use vmm::guests::life;

use super::which;
use crate::cli::guests::{KillArgs, KillSignal};

/// Sends each guest's process the signal.
///
/// # Errors
///
/// There is no place for guests.
pub fn run(args: &KillArgs) -> Result<ExitCode, super::Error> {
    let signal = match args.signal {
        KillSignal::Kill => Signal::KILL,
        KillSignal::Term => Signal::TERM,
        KillSignal::Int => Signal::INT,
        KillSignal::Quit => Signal::QUIT,
        KillSignal::Hup => Signal::HUP,
    };
    which::each(&args.which.guests, |_, entry| life::kill(entry, signal))
}
