//! What running guests do, asked of all of them side by side.

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::store::{self, Entry, Store};
use crate::api::client::{self, Client};
use crate::api::metrics::Sample;
use crate::api::types::{Statistics, Vm};

/// How long a guest has to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many guests are asked at once.
const AT_ONCE: usize = 64;

/// Stack of a thread that asks one guest, in bytes.
const STACK: usize = 256 << 10;

/// What a guest answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What it is and does.
    pub vm: Vm,
    /// Nothing from one that could not tell in time.
    pub statistics: Option<Statistics>,
}

/// Asks each guest; nothing from those that did not answer in time, for which nobody waits.
///
/// # Errors
///
/// The host has no thread left.
pub fn ask_all(guests: &[Entry]) -> io::Result<Vec<Option<Answer>>> {
    let mut answers = Vec::with_capacity(guests.len());
    for some in guests.chunks(AT_ONCE) {
        answers.extend(ask_some(some)?);
    }
    Ok(answers)
}

fn ask_some(guests: &[Entry]) -> io::Result<Vec<Option<Answer>>> {
    let (sender, answered) = mpsc::channel();
    for (index, entry) in guests.iter().enumerate() {
        let (entry, sender) = (entry.clone(), sender.clone());
        thread::Builder::new().stack_size(STACK).spawn(move || {
            let _ = sender.send((index, ask(&entry)));
        })?;
    }
    drop(sender);
    let mut answers = vec![None; guests.len()];
    let until = Instant::now() + PATIENCE;
    while let Ok((index, answer)) =
        answered.recv_timeout(until.saturating_duration_since(Instant::now()))
    {
        if let Some(slot) = answers.get_mut(index) {
            *slot = answer.ok();
        }
    }
    Ok(answers)
}

fn ask(entry: &Entry) -> Result<Answer, client::Error> {
    let mut client = Client::connect_within(&entry.socket_path(), PATIENCE)?;
    // Without statistics there is less to tell.
    Ok(Answer { vm: client.get("/v1/vm")?, statistics: client.get("/v1/stats").ok() })
}

/// Why nothing can be told of any guest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Their files.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// No thread to ask on.
    #[error("cannot start a thread to ask the guests on: {0}")]
    Thread(#[from] io::Error),
}

/// What there is to tell of all guests, and why not of some.
///
/// # Errors
///
/// [`Error`].
pub fn samples(store: &Store) -> Result<(Vec<Sample>, Vec<store::Error>), Error> {
    let (mut samples, mut live, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    let mut places = Vec::new();
    for entry in store.entries()? {
        match entry.and_then(|entry| Ok((entry.status()?, entry))) {
            Ok((status, entry)) => {
                samples.push(Sample {
                    id: entry.guest.id.to_string(),
                    name: entry.guest.name.to_string(),
                    state: status.state.to_string(),
                    up: status.vmm.is_some().then_some(false),
                    vm: None,
                    statistics: None,
                });
                if status.vmm.is_some() {
                    places.push(samples.len() - 1);
                    live.push(entry);
                }
            }
            Err(error) => errors.push(error),
        }
    }
    for (place, answer) in places.into_iter().zip(ask_all(&live)?) {
        let (Some(Answer { vm, statistics }), Some(sample)) = (answer, samples.get_mut(place))
        else {
            continue;
        };
        sample.up = Some(true);
        sample.state = vm.state.as_str().to_owned();
        (sample.vm, sample.statistics) = (Some(vm), statistics);
    }
    Ok((samples, errors))
}
