//! `carve rm`: forget guests.

use std::process::ExitCode;

use resources::config::Name;
use vmm::guests::{self, Store, life};
use vmm::ledger;

use super::which;
use crate::cli::guests::RmArgs;

/// Removes each guest; with `--volumes` its disks in pools, too, also if it is gone already.
///
/// # Errors
///
/// There is no place for guests.
pub fn run(args: &RmArgs) -> Result<ExitCode, super::Error> {
    which::each_text(&args.which.guests, |store, text| {
        remove(store, text, args)?;
        Ok(text.to_owned())
    })
}

fn remove(store: &Store, text: &str, args: &RmArgs) -> Result<(), super::Error> {
    let mut entry = match store.find(text) {
        Ok(entry) => entry,
        Err(error) => {
            let name: Option<Name> = text.parse().ok().filter(|_| args.volumes);
            let forgotten = name.map_or(Ok(false), |name| ledger::forget(store, &name, true))?;
            // As with containers: what was to be gone is gone.
            let gone = args.force && matches!(error, guests::Error::NotFound(_));
            return if forgotten || gone { Ok(()) } else { Err(error.into()) };
        }
    };
    life::repair(store, &mut entry)?;
    life::remove(store, &mut entry, args.force)?;
    if args.volumes {
        ledger::forget(store, &entry.guest.name, true)?;
    }
    Ok(())
}
