//! `carve rm`: forget guests.

use std::process::ExitCode;

use vmm::guests::life;

use super::which;
use crate::cli::guests::RmArgs;

/// Removes each guest.
///
/// # Errors
///
/// There is no place for guests.
pub fn run(args: &RmArgs) -> Result<ExitCode, super::Error> {
    which::each(&args.which.guests, |store, entry| {
        life::repair(store, entry)?;
        life::remove(store, entry, args.force)
    })
}
