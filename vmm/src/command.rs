//! What can be asked of a running guest from outside its process, and the way there: a [`Mailbox`]
//! from any thread to the main loop, which alone acts, and an answer back.
//!
//! The words for it on the wire are in [`api::types`](crate::api::types).

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fmt, io};

use resources::config::VmConfig;
use vmm_sys_util::eventfd::EventFd;

use crate::api::types::{BalloonUpdate, DiskUpdate, NetUpdate, Statistics, Vm};

/// One thing asked of a running guest.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// What it is doing.
    Status,
    /// Its whole configuration.
    Config,
    /// What it has done so far.
    Statistics,
    /// Stop its vCPUs and devices, until [`Command::Resume`].
    Pause,
    /// Go on.
    Resume,
    /// Press its power button.
    PowerButton,
    /// Reset it, as its reset button would.
    Reset,
    /// End it at once.
    End,
    /// Change a disk, by its name in the configuration.
    Disk(String, DiskUpdate),
    /// Change a network device, by its name in the configuration.
    Net(String, NetUpdate),
    /// Change the balloon.
    Balloon(BalloonUpdate),
    /// The window of whoever is attached to the console has so many columns and rows.
    ConsoleSize(u16, u16),
}

/// What a command is answered with.
#[derive(Debug, Clone)]
pub enum Answer {
    /// It was done.
    Done,
    /// To [`Command::Status`].
    Status(Box<Vm>),
    /// To [`Command::Config`].
    Config(Box<VmConfig>),
    /// To [`Command::Statistics`].
    Statistics(Box<Statistics>),
}

/// Why a command was not carried out. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The guest is in a state in which this makes no sense, such as paused already.
    #[error("{0}")]
    State(String),
    /// There is no such device.
    #[error("{0}")]
    NotFound(String),
    /// A value that cannot be.
    #[error("{0}")]
    Invalid(String),
    /// The host could not do it.
    #[error("{0}")]
    Failed(String),
    /// The guest has ended, or is just about to.
    #[error("the guest is ending")]
    Ending,
    /// The main loop did not get to it in time; it may still be carried out.
    #[error("the guest's monitor did not answer within {0} seconds")]
    Timeout(u64),
}

/// How a command was answered.
pub type Reply = Result<Answer, Refusal>;

/// A command on its way, with the way back for its answer.
#[derive(Debug)]
pub struct Asked {
    /// What is asked.
    pub command: Command,
    answer: SyncSender<Reply>,
}

impl Asked {
    /// Sends the answer. Whoever asked may have given up; that is theirs to do.
    pub fn answer(self, reply: Reply) {
        let _ = self.answer.send(reply);
    }
}

/// Where other threads put commands for the main loop. Clones lead to the same loop.
#[derive(Clone)]
pub struct Mailbox {
    commands: Sender<Asked>,
    event: Arc<EventFd>,
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox").finish_non_exhaustive()
    }
}

/// The main loop's end of a [`Mailbox`].
#[derive(Debug)]
pub struct Inbox {
    commands: Mutex<Receiver<Asked>>,
    event: Arc<EventFd>,
}

impl Mailbox {
    /// A mailbox and its other end.
    ///
    /// # Errors
    ///
    /// The kernel's answer when it gives no eventfd.
    pub fn new() -> io::Result<(Self, Inbox)> {
        let event = Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
        let (sender, receiver) = channel();
        let inbox = Inbox { commands: Mutex::new(receiver), event: Arc::clone(&event) };
        Ok((Self { commands: sender, event }, inbox))
    }

    /// Asks, and waits at most `patience` for the answer.
    ///
    /// # Errors
    ///
    /// The [`Refusal`], of the main loop or because there is none any more.
    pub fn ask(&self, command: Command, patience: Duration) -> Reply {
        let (answer, answered) = sync_channel(1);
        self.commands.send(Asked { command, answer }).map_err(|_| Refusal::Ending)?;
        let _ = self.event.write(1);
        answered.recv_timeout(patience).map_err(|error| match error {
            std::sync::mpsc::RecvTimeoutError::Timeout => Refusal::Timeout(patience.as_secs()),
            std::sync::mpsc::RecvTimeoutError::Disconnected => Refusal::Ending,
        })?
    }
}

impl Inbox {
    /// Readable while there may be commands.
    pub fn event(&self) -> &Arc<EventFd> {
        &self.event
    }

    /// The next command.
    pub fn take(&self) -> Option<Asked> {
        devices::mutex::lock(&self.commands).try_recv().ok()
    }
}

#[cfg(test)]
mod command_test {
    use std::thread;

    use super::*;

    #[test]
    fn who_asks_gets_the_answer() {
        let (mailbox, inbox) = Mailbox::new().unwrap();
        let asking = thread::spawn(move || mailbox.ask(Command::Pause, Duration::from_secs(10)));
        assert_eq!(inbox.event().read().unwrap_or(1), 1);
        let asked = std::iter::repeat_with(|| inbox.take()).flatten().next().unwrap();
        assert_eq!(asked.command, Command::Pause);
        asked.answer(Err(Refusal::State("paused already".into())));
        assert!(matches!(asking.join().unwrap(), Err(Refusal::State(_))));
    }

    #[test]
    fn nobody_waits_for_a_loop_that_ended_or_does_not_answer() {
        let (mailbox, inbox) = Mailbox::new().unwrap();
        let late = mailbox.ask(Command::Status, Duration::from_millis(1));
        assert_eq!(late.unwrap_err(), Refusal::Timeout(0));
        drop(inbox);
        let gone = mailbox.ask(Command::Status, Duration::from_secs(10));
        assert_eq!(gone.unwrap_err(), Refusal::Ending);
    }
}
