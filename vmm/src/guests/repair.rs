//! The repair of what killed processes left. Whoever looks at guests does it first.

use super::guest::Wanted;
use super::life::Error;
use super::monitor::{self, First};
use super::spawn;
use super::status::Status;
use super::store::{self, Entry, Store};

/// Puts right what processes left that were killed: ends that nobody wrote down, monitors that are
/// gone, guests to be removed or started again. Returns the guest's status then; nothing if it was
/// removed.
///
/// # Errors
///
/// Files cannot be read or written.
pub fn repair(store: &Store, entry: &mut Entry) -> Result<Option<Status>, Error> {
    let status = entry.status()?;
    let ended = status.record.as_ref().is_some_and(|record| record.ended.is_some());
    let orphaned = status.vmm.is_some() && status.monitor.is_none() && entry.guest.detached;
    let unfinished = status.vmm.is_none()
        && status.monitor.is_none()
        && (status.is_lost()
            || (ended && (entry.guest.remove || entry.guest.wanted == Wanted::Running)));
    if !orphaned && !unfinished {
        return Ok(Some(status));
    }
    // Who holds the lock is about to change all this.
    let Some(_lock) = entry.attempt_lock() else { return Ok(Some(status)) };
    if entry.reload().is_err() {
        return Ok(None);
    }
    let status = entry.status()?;
    match (status.vmm, status.monitor, status.record.clone()) {
        (Some(_), None, _) if entry.guest.detached => {
            spawn::monitor(entry, First::TakeOver)?;
        }
        (None, None, Some(mut record)) => {
            if record.ended.is_none() {
                monitor::end_lost_run(store, entry, &mut record, None)?;
            }
            let code = record.ended.as_ref().map_or(0, |ended| ended.exit_code);
            if monitor::wants_another_run(entry, code) {
                spawn::monitor(entry, First::Start)?;
            } else if entry.guest.remove {
                store.remove(entry)?;
                return Ok(None);
            }
        }
        _ => {}
    }
    Ok(Some(entry.status()?))
}

/// The guest that `text` means, put right, and what it does.
///
/// # Errors
///
/// There is none, or several; files cannot be read or written.
pub fn look_at(store: &Store, text: &str) -> Result<(Entry, Status), Error> {
    let mut entry = store.find(text)?;
    let status = repair(store, &mut entry)?;
    let status = status.ok_or_else(|| store::Error::NotFound(text.to_owned()))?;
    Ok((entry, status))
}

/// All guests, put right, and what each does, in the order they were created in.
///
/// # Errors
///
/// The folder cannot be read. A guest that cannot be read or put right is an error of its own.
#[allow(clippy::type_complexity)]
pub fn look_at_all(store: &Store) -> Result<Vec<Result<(Entry, Status), Error>>, Error> {
    let look = |entry: Result<Entry, store::Error>| {
        let mut entry = entry?;
        Ok(repair(store, &mut entry)?.map(|status| (entry, status)))
    };
    Ok(store.entries()?.into_iter().filter_map(|entry| look(entry).transpose()).collect())
}
