//! `carve inspect`: everything about guests, as JSON.

use std::process::ExitCode;

use serde::Serialize;
use vmm::explain;
use vmm::guests::{Entry, Guest, Record, State, Status, Store, life};

use crate::cli::guests::InspectArgs;
use crate::exit;

/// One guest. Fields are only ever added within a version.
#[derive(Debug, Serialize)]
struct Report<'a> {
    state: State,
    /// Process ids, while they live.
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    monitor_pid: Option<i32>,
    /// Where its files are.
    state_folder: String,
    socket: String,
    #[serde(flatten)]
    guest: &'a Guest,
    /// Its last run, and how it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_run: Option<&'a Record>,
}

/// Prints an array with an object for each guest.
///
/// # Errors
///
/// There is no place for guests.
pub fn run(args: &InspectArgs) -> Result<ExitCode, super::Error> {
    let store = Store::of_user()?;
    let mut found = Vec::new();
    let mut code = None;
    for name in &args.which.guests {
        match look(&store, name) {
            Ok(one) => found.push(one),
            Err(error) => {
                exit::say(&format!("error: {}", explain(&error)));
                code = Some(ExitCode::from(1));
            }
        }
    }
    let reports: Vec<_> = found.iter().map(|(entry, status)| describe(entry, status)).collect();
    let mut text = serde_json::to_vec_pretty(&reports)?;
    text.push(b'\n');
    let printed = exit::print(&text);
    Ok(code.unwrap_or(printed))
}

fn look(store: &Store, name: &str) -> Result<(Entry, Status), life::Error> {
    let mut entry = store.find(name)?;
    let status = life::repair(store, &mut entry)?;
    let status = status.ok_or_else(|| vmm::guests::Error::NotFound(name.to_owned()))?;
    Ok((entry, status))
}

fn describe<'a>(entry: &'a Entry, status: &'a Status) -> Report<'a> {
    let raw = |seen: vmm::guests::live::Seen| seen.pid.as_raw_nonzero().get();
    Report {
        state: status.state,
        pid: status.vmm.map(raw),
        monitor_pid: status.monitor.map(raw),
        state_folder: entry.state_folder().display().to_string(),
        socket: entry.socket_path().display().to_string(),
        guest: &entry.guest,
        last_run: status.record.as_ref(),
    }
}
