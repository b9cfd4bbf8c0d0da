//! `carve schema`: the JSON schema of host files, for editors.

use std::process::ExitCode;

use crate::cli::host::SchemaArgs;
use crate::exit;

/// Prints the schema.
///
/// # Errors
///
/// It cannot be put into JSON.
pub fn run(_: &SchemaArgs) -> Result<ExitCode, super::Error> {
    let schema = serde_json::to_string_pretty(&resources::config::host::json_schema())?;
    Ok(exit::print((schema + "\n").as_bytes()))
}
