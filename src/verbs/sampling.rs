//! What running guests do, asked of all of them side by side.

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use vmm::api::client::{self, Client};
use vmm::api::types::{Statistics, Vm};
use vmm::guests::Entry;

/// How long a guest has to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many guests are asked at once.
const AT_ONCE: usize = 64;

/// Stack of a thread that asks one guest, in bytes.
const STACK: usize = 256 << 10;

/// What a guest answered.
#[derive(Clone, Debug)]
pub struct Answer {
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
