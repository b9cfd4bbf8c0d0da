//! `carve wait`: until guests have ended.

use std::process::ExitCode;

use vmm::guests::life;

use super::which;
use crate::cli::guests::WaitArgs;

/// Waits for each guest's end and prints its exit code; 0 for one that was never started.
///
/// # Errors
///
/// There is no place for guests.
pub fn run(args: &WaitArgs) -> Result<ExitCode, super::Error> {
    which::each_saying(&args.which.guests, |store, entry, _| {
        let ended = life::wait(store, entry)?;
        Ok::<_, life::Error>(ended.map_or(0, |ended| ended.exit_code).to_string())
    })
}
