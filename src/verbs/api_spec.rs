//! `carve api-spec`: the control interface of guests, described for programs.

use std::process::ExitCode;

use vmm::api::routes;

use crate::exit;

/// Prints the OpenAPI document.
///
/// # Errors
///
/// The description cannot be written as JSON, which is a bug.
pub fn run() -> Result<ExitCode, super::Error> {
    let text = serde_json::to_string_pretty(&routes::description())?;
    Ok(exit::print(format!("{text}\n").as_bytes()))
}
