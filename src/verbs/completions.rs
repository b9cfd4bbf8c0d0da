//! `carve completions`: the script that completes commands and flags in a shell.

use std::process::ExitCode;

use clap::CommandFactory;

use crate::cli::{Cli, CompletionsArgs};
use crate::exit;

/// Prints the script.
///
/// # Errors
///
/// None: the signature is that of every verb.
pub fn run(args: &CompletionsArgs) -> Result<ExitCode, super::Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "carve", &mut script);
    Ok(exit::print(&script))
}
