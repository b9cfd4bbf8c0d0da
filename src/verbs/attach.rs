//! `carve attach`: this terminal, or standard input and output, on the console of a running guest.

mod keys;
mod session;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use vmm::api::client::{self, Client, ConsoleOptions, ConsoleStream};
use vmm::guests::log::Query;
use vmm::guests::{Entry, Store, life};
use vmm::signals::Signals;

pub use self::keys::DetachKeys;
use self::session::{Leave, Session};
use super::logs;
use crate::cli::guests::AttachArgs;
use crate::{exit, terminal};

/// How much of what was said before is shown, at most: about a screenful.
const BACKLOG: u64 = 4096;
/// How long the end of a guest takes to be written down after its console's.
const PATIENCE: Duration = Duration::from_secs(10);

/// How to attach.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is typed goes to the guest.
    pub input: bool,
    /// What ends it.
    pub keys: DetachKeys,
    /// Everything the run has said is shown, and not just the last of it.
    pub from_start: bool,
}

/// Why nobody can be attached, or is any more.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(
        "the guest {0} does not run; start it first (carve start), or see what it said (carve logs)"
    )]
    NotRunning(String),
    #[error("the connection to the console of the guest {0} broke off; attach again")]
    Broken(String),
    #[error("the console of the guest {name}: {source}")]
    Api { name: String, source: client::Error },
}

/// Attaches to the guest until it ends, or the detach keys are typed.
///
/// # Errors
///
/// It does not run, or the connection breaks.
pub fn run(args: &AttachArgs) -> Result<ExitCode, super::Error> {
    let store = Store::of_user()?;
    let mut entry = store.find(&args.which.guest)?;
    let status = life::repair(&store, &mut entry)?;
    if status.is_none_or(|status| status.vmm.is_none()) {
        return Err(Error::NotRunning(entry.guest.name.to_string()).into());
    }
    let keys = args.detach_keys.clone();
    attach(&store, &entry, &Options { input: !args.no_stdin, keys, from_start: false })
}

/// Attaches to a guest that runs, or has just ended, and answers with the exit code of its end.
///
/// # Errors
///
/// The connection cannot be had, or breaks.
pub fn attach(store: &Store, entry: &Entry, options: &Options) -> Result<ExitCode, super::Error> {
    let run = entry.record()?;
    let connected = connect(entry, options);
    let leave = match connected {
        Ok((console, known)) => {
            // Before anything else is begun: it must be the only thread.
            let raw = if options.input { terminal::Raw::enter()? } else { None };
            let signals = Signals::new()?;
            let window = io::stdout().is_terminal().then(|| entry.socket_path());
            let session = Session::new(console, known, signals, raw.is_some(), window, options)?;
            session.run()?
        }
        // It was faster, or is just ending: its log has what it said.
        Err(error) if options.from_start => {
            tracing::debug!("the console cannot be had, so its log is shown: {error}");
            let since = run.as_ref().map(|run| time(run.started_at));
            logs::print(entry, &Query { since, ..Query::default() }, true, false)?;
            Leave::Ended
        }
        Err(source) => {
            let name = entry.guest.name.to_string();
            return Err(Error::Api { name, source }.into());
        }
    };
    match leave {
        Leave::Detached => {
            exit::say(&format!("detached from {}, which goes on", entry.guest.name));
            Ok(ExitCode::SUCCESS)
        }
        Leave::Signal(number) => Ok(ExitCode::from(128u8.saturating_add(number))),
        Leave::NoReader => Ok(ExitCode::SUCCESS),
        Leave::Ended => Ok(ExitCode::from(exit_code(store, entry, run.map(|run| run.run))?)),
    }
}

/// The console from where it is to be shown, and how many bytes of it are from before.
fn connect(entry: &Entry, options: &Options) -> Result<(ConsoleStream, u64), client::Error> {
    let console = |from, input| {
        let client = Client::connect(&entry.socket_path())?;
        client.console(ConsoleOptions { from, input, log: false })
    };
    if options.from_start {
        return Ok((console(Some(0), options.input)?, 0));
    }
    let end = console(None, false)?.offset;
    let shown = console(Some(end.saturating_sub(BACKLOG)), options.input)?;
    let known = if shown.offset == 0 { 0 } else { end.saturating_sub(shown.offset) };
    Ok((shown, known))
}

/// What the guest's run ended with, once that is written down.
fn exit_code(store: &Store, entry: &Entry, run: Option<u32>) -> Result<u8, super::Error> {
    let until = Instant::now() + PATIENCE;
    loop {
        let ended = match entry.record() {
            Ok(Some(record)) if Some(record.run) == run => record.ended,
            // It was removed at its end (`--rm`), or started again.
            _ => store.journal().last_end(&entry.guest.id),
        };
        if let Some(ended) = ended {
            return Ok(ended.exit_code);
        }
        if Instant::now() >= until {
            return Err(Error::Broken(entry.guest.name.to_string()).into());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn time(milliseconds: u64) -> std::time::SystemTime {
    std::time::UNIX_EPOCH + Duration::from_millis(milliseconds)
}
