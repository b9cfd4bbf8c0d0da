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
    let store = Store::of_user()?;
    let mut code = ExitCode::SUCCESS;
    for name in names {
        let done = match store.find(name) {
            Ok(mut entry) => act(&store, &mut entry, name).map_err(|error| explain(&error)),
            Err(error) => Err(explain(&error)),
        };
        match done {
            // Nobody may be left to read it; the others are acted on all the same.
            Ok(text) => drop(writeln!(std::io::stdout(), "{text}")),
            Err(text) => {
                exit::say(&format!("error: {text}"));
                code = ExitCode::from(SOME_FAILED);
            }
        }
    }
    Ok(code)
}
