//! What commands do to guests: start, stop, kill, pause, remove.

use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::files::Lock;
use super::guest::Wanted;
use super::live::{self, Letter, Seen};
use super::monitor::{FAILED, First};
use super::record::Ended;
pub use super::repair::{look_at, look_at_all, repair};
use super::spawn;
use super::status::{State, Status};
use super::store::{self, Entry, Store};
use crate::api::client::{self, Client};
use crate::ledger;

/// How long a monitor has to write down an end, or a control interface to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Nobody waits longer than this, about 136 years: more than a clock may be able to tell.
const LONGEST: Duration = Duration::from_secs(u32::MAX as u64);

/// How often a power button is pressed that nothing followed from.
const PRESS_AGAIN: Duration = Duration::from_secs(5);

/// Why something could not be done to a guest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its files.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// What was promised to it.
    #[error(transparent)]
    Ledger(ledger::Error),
    /// It is in another state than the command needs.
    #[error("the guest {name} is {state}; {remedy}")]
    State {
        /// Its name.
        name: String,
        /// What it does.
        state: State,
        /// What to do first.
        remedy: &'static str,
    },
    /// It did not start.
    #[error("the guest {name} could not be started: {reason}")]
    Start {
        /// Its name.
        name: String,
        /// What its VMM said.
        reason: String,
    },
    /// It refused, or did not answer.
    #[error("the guest {name} did not do it: {source}")]
    Api {
        /// Its name.
        name: String,
        /// The answer.
        source: client::Error,
    },
    /// A process.
    #[error("cannot {what}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Something did not end in time.
    #[error("{what} of the guest {name} (process {pid}) did not end within {seconds} seconds")]
    Stuck {
        /// Which process.
        what: &'static str,
        /// The guest's name.
        name: String,
        /// The process.
        pid: i32,
        /// How long was waited.
        seconds: u64,
    },
}

pub(super) fn host<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Error {
    move |error| Error::Host { what, source: error.into() }
}

/// Starts a guest, detached. One that runs already is left as it is.
///
/// # Errors
///
/// [`Error::Start`] with the reason of its VMM.
pub fn start(entry: &mut Entry) -> Result<(), Error> {
    let Some(lock) = lock_idle(entry, true)? else { return Ok(()) };
    entry.guest.detached = true;
    entry.guest.wanted = Wanted::Running;
    entry.save()?;
    let answer = spawn::monitor(entry, First::Start)?;
    let reason = match answer.trim_end().strip_prefix(FAILED) {
        Some(reason) => reason,
        None if answer.is_empty() => "its monitor ended; `carve inspect` says more",
        None => return Ok(()),
    };
    drop(lock);
    wait_until_gone(entry, "the monitor", &entry.monitor_path(), PATIENCE)?;
    Err(Error::Start { name: entry.guest.name.to_string(), reason: reason.to_owned() })
}

/// Ends a guest: presses its power button, and kills it if it has not ended after `timeout`. Its policy
/// does not start it again.
///
/// # Errors
///
/// [`Error`]; a guest that does not run is none.
pub fn stop(entry: &mut Entry, timeout: Duration) -> Result<(), Error> {
    // A guest is ended also where that cannot be written down.
    let noted = want(entry, Wanted::Stopped);
    let status = entry.status()?;
    let Some(vmm) = status.vmm else {
        stop_restarting(entry, &status)?;
        return noted;
    };
    end(entry, vmm, &status, timeout)?;
    noted
}

/// Ends a guest by its power button, its control interface, or a signal, whatever works first.
fn end(entry: &mut Entry, vmm: Seen, status: &Status, timeout: Duration) -> Result<(), Error> {
    let until = Instant::now() + timeout.min(LONGEST);
    if status.state == State::Paused {
        // It could not hear the button.
        let _ = ask(entry, |client| client.post("/v1/resume"));
    }
    // A guest that is still booting does not hear the first one.
    while ask(entry, |client| client.post("/v1/power-button")).is_ok() {
        if wait_for(vmm, until.min(Instant::now() + PRESS_AGAIN))? {
            return settle(entry);
        }
        if Instant::now() >= until {
            break;
        }
    }
    if ask(entry, |client| client.post("/v1/end")).is_ok()
        && wait_for(vmm, Instant::now() + PATIENCE)?
    {
        return settle(entry);
    }
    kill_vmm(entry, vmm, Signal::KILL)
}

/// Ends a guest by a signal, at once.
///
/// # Errors
///
/// [`Error::State`] if it does not run.
pub fn kill(entry: &mut Entry, number: Signal) -> Result<(), Error> {
    let status = entry.status()?;
    let Some(vmm) = status.vmm else {
        if status.state == State::Restarting {
            want(entry, Wanted::Stopped)?;
            return stop_restarting(entry, &status);
        }
        return Err(not_running(entry, status.state));
    };
    kill_vmm(entry, vmm, number)
}

/// Sends a guest's VMM a signal, also where it cannot be written down that this was asked for.
fn kill_vmm(entry: &mut Entry, vmm: Seen, number: Signal) -> Result<(), Error> {
    let noted = want(entry, Wanted::Killed);
    live::send(&entry.vmm_path(), vmm, number)
        .map_err(host("send a signal to the guest's process"))?;
    if number == Signal::KILL {
        settle(entry)?;
    }
    noted
}

/// Pauses or resumes a guest.
///
/// # Errors
///
/// [`Error::State`] if it does not run, [`Error::Api`] if it is paused already, or not.
pub fn pause(entry: &Entry, paused: bool) -> Result<(), Error> {
    let status = entry.status()?;
    if status.vmm.is_none() {
        return Err(not_running(entry, status.state));
    }
    ask(entry, |client| client.post(if paused { "/v1/pause" } else { "/v1/resume" }))
}

/// Asks a running guest something.
///
/// # Errors
///
/// [`Error::Api`].
pub fn ask<T>(
    entry: &Entry,
    what: impl FnOnce(&mut Client) -> Result<T, client::Error>,
) -> Result<T, Error> {
    let failed = |source| Error::Api { name: entry.guest.name.to_string(), source };
    let mut client = Client::connect(&entry.socket_path()).map_err(failed)?;
    what(&mut client).map_err(failed)
}

/// Waits until the guest's present run has ended, and says how it did. A guest that does not run
/// answers with its last end; one that was never started has none. Of one that is removed meanwhile the journal tells.
///
/// # Errors
///
/// A file cannot be read.
pub fn wait(store: &Store, entry: &Entry) -> Result<Option<Ended>, Error> {
    let first = entry.status()?;
    if matches!(first.state, State::Created) && first.vmm.is_none() {
        return Ok(None);
    }
    let run = first.record.as_ref().map(|record| record.run);
    let told = || store.journal().last_end(&entry.guest.id);
    loop {
        let status = match entry.status() {
            Ok(status) => status,
            // Removed at its end (`--rm`), perhaps between two looks.
            Err(_) if !entry.state_folder().exists() => return Ok(told()),
            Err(error) => return Err(error.into()),
        };
        let Some(record) = &status.record else { return Ok(told()) };
        if Some(record.run) != run {
            // It was started again already.
            return Ok(told());
        }
        if record.ended.is_some() {
            return Ok(record.ended.clone());
        }
        match status.vmm {
            Some(vmm) => {
                wait_for(vmm, Instant::now() + Duration::from_secs(3600))?;
            }
            None if status.monitor.is_none() => {
                let words = live::last_words(&entry.vmm_path());
                return Ok(Some(record.lost(None, false, words.as_deref())));
            }
            None => thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// Removes a guest that does not run; with `force` one that does, too.
///
/// # Errors
///
/// [`Error::State`] if it runs.
pub fn remove(store: &Store, entry: &mut Entry, force: bool) -> Result<(), Error> {
    let status = entry.status()?;
    if status.vmm.is_some() || status.state == State::Restarting {
        if !force {
            let name = entry.guest.name.to_string();
            let remedy = "stop it first (carve stop), or remove it with -f";
            return Err(Error::State { name, state: status.state, remedy });
        }
        match kill(entry, Signal::KILL) {
            // It ended by itself meanwhile.
            // Or what is full is what this makes room on.
            Ok(()) | Err(Error::State { .. } | Error::Store(_)) => {}
            Err(error) => return Err(error),
        }
    }
    match lock_idle(entry, false) {
        Ok(Some(_lock)) => {
            store.remove(entry)?;
            if entry.guest.of_file {
                // What the host file has no more holds its share no longer.
                ledger::forget(store, &entry.guest.name, false).map_err(Error::Ledger)?;
            }
            Ok(())
        }
        Ok(None) => {
            let (name, state) = (entry.guest.name.to_string(), State::Running);
            let remedy = "another command started it meanwhile; try again";
            Err(Error::State { name, state, remedy })
        }
        // Its monitor was faster (`--rm`).
        Err(Error::Store(store::Error::NotFound(_))) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The lock of a guest that neither runs nor has a monitor; nothing if it runs. A monitor that is
/// about to leave is waited for; with `wake_monitor` one that waits to start the guest again, too.
fn lock_idle(entry: &mut Entry, wake_monitor: bool) -> Result<Option<Lock>, Error> {
    loop {
        let lock = entry.lock()?;
        entry.reload()?;
        let status = entry.status()?;
        let Some(monitor) = status.monitor.filter(|_| status.vmm.is_none()) else {
            return Ok(status.vmm.is_none().then_some(lock));
        };
        // A monitor takes the lock for its last words.
        if wake_monitor && monitor.letter == Letter::Waiting {
            entry.want(Wanted::Stopped)?;
            wake(entry, monitor)?;
        }
        drop(lock);
        wait_until_gone(entry, "the monitor", &entry.monitor_path(), PATIENCE)?;
    }
}

fn not_running(entry: &Entry, state: State) -> Error {
    let name = entry.guest.name.to_string();
    Error::State { name, state, remedy: "start it first (carve start)" }
}

fn want(entry: &mut Entry, wanted: Wanted) -> Result<(), Error> {
    let _lock = entry.lock()?;
    Ok(entry.want(wanted)?)
}

/// A guest between two runs: its monitor is told that no other is wanted.
fn stop_restarting(entry: &Entry, status: &Status) -> Result<(), Error> {
    let Some(monitor) = status.monitor else { return Ok(()) };
    wake(entry, monitor)?;
    settle(entry)
}

/// Makes a monitor look again at what is wanted.
fn wake(entry: &Entry, monitor: Seen) -> Result<(), Error> {
    live::send(&entry.monitor_path(), monitor, Signal::TERM)
        .map_err(host("wake the guest's monitor"))
}

/// Waits for the end of a process. False: it still lives at `until`.
fn wait_for(seen: Seen, until: Instant) -> Result<bool, Error> {
    live::wait_for(seen, until).map_err(host("wait for the guest's process"))
}

/// Waits until a guest that is ending has ended, and its monitor has written that down and left.
fn settle(entry: &Entry) -> Result<(), Error> {
    wait_until_gone(entry, "the process", &entry.vmm_path(), PATIENCE)?;
    wait_until_gone(entry, "the monitor", &entry.monitor_path(), PATIENCE)
}

fn wait_until_gone(
    entry: &Entry,
    what: &'static str,
    path: &Path,
    patience: Duration,
) -> Result<(), Error> {
    let until = Instant::now() + patience;
    while let Some(seen) = live::look(path).map_err(host("look for a process"))? {
        if wait_for(seen, until)? {
            continue;
        }
        let (name, pid) = (entry.guest.name.to_string(), Pid::as_raw(Some(seen.pid)));
        return Err(Error::Stuck { what, name, pid, seconds: patience.as_secs() });
    }
    Ok(())
}
