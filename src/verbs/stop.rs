//! `carve stop`: the power button, and the end for those who do not listen.

use std::process::ExitCode;

use vmm::guests::life;

use super::which;
use crate::cli::guests::StopArgs;

/// Stops each guest.
///
/// # Errors
///
/// There is no place for guests.
pub fn run(args: &StopArgs) -> Result<ExitCode, super::Error> {
    which::each(&args.which.guests, |_, entry| life::stop(entry, args.timeout()))
}
