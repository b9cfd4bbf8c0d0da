//! `carve prune`: guests that have ended are forgotten.

use std::process::ExitCode;

use vmm::guests::{State, Store, life};

use crate::cli::guests::PruneArgs;
use crate::exit;

/// Removes the guests and prints their names.
///
/// # Errors
///
/// There is no place for guests.
pub fn run(args: &PruneArgs) -> Result<ExitCode, super::Error> {
    let store = Store::of_user()?;
    let mut removed = String::new();
    for found in life::look_at_all(&store)? {
        let (mut entry, status) = match found {
            Ok(found) => found,
            // A guest whose file is damaged is `carve ps`'s to tell of.
            Err(life::Error::Store(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        let unused = status.state == State::Created && status.vmm.is_none();
        if status.state == State::Exited || (args.all && unused) {
            life::remove(&store, &mut entry, false)?;
            removed.push_str(&format!("{}\n", entry.guest.name));
        }
    }
    if store.folders().state.exists() {
        store.sweep();
    }
    Ok(exit::print(removed.as_bytes()))
}
