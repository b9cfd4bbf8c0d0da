//! What is told of guests: a [`Summary`] of each in lists, and a [`Report`] of one. `carve ps`, `carve inspect` and the
//! host's control interface tell the same. Fields are only ever added within a version.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use super::guest::Guest;
use super::live::Seen;
use super::record::Record;
use super::status::{State, Status};
use super::store::Entry;
use crate::clock::now;

/// A list of guests.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct List<T> {
    version: u32,
    /// In the order they were created in, or named in.
    guests: Vec<T>,
}

impl<T> List<T> {
    /// The list of `guests`.
    pub fn new(guests: Vec<T>) -> Self {
        Self { version: 1, guests }
    }
}

/// One guest in a list. Sizes are bytes, times are milliseconds since 1970.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Summary {
    /// What it is known by for good.
    pub id: String,
    /// What it is called.
    pub name: String,
    /// What it does.
    pub state: State,
    /// The same in a few words.
    pub status: String,
    /// Process id of its VMM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// CPUs it sees.
    pub vcpus: u32,
    /// Memory it sees.
    pub memory: u64,
    /// What it boots.
    pub kernel: String,
    /// When it was created.
    pub created_at: u64,
    /// When its last run began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<u64>,
    /// How its last run ended, if it does not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u8>,
    /// Starts by the restart policy since the user started it.
    pub restarts: u32,
    /// What it is not held to while it runs: limits by controllers that the host lacks, and settings
    /// that the kernel refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unenforced: Vec<String>,
    /// What the user noted about it.
    pub labels: BTreeMap<String, String>,
}

impl Summary {
    /// The guest of `entry`, of which this is the `status`.
    pub fn of(entry: &Entry, status: &Status) -> Self {
        let guest = &entry.guest;
        let record = status.record.as_ref();
        let ended = record.and_then(|record| record.ended.as_ref());
        Self {
            id: guest.id.to_string(),
            name: guest.name.to_string(),
            state: status.state,
            status: words(status, now()),
            pid: status.vmm.map(raw),
            vcpus: guest.config.vcpus,
            memory: guest.config.memory.size.bytes(),
            kernel: guest.config.kernel.display().to_string(),
            created_at: guest.created_at,
            started_at: record.map(|record| record.started_at),
            exit_code: ended.map(|ended| ended.exit_code).filter(|_| status.vmm.is_none()),
            restarts: record.map_or(0, |record| record.restarts),
            unenforced: unenforced(status).to_vec(),
            labels: guest.labels.clone(),
        }
    }
}

/// Everything about one guest.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Report {
    /// What it does.
    pub state: State,
    /// Process id of its VMM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Process id of its monitor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monitor_pid: Option<i32>,
    /// What it is not held to while it runs: limits by controllers that the host lacks, and settings
    /// that the kernel refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unenforced: Vec<String>,
    /// Where its files are.
    pub state_folder: String,
    /// Its control interface while it runs.
    pub socket: String,
    /// What it is.
    #[serde(flatten)]
    pub guest: Guest,
    /// Its last run, and how it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_run: Option<Record>,
}

impl Report {
    /// The guest of `entry`, of which this is the `status`.
    pub fn of(entry: &Entry, status: Status) -> Self {
        Self {
            state: status.state,
            pid: status.vmm.map(raw),
            monitor_pid: status.monitor.map(raw),
            unenforced: unenforced(&status).to_vec(),
            state_folder: entry.state_folder().display().to_string(),
            socket: entry.socket_path().display().to_string(),
            guest: entry.guest.clone(),
            last_run: status.record,
        }
    }
}

fn raw(seen: Seen) -> i32 {
    seen.pid.as_raw_nonzero().get()
}

/// What a running guest is not held to.
fn unenforced(status: &Status) -> &[String] {
    let running = status.record.as_ref().filter(|_| status.vmm.is_some());
    running.map_or(&[], |record| record.unenforced.as_slice())
}

/// The status as a person says it.
fn words(status: &Status, now: u64) -> String {
    let record = status.record.as_ref();
    let up = || record.map_or_else(String::new, |record| ago(record.started_at, now));
    let unheld = || match unenforced(status) {
        [] => String::new(),
        controllers => format!(" (No limits of {})", controllers.join(", ")),
    };
    let ended = record.and_then(|record| record.ended.as_ref());
    match (status.state, ended) {
        (State::Created, _) => "Created".to_owned(),
        (State::Running, _) => format!("Up {}{}", up(), unheld()),
        (State::Paused, _) => format!("Up {} (Paused){}", up(), unheld()),
        (State::Restarting, Some(ended)) => {
            format!("Restarting ({}) {} ago", ended.exit_code, ago(ended.at, now))
        }
        (State::Exited, Some(ended)) => {
            format!("Exited ({}) {} ago", ended.exit_code, ago(ended.at, now))
        }
        (State::Restarting, None) => "Restarting".to_owned(),
        (State::Exited, None) => "Exited".to_owned(),
    }
}

/// The time from `millis` to `now`, both in milliseconds since 1970, in its largest unit.
pub fn ago(millis: u64, now: u64) -> String {
    let seconds = Duration::from_millis(now.saturating_sub(millis)).as_secs();
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..172_800 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod report_test {
    use super::*;

    #[test]
    fn limits_that_do_not_hold_are_told_while_the_guest_runs() {
        let record = Record { unenforced: vec!["cpu".into(), "io".into()], ..Record::begin(1, 0) };
        let pid = rustix::process::getpid();
        let vmm = Seen { pid, letter: super::super::live::Letter::Running };
        let now = record.started_at;
        let running = Status::of(Some(vmm), None, Some(record.clone()));
        assert_eq!(words(&running, now), "Up 0 seconds (No limits of cpu, io)");
        assert_eq!(unenforced(&running), ["cpu", "io"]);
        let ended = Status::of(None, None, Some(record));
        assert!(unenforced(&ended).is_empty());
    }

    #[test]
    fn times_are_told_in_their_largest_unit() {
        let at = |seconds: u64| ago(1000, 1000 * (1 + seconds));
        assert_eq!(
            (at(0).as_str(), at(1).as_str(), at(59).as_str()),
            ("0 seconds", "1 second", "59 seconds")
        );
        assert_eq!((at(60).as_str(), at(7200).as_str()), ("1 minute", "2 hours"));
        assert_eq!(at(200_000), "2 days");
        assert_eq!(ago(5000, 1000), "0 seconds", "a clock that went back");
    }
}
