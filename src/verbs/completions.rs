//! `carve completions`: the script that makes a shell ask this program how to complete its commands.
//!
//! The shell runs the program with [`VARIABLE`] set; then it answers with flags, words and the names of
//! guests, and does nothing else.

use std::ffi::OsStr;
use std::process::ExitCode;

use clap::{CommandFactory, ValueEnum};
use clap_complete::engine::CompletionCandidate;
use clap_complete::env::Shells;
use vmm::guests::{State, Store};

use crate::cli::{Cli, CompletionsArgs};
use crate::exit;

/// Set by the script to the name of the shell.
const VARIABLE: &str = "CARVE_COMPLETE";

/// Prints the script.
///
/// # Errors
///
/// None: every shell that can be asked for has one.
pub fn run(args: &CompletionsArgs) -> Result<ExitCode, super::Error> {
    let mut script = Vec::new();
    let name = args.shell.to_possible_value().map(|shell| shell.get_name().to_owned());
    let shells = Shells::builtins();
    if let Some(shell) = name.and_then(|name| shells.completer(&name)) {
        shell.write_registration(VARIABLE, "carve", "carve", "carve", &mut script)?;
    }
    Ok(exit::print(&script))
}

/// Answers a shell that asks how to go on. True: that was all this process was for.
pub fn answer() -> bool {
    if std::env::var_os(VARIABLE).is_none() {
        return false;
    }
    let folder = std::env::current_dir().ok();
    let complete = clap_complete::CompleteEnv::with_factory(Cli::command).var(VARIABLE);
    // A shell shows nothing of what goes wrong while it completes.
    complete.try_complete(std::env::args_os(), folder.as_deref()).unwrap_or(true)
}

/// Names of guests that begin with `current`.
pub fn guests(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return Vec::new() };
    let entries = Store::of_user().and_then(|store| store.entries()).unwrap_or_default();
    let entries = entries.into_iter().flatten();
    let candidates = entries.filter(|entry| entry.guest.name.starts_with(current)).map(|entry| {
        let state = entry.status().map_or(State::Created, |status| status.state);
        CompletionCandidate::new(entry.guest.name.as_str()).help(Some(state.as_str().into()))
    });
    candidates.collect()
}
