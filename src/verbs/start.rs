//! `carve start`: guests that were created or have ended, detached.

use std::process::ExitCode;

use vmm::guests::{Store, life};

use super::attach::{self, Options};
use super::which;
use crate::cli::guests::StartArgs;

/// One can be attached to one guest only.
#[derive(Debug, thiserror::Error)]
#[error(
    "--attach and --interactive are for one guest, not for {0}; start the others by themselves"
)]
struct Several(usize);

/// Starts each guest; with `--attach` the only one, and shows its output until it ends.
///
/// # Errors
///
/// There is no place for guests; with `--attach` also all that keeps the guest from starting.
pub fn run(args: &StartArgs) -> Result<ExitCode, super::Error> {
    let guests = &args.which.guests;
    if !args.attach && !args.interactive {
        return which::each(guests, |_, entry| life::start(entry));
    }
    let [guest] = guests.as_slice() else { return Err(Several(guests.len()).into()) };
    let store = Store::of_user()?;
    let mut entry = store.find(guest)?;
    life::start(&mut entry)?;
    let keys = args.detach_keys.clone();
    attach::attach(&store, &entry, &Options { input: args.interactive, keys, from_start: true })
}
