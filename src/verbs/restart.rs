//! `carve restart`: stop, then start.

use std::process::ExitCode;

use vmm::guests::life;

use super::which;
use crate::cli::guests::RestartArgs;

/// Restarts each guest.
///
/// # Errors
///
/// There is no place for guests.
pub fn run(args: &RestartArgs) -> Result<ExitCode, super::Error> {
    let RestartArgs { stop } = args;
    which::each(&stop.which.guests, |_, entry| {
        life::stop(entry, stop.timeout())?;
        life::start(entry)
    })
}
