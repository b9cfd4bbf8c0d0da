//! `carve verify`: whether everybody is held to what is booked.

use std::fmt::Write;
use std::process::ExitCode;

use serde::Serialize;
use vmm::guests::Store;
use vmm::ledger::{self, Finding, Verified};

use crate::cli::Format;
use crate::cli::host::VerifyArgs;
use crate::exit;

/// The exit code when something differs.
const DIFFERS: u8 = 1;

/// Nothing to compare with.
#[derive(Debug, thiserror::Error)]
#[error("no host file was applied here; apply one first (carve apply FILE)")]
struct NothingApplied;

/// The answer as JSON. Fields are only ever added within a version.
#[derive(Debug, Serialize)]
struct Report<'a> {
    version: u32,
    #[serde(flatten)]
    verified: &'a Verified,
}

/// Reads everything back.
///
/// # Errors
///
/// No host file was applied, or what is booked cannot be read.
pub fn run(args: &VerifyArgs) -> Result<ExitCode, super::Error> {
    let verified = ledger::verify(&Store::of_user()?)?.ok_or(NothingApplied)?;
    let text = match args.format {
        Format::Json => {
            serde_json::to_string_pretty(&Report { version: 1, verified: &verified })? + "\n"
        }
        Format::Table => table(&verified),
    };
    let printed = exit::print(text.as_bytes());
    Ok(match verified.findings.is_empty() {
        _ if printed != ExitCode::SUCCESS => printed,
        true => ExitCode::SUCCESS,
        false => ExitCode::from(DIFFERS),
    })
}

fn table(verified: &Verified) -> String {
    let mut text = String::new();
    for Finding { vm, what, expected, found } in &verified.findings {
        let vm = vm.as_ref().map_or(String::new(), |vm| format!("{vm}: "));
        let found = found.as_deref().unwrap_or("not there");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{vm}{what}: expected {expected}, found {found}");
    }
    for (vm, controllers) in &verified.unenforced {
        let _ = writeln!(
            text,
            "note: {vm} runs without limits by {}: enforce is best-effort",
            controllers.join(", ")
        );
    }
    let Verified { checked, findings, .. } = verified;
    let _ = match findings.len() {
        0 => writeln!(text, "All {checked} limits and settings are as booked."),
        wrong => writeln!(
            text,
            "{wrong} of {checked} limits and settings are not as booked; carve apply writes limits anew."
        ),
    };
    text
}
