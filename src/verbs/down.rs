//! `carve down`: the VMs of the host file stopped.

use std::process::ExitCode;

use vmm::guests::Store;
use vmm::ledger::{self, DownOptions, Step};

use super::apply;
use crate::cli::Format;
use crate::cli::host::DownArgs;

/// Stops them.
///
/// # Errors
///
/// The ledger cannot be read, or another command is at it.
pub fn run(args: &DownArgs) -> Result<ExitCode, super::Error> {
    let options = DownOptions { timeout: args.stop.timeout() };
    let say = |step: &Step| {
        if args.format == Format::Table {
            apply::tell(step);
        }
    };
    let steps = ledger::down(&Store::of_user()?, &options, &say)?;
    apply::end(&steps, args.format)
}
