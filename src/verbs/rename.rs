//! `carve rename`: another name for a guest.

use std::process::ExitCode;

use resources::config::Name;
use vmm::guests::Store;

use crate::cli::guests::RenameArgs;

/// The host file names it.
#[derive(Debug, thiserror::Error)]
#[error("{0} is a VM of the host file; rename it there, and apply the file (carve apply)")]
struct OfFile(Name);

/// Renames the guest.
///
/// # Errors
///
/// There is no such guest, or the name is taken.
pub fn run(args: &RenameArgs) -> Result<ExitCode, super::Error> {
    let store = Store::of_user()?;
    let mut entry = store.find(&args.which.guest)?;
    let _lock = entry.lock()?;
    entry.reload()?;
    if entry.guest.of_file {
        return Err(OfFile(entry.guest.name).into());
    }
    store.rename(&mut entry, args.name.clone())?;
    Ok(ExitCode::SUCCESS)
}
