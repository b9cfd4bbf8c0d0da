//! The journal: what happened to the guests of a host, one line of JSON an event.
//!
//! Whoever does something appends a line; a [`Reader`] follows the file. It is bounded: past
//! [`LIMIT`] bytes the file becomes `events.ndjson.1`, in place of the one before.

mod reader;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

pub use self::reader::Reader;
use super::guest::Guest;
use super::id::Id;
use super::record::Ended;
use crate::api::types::Event;
use crate::clock::now;

/// Bytes of one file.
const LIMIT: u64 = 4 << 20;

/// The journal of a user's guests.
#[derive(Clone, Debug)]
pub struct Journal {
    path: PathBuf,
}

impl Journal {
    /// The journal in the folder `state`.
    pub fn new(state: &Path) -> Self {
        Self { path: state.join("events.ndjson") }
    }

    /// Where it is. The file before it has `.1` at its end.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everything that is kept, from the oldest event on, and then what comes.
    pub fn read(&self) -> Reader {
        Reader::new(self.path.clone())
    }

    /// How the last run ended of the guest with this id, as far as the journal goes back: what is left of guests that
    /// were removed.
    pub fn last_end(&self, id: &Id) -> Option<Ended> {
        let mut journal = self.read();
        let mut last = None;
        while let Ok(Some(event)) = journal.read() {
            if event.event == "exited" && event.id == id.as_str() {
                last = Some(event);
            }
        }
        let Event { time, mut details, .. } = last?;
        let mut take = |key| details.remove(key).unwrap_or_default();
        Some(Ended {
            at: time,
            exit_code: take("exit_code").parse().ok()?,
            kind: take("kind"),
            message: take("message"),
            resets: 0,
            last_output: None,
        })
    }

    /// The file before the one at [`path`](Self::path).
    fn before(path: &Path) -> PathBuf {
        path.with_extension("ndjson.1")
    }

    /// Notes that `event` happened to `guest`. What cannot be written is reported, and nothing else
    /// suffers from it.
    pub fn note(&self, guest: &Guest, event: &str, details: &[(&str, String)]) {
        let details = details.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
        let event = Event {
            time: now(),
            event: event.to_owned(),
            id: guest.id.to_string(),
            name: guest.name.to_string(),
            uid: Some(rustix::process::geteuid().as_raw()),
            labels: guest.labels.clone(),
            details: details.collect::<BTreeMap<_, _>>(),
        };
        if let Err(error) = self.append(&event) {
            tracing::warn!("the journal {} cannot be written to: {error}", self.path.display());
        }
    }

    fn append(&self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        loop {
            let mut file = self.open()?;
            flock(&file, FlockOperation::LockExclusive)?;
            // Another process may have put the file aside while this one waited for it.
            if !same(&file, &self.path) {
                continue;
            }
            if file.metadata()?.len() < LIMIT {
                return file.write_all(&line);
            }
            fs::rename(&self.path, Self::before(&self.path))?;
        }
    }

    fn open(&self) -> io::Result<File> {
        OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)
    }
}

/// Whether `path` still names `file`.
fn same(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}
