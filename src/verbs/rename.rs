//! `carve rename`: another name for a guest.

use std::process::ExitCode;

use vmm::guests::Store;

use crate::cli::guests::RenameArgs;

/// Renames the guest.
///
/// # Errors
///
/// There is no such guest, or the name is taken.
pub fn run(args: &RenameArgs) -> Result<ExitCode, super::Error> {
    let store = Store::of_user()?;
    let mut entry = store.find(&args.which.guest)?;
    store.rename(&mut entry, args.name.clone())?;
    Ok(ExitCode::SUCCESS)
}
