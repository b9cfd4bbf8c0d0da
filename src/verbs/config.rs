//! `carve config show`: every key of a host that has a value, and who gave it.

use std::fmt::Write;
use std::process::ExitCode;

use super::host_file;
use crate::cli::Format;
use crate::cli::host::{ConfigArgs, ConfigShowArgs, ConfigVerb};
use crate::exit;

/// Prints the configuration.
///
/// # Errors
///
/// Files cannot be read, or are wrong.
pub fn run(args: &ConfigArgs) -> Result<ExitCode, super::Error> {
    let ConfigVerb::Show(ConfigShowArgs { host_file, origin, format }) = &args.verb;
    let values = host_file::layers(host_file)?.values();
    let text = match format {
        Format::Json => serde_json::to_string_pretty(&values)? + "\n",
        Format::Table => {
            let width = values.iter().map(|value| value.key.len() + value.value.len()).max();
            let width = width.unwrap_or(0).min(60);
            let mut text = String::new();
            for value in &values {
                let line = format!("{} = {}", value.key, value.value);
                // Writing to a String cannot fail.
                let _ = match origin {
                    true => writeln!(text, "{line:w$}  # {}", value.origin, w = width + 3),
                    false => writeln!(text, "{line}"),
                };
            }
            text
        }
    };
    Ok(exit::print(text.as_bytes()))
}
