//! What a guest does now, by who lives and what was recorded.

use std::fmt;

use rustix::process::Pid;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::live::{Letter, Seen};
use super::record::Record;

/// The state of a guest, as its users know it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It has not been started yet.
    Created,
    /// It runs.
    Running,
    /// It was paused.
    Paused,
    /// It ended, and is started again soon.
    Restarting,
    /// It ended.
    Exited,
}

impl State {
    /// All of them, as they are written.
    pub const WORDS: &[&str] = &["created", "running", "paused", "restarting", "exited"];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
        }
    }

    /// Whether a VMM is there.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Everything that tells what a guest does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// In one word.
    pub state: State,
    /// Its VMM, if there is one.
    pub vmm: Option<Seen>,
    /// Its monitor, if there is one.
    pub monitor: Option<Seen>,
    /// Its last run.
    pub record: Option<Record>,
}

impl Status {
    /// The status that follows from what was seen.
    pub fn of(vmm: Option<Seen>, monitor: Option<Seen>, record: Option<Record>) -> Self {
        let again = monitor.is_some_and(|monitor| monitor.letter == Letter::Waiting);
        let before = record.as_ref().is_some_and(|record| record.ended.is_some() || record.run > 1);
        let state = match vmm.map(|vmm| vmm.letter) {
            Some(Letter::Paused) => State::Paused,
            Some(Letter::Running | Letter::Waiting) => State::Running,
            Some(Letter::Starting) if !before => State::Created,
            Some(Letter::Starting) => State::Restarting,
            None if again => State::Restarting,
            None if record.is_some() => State::Exited,
            None => State::Created,
        };
        Self { state, vmm, monitor, record }
    }

    /// Process id of the VMM.
    pub fn pid(&self) -> Option<Pid> {
        self.vmm.map(|vmm| vmm.pid)
    }

    /// Whether the last run's end is nowhere written down although nobody is left to do it.
    pub fn is_lost(&self) -> bool {
        let unended = self.record.as_ref().is_some_and(|record| record.ended.is_none());
        self.vmm.is_none() && self.monitor.is_none() && unended
    }
}
