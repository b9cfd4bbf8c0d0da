//! `carve api-spec`: the control interfaces, described for programs.

use std::process::ExitCode;

use vmm::api::{host, routes};

use crate::cli::guests::ApiSpecArgs;
use crate::exit;

/// Prints the OpenAPI document.
///
/// # Errors
///
/// The description cannot be written as JSON, which is a bug.
pub fn run(args: &ApiSpecArgs) -> Result<ExitCode, super::Error> {
    let description = if args.host { host::description() } else { routes::description() };
    let text = serde_json::to_string_pretty(&description)?;
    Ok(exit::print(format!("{text}\n").as_bytes()))
}
