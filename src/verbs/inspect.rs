//! `carve inspect`: everything about guests, as JSON.

use std::process::ExitCode;

use vmm::explain;
use vmm::guests::report::Report;
use vmm::guests::{Store, life};

use crate::cli::guests::InspectArgs;
use crate::exit;

/// Prints an array with an object for each guest.
///
/// # Errors
///
/// There is no place for guests.
pub fn run(args: &InspectArgs) -> Result<ExitCode, super::Error> {
    let store = Store::of_user()?;
    let mut reports = Vec::new();
    let mut code = None;
    for name in &args.which.guests {
        match life::look_at(&store, name) {
            Ok((entry, status)) => reports.push(Report::of(&entry, status)),
            Err(error) => {
                exit::say(&format!("error: {}", explain(&error)));
                code = Some(ExitCode::from(1));
            }
        }
    }
    let mut text = serde_json::to_vec_pretty(&reports)?;
    text.push(b'\n');
    let printed = exit::print(&text);
    Ok(code.unwrap_or(printed))
}
