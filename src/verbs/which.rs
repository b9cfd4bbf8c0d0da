//! Verbs that act on several guests: on each in turn, whatever becomes of the others.

use std::io::Write;
use std::process::ExitCode;

use vmm::explain;
use vmm::guests::{Entry, Store};

use crate::exit;

/// The exit code when something could not be done to one of the guests.
const SOME_FAILED: u8 = 1;

/// Acts on each guest named, and prints the name of each that it was done to, as it was given.
///
/// # Errors
///
/// There is no place for guests.
pub fn each<E: std::error::Error + 'static>(
    names: &[String],
    mut act: impl FnMut(&Store, &mut Entry) -> Result<(), E>,
) -> Result<ExitCode, super::Error> {
    each_saying(names, |store, entry, name| act(store, entry).map(|()| name.to_owned()))
}

/// [`each`], printing what `act` returns.
///
/// # Errors
///
/// There is no place for guests.
pub fn each_saying<E: std::error::Error + 'static>(
    names: &[String],
    mut act: impl FnMut(&Store, &mut Entry, &str) -> Result<String, E>,
) -> Result<ExitCode, super::Error> {
    each_text(names, |store, name| Ok(act(store, &mut store.find(name)?, name)?))
}

/// [`each_saying`], where `act` finds what is meant itself.
///
/// # Errors
///
/// There is no place for guests.
pub fn each_text(
    names: &[String],
    mut act: impl FnMut(&Store, &str) -> Result<String, super::Error>,
) -> Result<ExitCode, super::Error> {
    let store = Store::of_user()?;
    let mut code = ExitCode::SUCCESS;
    for name in names {
        match act(&store, name) {
            // Nobody may be left to read it; the others are acted on all the same.
            Ok(text) => drop(writeln!(std::io::stdout(), "{text}")),
            Err(error) => {
                exit::say(&format!("error: {}", explain(error.as_ref())));
                code = ExitCode::from(SOME_FAILED);
            }
        }
    }
    Ok(code)
}
