//! `carve run`: a guest in the foreground, its serial console on the terminal, or detached.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Instant;

use rustix::io::fcntl_dupfd_cloexec;
use vmm::guests::process::{self, Setup};
use vmm::guests::{Books, BooksError, Entry, Restart, Store, WriteExitRecord, life};
use vmm::{Console, Outcome, explain};

use super::new;
use crate::cli::RunArgs;
use crate::exit::{self, Record, RecordError};
use crate::terminal;

/// Why a guest did not run to an end of its own.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    New(#[from] new::Error),
    #[error(transparent)]
    Store(#[from] vmm::guests::Error),
    #[error("--restart {0} needs -d: only a guest that is detached is started again")]
    Restart(Restart),
    #[error(transparent)]
    Terminal(#[from] terminal::Error),
    #[error(
        "standard input or output cannot be duplicated; raise the limit of open files (ulimit -n)"
    )]
    Duplicate(#[source] io::Error),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Run(#[from] process::Error),
    #[error(transparent)]
    Start(#[from] life::Error),
    #[error(transparent)]
    Books(#[from] BooksError),
}

/// Runs a guest and answers with the exit code of its end.
pub fn run(args: &RunArgs, start: Instant) -> ExitCode {
    if args.detach {
        return match detached(args) {
            Ok(entry) => exit::print(format!("{}\n", entry.guest.id).as_bytes()),
            Err(error) => exit::own_error(&error),
        };
    }
    let (outcome, books) = guest(args, start);
    // From here on the terminal is the user's again.
    let (record, code) = match &outcome {
        Ok(outcome) => {
            if args.timings {
                exit::say(&format!("timings:\n{}", outcome.timings));
            }
            let code = outcome.end.code();
            if code != 0 {
                exit::say(&outcome.end.message());
            }
            (Record::of(outcome, args.timings), ExitCode::from(code))
        }
        Err(error) => (Record::of_error(explain(error)), exit::own_error(error)),
    };
    // A record that could not be prepared has been complained about.
    match &args.exit_record {
        Some(path) if !matches!(outcome, Err(Error::Record(_))) => {
            write_record(&record, path, books.as_deref())
                .map_or_else(|error| exit::own_error(error.as_ref()), |()| code)
        }
        _ => code,
    }
}

fn detached(args: &RunArgs) -> Result<Entry, Error> {
    let config = new::configuration(args.config.as_ref(), &args.vm)?;
    warn_without_hardware();
    let store = Store::of_user()?;
    let mut entry = new::guest(&store, config, &args.kvm, &args.keep, &args.confine, true)?;
    life::start(&mut entry)?;
    Ok(entry)
}

/// Writes the record from within the jail, or where there was none.
fn write_record(record: &Record, path: &Path, books: Option<&Books>) -> Result<(), super::Error> {
    match books {
        Some(books) => Ok(books.write_exit_record(record.text()?)?),
        None => Ok(record.write(path)?),
    }
}

/// The end of the run, and its books as soon as there are any.
fn guest(args: &RunArgs, start: Instant) -> (Result<Outcome, Error>, Option<Rc<Books>>) {
    match prepare(args) {
        Err(error) => (Err(error), None),
        Ok(books) => {
            let outcome = foreground(&books, start);
            let removed = if args.keep.rm { books.remove() } else { Ok(()) };
            let outcome = match removed {
                Ok(()) => outcome,
                Err(error) => outcome.and(Err(error.into())),
            };
            (outcome, Some(books))
        }
    }
}

fn prepare(args: &RunArgs) -> Result<Rc<Books>, Error> {
    if let Some(path) = &args.exit_record {
        exit::prepare_record(path)?;
    }
    if args.keep.restart != Restart::No {
        return Err(Error::Restart(args.keep.restart));
    }
    let config = new::configuration(args.config.as_ref(), &args.vm)?;
    warn_without_hardware();
    let store = Store::of_user()?;
    let entry = new::guest(&store, config, &args.kvm, &args.keep, &args.confine, false)?;
    let write: Option<WriteExitRecord> = args.exit_record.clone().map(|path| {
        let write =
            move |text: &[u8]| exit::write_record(&path, text).map_err(|error| explain(&error));
        Box::new(write) as WriteExitRecord
    });
    // Before anything that may start a thread, and before the terminal's handlers of signals.
    Ok(Rc::new(Books::open(&store, &entry, write)?))
}

fn foreground(books: &Rc<Books>, start: Instant) -> Result<Outcome, Error> {
    let raw = terminal::Raw::enter()?;
    let console = Console {
        input: Some(duplicate(io::stdin().as_fd())?),
        output: Some(duplicate(io::stdout().as_fd())?),
        escapes: raw.is_some(),
        kept: false,
        on_continue: Some(terminal::continued),
    };
    let setup =
        Setup { console, kernel_cache: kernel_cache(), start, restarts: 0, announce: exit::say };
    Ok(process::run(books, setup, || {})?)
}

fn warn_without_hardware() {
    if !resources::inventory::hardware_virtualization() {
        tracing::warn!(
            "this host's KVM has no hardware virtualization: a stock kernel will not get through \
             its boot here; `carve doctor` says more"
        );
    }
}

fn duplicate(descriptor: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    // Past the standard ones, which stay what they are.
    fcntl_dupfd_cloexec(descriptor, 3).map_err(|error| Error::Duplicate(error.into()))
}

/// The cache folder, where extracted kernels are kept, by the XDG Base Directory Specification; nowhere
/// for a user who has no home.
pub fn kernel_cache() -> Option<PathBuf> {
    find_kernel_cache(|name| std::env::var_os(name).map(PathBuf::from))
}

fn find_kernel_cache(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    // The specification wants relative paths ignored.
    let absolute = |path: &PathBuf| path.is_absolute();
    let base = variable("XDG_CACHE_HOME")
        .filter(absolute)
        .or_else(|| Some(variable("HOME").filter(absolute)?.join(".cache")))?;
    Some(base.join("carve"))
}

#[cfg(test)]
mod run_test {
    use super::*;

    #[test]
    fn kernels_are_cached_where_xdg_says() {
        let with = |xdg: Option<&str>, home: Option<&str>| {
            find_kernel_cache(|name| (if name == "HOME" { home } else { xdg }).map(PathBuf::from))
        };
        assert_eq!(with(Some("/c"), Some("/h")), Some("/c/carve".into()));
        assert_eq!(with(None, Some("/h")), Some("/h/.cache/carve".into()));
        assert_eq!(with(Some("relative"), Some("/h")), Some("/h/.cache/carve".into()));
        assert_eq!(with(Some(""), None), None);
    }
}
