//! `carve start`: guests that were created or have ended, detached.

use std::process::ExitCode;

use vmm::guests::life;

use super::which;
use crate::cli::guests::StartArgs;

/// Starts each guest.
///
/// # Errors
///
/// There is no place for guests.
pub fn run(args: &StartArgs) -> Result<ExitCode, super::Error> {
    which::each(&args.which.guests, |_, entry| life::start(entry))
}
