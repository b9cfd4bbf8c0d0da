//! `carve pause` and `carve unpause`.

use std::process::ExitCode;

use vmm::guests::life;

use super::which;
use crate::cli::guests::Guests;

/// Pauses each guest, or lets it go on.
///
/// # Errors
///
/// There is no place for guests.
pub fn run(which: &Guests, paused: bool) -> Result<ExitCode, super::Error> {
    which::each(&which.guests, |_, entry| life::pause(entry, paused))
}
