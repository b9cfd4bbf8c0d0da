//! `carve metrics`: all guests of this user for Prometheus.

use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use vmm::api::client::{self, Client};
use vmm::api::metrics::{self, Sample};
use vmm::api::types::{Statistics, Vm};
use vmm::explain;
use vmm::guests::{Entry, Store};

use crate::exit;

/// How long a guest has to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many guests are asked at once.
const AT_ONCE: usize = 64;

/// Stack of a thread that asks one guest, in bytes.
const STACK: usize = 256 << 10;

/// Prints what is known of all guests.
///
/// # Errors
///
/// There is no place for guests.
pub fn run() -> Result<ExitCode, super::Error> {
    let store = Store::of_user()?;
    let (mut samples, mut live) = (Vec::new(), Vec::new());
    for entry in store.entries()? {
        let looked = entry.and_then(|entry| Ok((entry.status()?, entry)));
        match looked {
            Ok((status, entry)) => {
                let up = status.vmm.is_some().then_some(false);
                if up.is_some() {
                    live.push((samples.len(), entry.clone()));
                }
                samples.push(Sample {
                    id: entry.guest.id.to_string(),
                    name: entry.guest.name.to_string(),
                    state: status.state.to_string(),
                    up,
                    vm: None,
                    statistics: None,
                });
            }
            Err(error) => exit::say(&format!("warning: {}", explain(&error))),
        }
    }
    for some in live.chunks(AT_ONCE) {
        ask_all(some, &mut samples)?;
    }
    Ok(exit::print(metrics::text(&samples).as_bytes()))
}

/// Asks guests side by side, and notes the answers at their places in `samples`. Nobody waits for threads
/// whose guests do not answer.
fn ask_all(guests: &[(usize, Entry)], samples: &mut [Sample]) -> std::io::Result<()> {
    let (sender, answers) = mpsc::channel();
    for (index, entry) in guests {
        let (index, entry, sender) = (*index, entry.clone(), sender.clone());
        thread::Builder::new().stack_size(STACK).spawn(move || {
            let _ = sender.send((index, ask(&entry)));
        })?;
    }
    drop(sender);
    let until = Instant::now() + PATIENCE;
    while let Ok((index, answer)) =
        answers.recv_timeout(until.saturating_duration_since(Instant::now()))
    {
        let (Ok((vm, statistics)), Some(sample)) = (answer, samples.get_mut(index)) else {
            continue;
        };
        sample.up = Some(true);
        sample.state = vm.state.as_str().to_owned();
        (sample.vm, sample.statistics) = (Some(vm), statistics);
    }
    Ok(())
}

fn ask(entry: &Entry) -> Result<(Vm, Option<Statistics>), client::Error> {
    let mut client = Client::connect(&entry.socket_path())?;
    // Without statistics there is less to tell.
    Ok((client.get("/v1/vm")?, client.get("/v1/stats").ok()))
}
