//! The monitor of a detached guest: started by the commands that start guests, never by hand.

use std::io;
use std::process::ExitCode;

use vmm::guests::Store;
use vmm::guests::monitor::{self, First};

use crate::cli::guests::MonitorArgs;

/// Watches over the guest until nothing more is to be done.
///
/// # Errors
///
/// There is no such guest, or the monitor cannot work.
pub fn run(args: &MonitorArgs) -> Result<ExitCode, super::Error> {
    super::set_process_name(c"carve-monitor");
    let store = Store::of_user()?;
    let entry = store.with_id(&args.id)?;
    let first = if args.take_over { First::TakeOver } else { First::Start };
    monitor::watch(&store, entry, first, io::stdout())?;
    Ok(ExitCode::SUCCESS)
}
