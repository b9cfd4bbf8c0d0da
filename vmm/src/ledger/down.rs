//! [`down()`]: stops the VMs of the host file. They keep their shares, and `apply` starts them again.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use resources::config::Name;
use resources::plan::{ActionKind, Origin};

use super::apply::{Error, Step, alone};
use super::books::Ledger;
use super::order::{self, Outcome};
use crate::explain;
use crate::guests::{Entry, Store, life};

/// How VMs are stopped.
#[derive(Clone, Debug)]
pub struct DownOptions {
    /// How long a guest has to power itself off.
    pub timeout: Duration,
}

/// Stops every VM of the host file that runs, each before those it comes after. `report` hears of each
/// as it has ended.
///
/// # Errors
///
/// [`Error`]. A VM that cannot be stopped is a [`Step`].
pub fn down(
    store: &Store,
    options: &DownOptions,
    report: &(dyn Fn(&Step) + Sync),
) -> Result<Vec<Step>, Error> {
    let _alone = alone(store)?;
    let Some(ledger) = Ledger::open(store)? else { return Ok(Vec::new()) };
    let config = ledger.config().clone();
    let mut guests: Vec<(Name, Entry)> = Vec::new();
    for (name, booking) in &ledger.booked().bookings {
        if booking.origin == Origin::File
            && let Some(entry) = ledger.guest(name)?
            && entry.status().is_ok_and(|status| status.vmm.is_some() || status.monitor.is_some())
        {
            guests.push((name.clone(), entry));
        }
    }
    drop(ledger);
    let after = config.prerequisites();
    let steps = Mutex::new(Vec::new());
    let stop = |name: &Name| {
        let found = guests.iter().find(|(other, _)| other == name);
        let Some(mut entry) = found.map(|(_, entry)| entry.clone()) else { return Ok(()) };
        life::stop(&mut entry, options.timeout).map_err(|error| explain(&error))
    };
    let ended = |name: &Name, outcome: &Outcome| {
        let error = match outcome {
            Outcome::Done => None,
            Outcome::Failed(error) => Some(error.clone()),
            Outcome::Blocked(other) => Some(format!("{other} comes after it and still runs")),
        };
        let step = Step { vm: name.clone(), kind: ActionKind::Stop, error };
        report(&step);
        steps.lock().unwrap_or_else(PoisonError::into_inner).push(step);
    };
    order::run(guests.iter().map(|(name, _)| name), &order::reversed(&after), stop, ended);
    let mut steps = steps.into_inner().unwrap_or_else(PoisonError::into_inner);
    steps.sort_by(|a, b| a.vm.cmp(&b.vm));
    Ok(steps)
}
