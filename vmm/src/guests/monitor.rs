//! The monitor of a detached guest: a small process that starts the guest's VMM, keeps its console's
//! log, writes down ends that the VMM could not, and starts the guest again where its policy says so.
//!
//! Nothing depends on its life but those three. A command that finds it dead starts another, which
//! takes over a VMM that still runs.
//!
//! Before it hears anything of a VMM's it gives up what it does not need; VMMs are started by its [`Starter`].

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open, setsid};

use super::guest::Wanted;
use super::keeper::Keeper;
use super::live::{self, Alive, Letter, Seen};
use super::record::{Ended, Record};
use super::starter::{Started, Starter};
use super::store::{self, Entry, Store};
use crate::jail::seccomp::Process;
use crate::ledger::Ledger;
use crate::signals::Signals;

/// The program itself, also after its file was replaced by a newer one.
pub(super) const PROGRAM: &str = "/proc/self/exe";
/// The hidden verb that runs a monitor.
pub const MONITOR_VERB: &str = "monitor";
/// Its flag for [`First::TakeOver`].
pub const TAKE_OVER: &str = "--take-over";
/// The hidden verb that runs a VMM under a monitor.
pub const VMM_VERB: &str = "vmm";
/// What a VMM says on standard output when its guest runs.
pub const STARTED: &str = "started";
/// What comes before the reason when it does not.
pub const FAILED: &str = "failed: ";

/// The first restart waits so long, each further one twice as long as the one before.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// A run of this length is no failure to start: delays begin anew after it.
const GOOD_RUN: Duration = Duration::from_secs(10);
/// Messages of Carve about one guest, beyond which the oldest are dropped at the next start.
const MESSAGES_LIMIT: u64 = 1 << 20;

/// Why a monitor could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The files of the guest.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A process, lock or descriptor.
    #[error("cannot {what}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

fn host<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Error {
    move |error| Error::Host { what, source: error.into() }
}

/// What a monitor does first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// It starts the guest.
    Start,
    /// It takes over the VMM whose monitor died. If that has ended meanwhile, what follows is up to the
    /// policy, as ever.
    TakeOver,
}

/// Watches over the guest of `entry` until there is nothing more to do. What becomes of the first start
/// is written to `answer`.
///
/// # Errors
///
/// [`Error`]; a second monitor ends without one.
pub fn watch(store: &Store, entry: Entry, first: First, answer: impl Write) -> Result<(), Error> {
    // Not the session of the terminal that the command was typed on.
    let _ = setsid();
    let _ = std::env::set_current_dir("/");
    entry.make_runtime()?;
    let alive = Alive::take(&entry.monitor_path()).map_err(host("lock the sign of life"))?;
    let Some(alive) = alive else { return Ok(()) };
    alive.say(Letter::Running).map_err(host("write the sign of life"))?;
    let messages = messages(&entry).map_err(host("open the file for Carve's messages"))?;
    rustix::stdio::dup2_stderr(&messages)
        .map_err(host("write to the file for Carve's messages"))?;
    drop(messages);
    let to_start = entry.clone();
    let starter = Starter::fork(move |restarts| vmm(&to_start, restarts))
        .map_err(host("make the process that starts the guest's"))?;
    let signals = Signals::new().map_err(host("take over signals"))?;
    let confined = Process::Monitor.confine(entry.guest.confinement.seccomp);
    confined.map_err(host("install filters of system calls (seccomp)"))?;
    let (keeper, failures, restarts) = (None, 0, 0);
    Monitor { store, entry, alive, signals, starter, keeper, failures, restarts }.run(first, answer)
}

/// Where Carve's own messages about the guest go.
fn messages(entry: &Entry) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let options = options.append(true).create(true).mode(0o600);
    let file = options.open(entry.messages_path())?;
    if file.metadata()?.len() > MESSAGES_LIMIT {
        file.set_len(0)?;
    }
    Ok(file)
}

/// Starts a VMM.
fn vmm(entry: &Entry, restarts: u32) -> io::Result<Child> {
    Command::new(PROGRAM)
        .arg0("carve")
        .args([VMM_VERB, entry.guest.id.as_str(), &restarts.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(messages(entry)?)
        .spawn()
}

struct Monitor<'a> {
    store: &'a Store,
    entry: Entry,
    alive: Alive,
    signals: Signals,
    starter: Starter,
    /// Of the log, while the guest runs.
    keeper: Option<Keeper>,
    /// Restarts in a row that did not lead to a good run.
    failures: u32,
    /// Restarts since the user started the guest.
    restarts: u32,
}

/// A VMM that is watched.
enum Vmm {
    /// Started for this monitor, and not buried.
    Own(Pid),
    /// Found running.
    Found(Pid),
}

impl Monitor<'_> {
    fn run(mut self, first: First, mut answer: impl Write) -> Result<(), Error> {
        let seen = live::look(&self.entry.vmm_path()).map_err(host("look for the guest's VMM"))?;
        // A guest that could not be started is not tried again: whoever started it knows.
        let mut may_start = first == First::TakeOver;
        let mut vmm = match (seen, first) {
            (Some(Seen { pid, .. }), _) => {
                let _ = writeln!(answer, "{STARTED}");
                Some(Vmm::Found(pid))
            }
            (None, First::Start) => self.start(&mut answer)?,
            (None, First::TakeOver) => {
                // Before anything that waits: whoever asks may hold the guest's lock.
                let _ = writeln!(answer, "{STARTED}");
                self.write_end(None)?;
                None
            }
        };
        drop(answer);
        loop {
            let begun = Instant::now();
            may_start |= vmm.is_some();
            let ended = match vmm.take() {
                Some(vmm) => self.until_the_end(vmm)?,
                None => self.entry.record()?.and_then(|record| record.ended),
            };
            if begun.elapsed() >= GOOD_RUN {
                self.failures = 0;
            }
            let again =
                may_start && ended.is_some_and(|ended| self.is_to_start_again(ended.exit_code));
            if !again || !self.wait_to_start_again()? {
                break;
            }
            may_start = true;
            self.failures = self.failures.saturating_add(1);
            self.restarts = self.restarts.saturating_add(1);
            vmm = self.start(&mut io::sink())?;
        }
        self.leave()
    }

    /// Nothing more is to be done for the guest.
    fn leave(mut self) -> Result<(), Error> {
        let left = self.forget();
        let (store, entry) = (self.store, self.entry.clone());
        // This sign of life held the guest's share of the host.
        drop(self);
        if let Err(error) = Ledger::release(store, &entry) {
            tracing::warn!("the guest's share of the host is not given back yet: {error}");
        }
        left
    }

    fn forget(&mut self) -> Result<(), Error> {
        let _lock = match self.entry.lock() {
            Err(store::Error::NotFound(_)) => return Ok(()),
            other => other?,
        };
        let ended = self.entry.record()?.is_some_and(|record| record.ended.is_some());
        if ended && self.entry.guest.remove {
            return Ok(self.store.remove(&self.entry)?);
        }
        // Whoever finds the guest so knows that no restart is due.
        self.entry.reload()?;
        if self.entry.guest.wanted == Wanted::Running {
            self.entry.want(Wanted::Stopped)?;
        }
        Ok(())
    }

    /// Starts a VMM, and passes on to `answer` what becomes of it; nothing if it does not come up.
    fn start(&mut self, answer: &mut impl Write) -> Result<Option<Vmm>, Error> {
        self.alive.say(Letter::Running).map_err(host("write the sign of life"))?;
        let started = self.starter.start(self.restarts);
        let Started { pid, output } = started.map_err(host("start the guest's process"))?;
        let line = first_line(output);
        if line.trim() == STARTED {
            let _ = writeln!(answer, "{STARTED}");
            return Ok(Some(Vmm::Own(pid)));
        }
        let signal = self.bury()?;
        let ended = self.write_end(signal)?;
        let said = match ended {
            Some(ended) if line.is_empty() => format!("{FAILED}{}", ended.message),
            _ if line.is_empty() => format!("{FAILED}its process ended at once"),
            _ => line,
        };
        // Nobody may be left to hear it.
        let _ = writeln!(answer, "{}", said.trim_end());
        Ok(None)
    }

    /// Waits for the end of a VMM that was started for this monitor. Returns the signal that ended it.
    fn bury(&self) -> Result<Option<i32>, Error> {
        self.starter.bury().map_err(host("wait for the guest's process"))
    }

    /// Waits for the end of a VMM, and says how it ended.
    fn until_the_end(&mut self, vmm: Vmm) -> Result<Option<Ended>, Error> {
        let (Vmm::Own(pid) | Vmm::Found(pid)) = vmm;
        self.keeper = Some(Keeper::new(&self.entry));
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => self.wait_for(&pidfd)?,
            // It is gone already.
            Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(host("watch the guest's process")(error)),
        }
        if let Some(keeper) = self.keeper.take() {
            keeper.finish();
        }
        let signal = match vmm {
            // Killed together with its starter it cannot be asked any more; what is found says enough.
            Vmm::Own(_) => self.bury().unwrap_or_else(|error| {
                tracing::warn!("{}", crate::explain(&error));
                None
            }),
            Vmm::Found(_) => None,
        };
        self.write_end(signal)
    }

    fn wait_for(&mut self, pidfd: &OwnedFd) -> Result<(), Error> {
        loop {
            if self.wait(Some(pidfd), None)? {
                return Ok(());
            }
        }
    }

    /// Makes sure that the end of the last run is written down.
    fn write_end(&mut self, signal: Option<i32>) -> Result<Option<Ended>, Error> {
        let Some(mut record) = self.entry.record()? else { return Ok(None) };
        if record.ended.is_none() {
            self.entry.reload()?;
            end_lost_run(self.store, &self.entry, &mut record, signal)?;
        }
        Ok(record.ended)
    }

    fn is_to_start_again(&mut self, exit_code: u8) -> bool {
        self.entry.reload().is_ok()
            && self.entry.guest.wanted == Wanted::Running
            && self.entry.guest.restart.follows(exit_code, self.failures)
    }

    /// Waits until it is time to start again. False: it is not wanted any more.
    fn wait_to_start_again(&mut self) -> Result<bool, Error> {
        self.alive.say(Letter::Waiting).map_err(host("write the sign of life"))?;
        let delay = FIRST_DELAY.saturating_mul(1 << self.failures.min(16)).min(LONGEST_DELAY);
        let details = [("in_milliseconds", delay.as_millis().to_string())];
        self.store.journal().note(&self.entry.guest, "restarting", &details);
        let until = Instant::now() + delay;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            self.wait(None, Some(left))?;
            if self.entry.reload().is_err() || self.entry.guest.wanted != Wanted::Running {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits for `pidfd`, a signal (somebody changed what is wanted), output of the guest, or the time to be over.
    /// Returns whether the process is gone.
    fn wait(&mut self, pidfd: Option<&OwnedFd>, time: Option<Duration>) -> Result<bool, Error> {
        let now = Instant::now();
        let due = self.keeper.as_ref().and_then(Keeper::due);
        let due = due.map(|due| due.saturating_duration_since(now));
        let time = time.into_iter().chain(due).min();
        let time = time.and_then(|time| Timespec::try_from(time).ok());
        let of = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut sources = vec![of(self.signals.as_fd())];
        let output = self.keeper.as_ref().and_then(Keeper::source);
        sources.extend(output.map(of));
        sources.extend(pidfd.map(|pidfd| of(pidfd.as_fd())));
        match poll(&mut sources, time.as_ref()) {
            Err(rustix::io::Errno::INTR) => return Ok(false),
            other => other.map_err(host("wait"))?,
        };
        let ready: Vec<_> = sources.iter().map(|source| !source.revents().is_empty()).collect();
        let (spoke, gone) =
            (output.is_some() && ready[1], pidfd.is_some() && ready.ends_with(&[true]));
        while self.signals.take().is_some() {}
        if let Some(keeper) = &mut self.keeper {
            keeper.advance(spoke);
        }
        Ok(gone)
    }
}

/// Everything up to the first line's end, or to the end of what is written.
fn first_line(pipe: OwnedFd) -> String {
    let mut line = String::new();
    let _ = BufReader::new(File::from(pipe)).read_line(&mut line);
    line
}

/// Writes down the end of a run whose VMM is gone without having done so.
pub(super) fn end_lost_run(
    store: &Store,
    entry: &Entry,
    record: &mut Record,
    signal: Option<i32>,
) -> Result<(), store::Error> {
    let words = live::last_words(&entry.vmm_path());
    let ended = record.lost(signal, entry.guest.wanted == Wanted::Killed, words.as_deref());
    store.end_run(entry, record, ended)
}

/// Whether a guest whose monitor and VMM are both gone is to be started again.
pub(super) fn wants_another_run(entry: &Entry, exit_code: u8) -> bool {
    let guest = &entry.guest;
    guest.detached && guest.wanted == Wanted::Running && guest.restart.follows(exit_code, 0)
}
