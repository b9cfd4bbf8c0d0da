//! What can be asked of a running guest from outside its process, and the way there: a [`Mailbox`]
//! from any thread to the main loop, which alone acts, and an answer back.
//!
//! The words for it on the wire are in [`api::types`](crate::api::types).

use std::sync::mpsc::{
    Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel,
};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fmt, io};

use resources::config::VmConfig;
use vmm_sys_util::eventfd::EventFd;

use crate::api::types::{BalloonUpdate, DiskUpdate, NetUpdate, Statistics, Vm};

/// How many commands may wait for the main loop, so that asking again and again takes no memory.
const WAITING: usize = 128;

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
    /// Too many commands wait for the main loop already.
    #[error("{WAITING} commands wait for the guest's monitor already; try again later")]
    Busy,
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
    // After the way back: whoever is woken finds either the answer or nobody who could give one.
    _wake: Wake,
}

/// Wakes whoever waits for the answer when there is one, or none will come.
#[derive(Debug)]
struct Wake(Option<Arc<EventFd>>);

impl Drop for Wake {
    fn drop(&mut self) {
        if let Some(event) = &self.0 {
            let _ = event.write(1);
        }
    }
}

/// The answer to a command that nobody waits for on the spot.
#[derive(Debug)]
pub struct Pending(Receiver<Reply>);

impl Pending {
    /// The answer, once it is there.
    pub fn take(&self) -> Option<Reply> {
        match self.0.try_recv() {
            Ok(reply) => Some(reply),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(Refusal::Ending)),
        }
    }
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
    commands: SyncSender<Asked>,
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
        let (sender, receiver) = sync_channel(WAITING);
        let inbox = Inbox { commands: Mutex::new(receiver), event: Arc::clone(&event) };
        Ok((Self { commands: sender, event }, inbox))
    }

    /// Asks, and waits at most `patience` for the answer.
    ///
    /// # Errors
    ///
    /// The [`Refusal`], of the main loop or because there is none any more.
    pub fn ask(&self, command: Command, patience: Duration) -> Reply {
        let Pending(answered) = self.send(command, None)?;
        answered.recv_timeout(patience).map_err(|error| match error {
            RecvTimeoutError::Timeout => Refusal::Timeout(patience.as_secs()),
            RecvTimeoutError::Disconnected => Refusal::Ending,
        })?
    }

    /// Asks and waits for nothing; `wake` is written to when there is something to take.
    ///
    /// # Errors
    ///
    /// [`Refusal::Ending`] and [`Refusal::Busy`].
    pub fn send(&self, command: Command, wake: Option<Arc<EventFd>>) -> Result<Pending, Refusal> {
        let (answer, answered) = sync_channel(1);
        let asked = Asked { command, answer, _wake: Wake(wake) };
        self.commands.try_send(asked).map_err(|error| match error {
            TrySendError::Full(_) => Refusal::Busy,
            TrySendError::Disconnected(_) => Refusal::Ending,
        })?;
        let _ = self.event.write(1);
        Ok(Pending(answered))
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
    fn who_does_not_wait_is_woken_by_the_answer_and_by_its_absence() {
        let (mailbox, inbox) = Mailbox::new().unwrap();
        let wake = Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
        let pending = mailbox.send(Command::End, Some(Arc::clone(&wake))).unwrap();
        assert!(pending.take().is_none() && wake.read().is_err());
        inbox.take().unwrap().answer(Ok(Answer::Done));
        assert_eq!(wake.read().unwrap(), 1);
        assert!(matches!(pending.take(), Some(Ok(Answer::Done))));
        let pending = mailbox.send(Command::End, Some(Arc::clone(&wake))).unwrap();
        drop(inbox);
        assert_eq!(wake.read().unwrap(), 1);
        assert_eq!(pending.take().unwrap().unwrap_err(), Refusal::Ending);
    }

    #[test]
    fn commands_that_nobody_takes_do_not_pile_up() {
        let (mailbox, _inbox) = Mailbox::new().unwrap();
        let sent = (0..=WAITING).map_while(|_| mailbox.send(Command::Status, None).ok()).count();
        assert_eq!(sent, WAITING);
        assert_eq!(mailbox.send(Command::Status, None).unwrap_err(), Refusal::Busy);
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
