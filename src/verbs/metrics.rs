//! `carve metrics`: all guests of this user for Prometheus.

use std::process::ExitCode;

use vmm::api::metrics::{self, Sample};
use vmm::explain;
use vmm::guests::Store;

use super::sampling::{self, Answer};
use crate::exit;

/// Prints what is known of all guests.
///
/// # Errors
///
/// There is no place for guests.
pub fn run() -> Result<ExitCode, super::Error> {
    let store = Store::of_user()?;
    let (mut samples, mut live, mut places) = (Vec::new(), Vec::new(), Vec::new());
    for entry in store.entries()? {
        let looked = entry.and_then(|entry| Ok((entry.status()?, entry)));
        match looked {
            Ok((status, entry)) => {
                let up = status.vmm.is_some().then_some(false);
                if up.is_some() {
                    live.push(entry.clone());
                    places.push(samples.len());
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
    for (place, answer) in places.into_iter().zip(sampling::ask_all(&live)?) {
        let (Some(Answer { vm, statistics }), Some(sample)) = (answer, samples.get_mut(place))
        else {
            continue;
        };
        sample.up = Some(true);
        sample.state = vm.state.as_str().to_owned();
        (sample.vm, sample.statistics) = (Some(vm), statistics);
    }
    Ok(exit::print(metrics::text(&samples).as_bytes()))
}
