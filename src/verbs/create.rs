//! `carve create`: a guest that `carve start` starts.

use std::process::ExitCode;

use vmm::guests::Store;

use super::new;
use crate::cli::CreateArgs;
use crate::exit;

/// Makes the guest and prints its id.
///
/// # Errors
///
/// The configuration cannot be, or the name is taken.
pub fn run(args: &CreateArgs) -> Result<ExitCode, super::Error> {
    let config = new::configuration(args.config.as_ref(), &args.vm)?;
    let entry = new::guest(&Store::of_user()?, config, &args.kvm, &args.keep, &args.confine, true)?;
    Ok(exit::print(format!("{}\n", entry.guest.id).as_bytes()))
}
