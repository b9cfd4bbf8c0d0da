//! A guest's own process: the run of its machine, with everything that tells others about it.

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use resources::plan::tasks;

use super::books::{self, Books};
use super::live::{Alive, Letter};
use super::record::{Ended, Record};
use super::store;
use crate::api::socket;
use crate::jail::seccomp::Mode;
use crate::jail::{self, Confinement};
use crate::ledger::{Share, ShareError};
use crate::machine::passt::Outside;
use crate::machine::unix_socket;
use crate::run::{self, Control, Notice, RunOptions};
use crate::{Console, Outcome, explain};

/// Why a guest did not run to an end of its own.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It runs already.
    #[error("the guest {0} runs already")]
    Running(String),
    /// Its files cannot be written.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Its record cannot be written.
    #[error(transparent)]
    Books(#[from] books::Error),
    /// It lost the process's sign of life, or its control interface.
    #[error("cannot {what}: {source}")]
    Host {
        /// What was tried.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Its control interface.
    #[error(transparent)]
    Socket(#[from] unix_socket::Error),
    /// Its share of a divided host.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// The machine.
    #[error(transparent)]
    Run(#[from] run::Error),
    /// A bug.
    #[error("a bug in Carve ended the run; please report it with the message above")]
    Panicked,
}

fn host(what: &str) -> impl FnOnce(io::Error) -> Error {
    let what = what.to_owned();
    move |source| Error::Host { what, source }
}

/// What a run needs beside its guest.
#[derive(Debug)]
pub struct Setup {
    /// Where the serial console goes.
    pub console: Console,
    /// Folder that keeps extracted kernels.
    pub kernel_cache: Option<PathBuf>,
    /// The program's first moment.
    pub start: Instant,
    /// Starts by the restart policy since the user started the guest.
    pub restarts: u32,
    /// Tells the user what cannot be known before.
    pub announce: fn(&str),
}

/// Runs the guest of `entry` in this process until it ends, and records how. `started` is called
/// once, when its vCPUs run.
///
/// # Errors
///
/// [`Error`]; all but [`Error::Running`] are recorded as the end of the run, too.
pub fn run(
    books: &Rc<Books>,
    setup: Setup,
    started: impl FnOnce() + 'static,
) -> Result<Outcome, Error> {
    let entry = books.entry();
    entry.make_runtime()?;
    let alive = Alive::take(&entry.vmm_path()).map_err(host("lock the guest's sign of life"))?;
    let Some(alive) = alive else { return Err(Error::Running(entry.guest.name.to_string())) };
    let run = entry.record()?.map_or(0, |record| record.run) + 1;
    let mut record = Record::begin(run, setup.restarts);
    entry.begin_record(&record)?;
    let alive = Rc::new(alive);
    // A panic has been shown by then; its exit code and record are those of any own error.
    let begun = &mut record;
    let body = AssertUnwindSafe(|| guest(books, begun, setup, Rc::clone(&alive), started));
    let outcome = panic::catch_unwind(body).unwrap_or(Err(Error::Panicked));
    let ended = match &outcome {
        Ok(outcome) => Ended::by(&outcome.end, outcome.resets, &outcome.last_output),
        Err(error) => Ended::failed(explain(error)),
    };
    if let Err(error) = books.end(ended.clone()) {
        // The clerk was killed. Whoever looks at the guest next writes down what it would have.
        tracing::warn!("the end of the guest is written down later: {error}");
        let left = alive.leave(&ended.as_last_words());
        if !left.map_err(host("leave word of the guest's end"))? {
            return Err(error.into());
        }
    }
    drop(alive);
    if let Err(error) = books.release() {
        tracing::warn!("{error}");
    }
    outcome
}

/// The folder that `path` is in; the process is where relative ones start from.
fn folder_of(path: &Path) -> Option<PathBuf> {
    std::path::absolute(path).ok()?.parent().map(Path::to_owned)
}

fn guest(
    books: &Rc<Books>,
    record: &mut Record,
    setup: Setup,
    alive: Rc<Alive>,
    started: impl FnOnce() + 'static,
) -> Result<Outcome, Error> {
    let entry = books.entry();
    let guest = &entry.guest;
    std::env::set_current_dir(&guest.folder)
        .map_err(host(&format!("go to {}, where the guest was created", guest.folder.display())))?;
    let share = Share::take(books.store(), entry)?;
    if share.is_a_part() {
        books.share()?;
    }
    if !share.unenforced.is_empty() {
        record.unenforced.clone_from(&share.unenforced);
        entry.write_record(record)?;
    }
    let socket = socket::bind(&entry.socket_path())?;
    // Only where it stays open: closing it would lose the lock.
    let last_words = match guest.confinement.seccomp {
        Mode::On => Some(alive.last_words().map_err(host("duplicate a descriptor"))?),
        Mode::Log | Mode::Off => None,
    };
    let sockets = guest.config.vsock.as_ref().and_then(|vsock| folder_of(&vsock.socket));
    let notes = Rc::clone(books);
    let mut started = Some(started);
    let notify = move |notice: &Notice| {
        let letter = match notice {
            // One that was paused and reset runs again.
            Notice::Started | Notice::Resumed | Notice::Reset => Some(Letter::Running),
            Notice::Paused => Some(Letter::Paused),
            Notice::PowerButton | Notice::Updated(_) | Notice::Full(_) => None,
        };
        let (event, details) = notice.words();
        if let Some(letter) = letter
            && let Err(error) = alive.say(letter)
        {
            tracing::warn!("the state of the guest cannot be written down: {error}");
        }
        notes.note(event, &details);
        if let Some(started) = started.take() {
            started();
        }
    };
    let options = RunOptions {
        config: guest.config.clone(),
        console: setup.console,
        kvm_device: guest.kvm_device.clone(),
        kernel_cache: setup.kernel_cache,
        start: setup.start,
        control: Control {
            id: guest.id.to_string(),
            name: guest.name.to_string(),
            socket: Some(socket),
            notify: Box::new(notify),
        },
        announce: setup.announce,
        confinement: Confinement {
            settings: guest.confinement,
            last_words,
            sockets,
            lender: books.lender(),
            threads: Some(tasks(&guest.config)),
        },
        outside: Some(Rc::clone(books) as Rc<dyn Outside>),
        pins: share.pins.clone(),
        pause_when_full: share.pools.clone(),
    };
    let outcome = run::run(options);
    // In a jail there is no way to the control groups; the clerk removes what is empty then.
    if !jail::is_closed() {
        share.leave();
    }
    Ok(outcome?)
}
