//! [`Keeper`]: follows the console of a running guest over its control interface, and keeps what it says in the log.
//!
//! Nothing here waits for the guest: the monitor's loop polls [`Keeper::source`] along with its own. A connection
//! that breaks is made anew; what was said meanwhile is in the guest's ring, or is noted as lost.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::log::{LIMIT, Writer};
use super::store::Entry;
use crate::api::client::{AskedConsole, Client, ConsoleOptions};

/// Bytes read at a time.
const CHUNK: usize = 64 << 10;
/// How long a guest that does not answer as it should is left alone, the first time and at most.
const DELAYS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A guest takes connections and gives its short answer at once, unless something is wrong with it.
const PATIENCE: Duration = Duration::from_millis(200);

/// Keeps the log of one run.
#[derive(Debug)]
pub(super) struct Keeper {
    entry: Entry,
    state: State,
    delay: Duration,
}

#[derive(Debug)]
enum State {
    /// Not connected, until it is time to try.
    Apart(Instant),
    /// The guest was asked for its console.
    Asked(Box<(AskedConsole, Writer)>),
    /// Output comes.
    Following(Box<Following>),
}

#[derive(Debug)]
struct Following {
    stream: UnixStream,
    /// Offset of the next byte that comes.
    offset: u64,
    writer: Writer,
}

impl Keeper {
    /// Begins to keep what the running guest of `entry` says.
    pub(super) fn new(entry: &Entry) -> Self {
        let state = State::Apart(Instant::now());
        let mut keeper = Self { entry: entry.clone(), state, delay: DELAYS.0 };
        keeper.advance(false);
        keeper
    }

    /// What is readable when there is something to do.
    pub(super) fn source(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            State::Apart(_) => None,
            State::Asked(asked) => Some(asked.0.as_fd()),
            State::Following(following) => Some(following.stream.as_fd()),
        }
    }

    /// When there is something to do in any case.
    pub(super) fn due(&self) -> Option<Instant> {
        if let State::Apart(until) = self.state { Some(until) } else { None }
    }

    /// Does what can be done now. `ready`: the source is readable.
    pub(super) fn advance(&mut self, ready: bool) {
        let now = Instant::now();
        let apart = State::Apart(now + self.delay);
        self.state = match std::mem::replace(&mut self.state, apart) {
            State::Apart(until) if until <= now => match self.ask() {
                Some(asked) => State::Asked(Box::new(asked)),
                None => self.part(),
            },
            State::Asked(asked) if ready => match follow(*asked) {
                Some(following) => State::Following(Box::new(following)),
                None => self.part(),
            },
            State::Following(mut following) if ready => match following.read() {
                Some(_) => {
                    self.delay = DELAYS.0;
                    State::Following(following)
                }
                None => self.part(),
            },
            unchanged => unchanged,
        };
    }

    /// Keeps what is left of a guest whose process is gone.
    pub(super) fn finish(mut self) {
        if matches!(self.state, State::Asked(_)) {
            self.advance(true);
        }
        if let State::Following(mut following) = self.state {
            while following.read().is_some_and(|count| count > 0) {}
        }
    }

    fn ask(&self) -> Option<(AskedConsole, Writer)> {
        let client = Client::connect_within(&self.entry.socket_path(), PATIENCE).ok()?;
        // Once it has a socket, the run has a record, and not before.
        let run = self.entry.record().ok()??.started_at;
        let writer = Writer::open(self.entry.state_folder(), LIMIT, run);
        let options = ConsoleOptions { from: Some(writer.offset()), input: false, log: true };
        Some((client.ask_console(options).ok()?, writer))
    }

    /// It is tried again later, and later each time.
    fn part(&mut self) -> State {
        let again = Instant::now() + self.delay;
        self.delay = (self.delay * 2).min(DELAYS.1);
        State::Apart(again)
    }
}

fn follow((asked, writer): (AskedConsole, Writer)) -> Option<Following> {
    let console = match asked.finish() {
        Ok(console) => console,
        Err(error) => {
            tracing::debug!("the guest's console cannot be followed: {error}");
            return None;
        }
    };
    console.stream.set_nonblocking(true).ok()?;
    Some(Following { stream: console.stream, offset: console.offset, writer })
}

impl Following {
    /// Keeps what has come, a chunk at most; how much. None: no more comes.
    fn read(&mut self) -> Option<usize> {
        let mut bytes = vec![0; CHUNK];
        let count = match recv(&self.stream, &mut bytes[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => return None,
            Ok((count, _)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Some(0),
            Err(error) => {
                let reset = std::io::Error::from(error).kind() == ErrorKind::ConnectionReset;
                tracing::debug!(reset, "the guest's console cannot be read: {error}");
                return None;
            }
        };
        self.writer.append(self.offset, &bytes[..count], SystemTime::now());
        self.offset += count as u64;
        // Also of what could not be written: a full disk does not hold the guest up. Should there be no room for this,
        // the next one says it, too.
        let line = format!("{}\n", self.offset);
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let _ = send(&self.stream, line.as_bytes(), flags);
        Some(count)
    }
}
