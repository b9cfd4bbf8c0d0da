//! `carve metrics`: all guests of this user for Prometheus.

use std::process::ExitCode;

use vmm::api::metrics;
use vmm::explain;
use vmm::guests::{Store, sampling};

use crate::exit;

/// Prints what is known of all guests.
///
/// # Errors
///
/// There is no place for guests.
pub fn run() -> Result<ExitCode, super::Error> {
    let (samples, errors) = sampling::samples(&Store::of_user()?)?;
    for error in errors {
        exit::say(&format!("warning: {}", explain(&error)));
    }
    Ok(exit::print(metrics::text(&samples).as_bytes()))
}
