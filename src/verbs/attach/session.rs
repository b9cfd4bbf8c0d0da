//! [`Session`]: bytes between this process' standard input and output and a guest's console.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use rustix::termios::tcgetwinsize;
use vmm::api::client::{Client, ConsoleStream};
use vmm::api::types::ConsoleSize;
use vmm::signals::{CONTINUED, Signals, WINDOW};

use super::Options;
use super::keys::{DetachKeys, Watch};
use crate::terminal;

/// Bytes read at a time.
const CHUNK: usize = 16 << 10;
/// How long a guest is waited for that is told the size of the window.
const PATIENCE: Duration = Duration::from_millis(500);

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// The guest's run has ended.
    Ended,
    /// The detach keys were typed.
    Detached,
    /// A signal came.
    Signal(u8),
    /// Nobody reads standard output any more.
    NoReader,
}

/// One attachment.
#[derive(Debug)]
pub struct Session {
    console: ConsoleStream,
    signals: Signals,
    /// What looks for the detach keys, where somebody types them.
    watch: Watch,
    /// Standard input may have more.
    listens: bool,
    /// Read from standard input and not taken by the guest yet.
    typed: Vec<u8>,
    /// Of the output that comes first so many bytes are old, and begin within a line.
    old: u64,
    /// Old output, until its first line has ended.
    held: Vec<u8>,
    /// The guest's socket, where there is a window whose size it can be told.
    window: Option<PathBuf>,
}

impl Session {
    /// A session on `console`, of whose output the first `old` bytes begin within a line. `raw`: this process' terminal
    /// is raw. `window`: the guest's socket, if it is to be told the terminal's size.
    pub fn new(
        console: ConsoleStream,
        old: u64,
        signals: Signals,
        raw: bool,
        window: Option<PathBuf>,
        options: &Options,
    ) -> io::Result<Self> {
        console.stream.set_nonblocking(true)?;
        // Bytes from elsewhere than a terminal are nobody's keys.
        let none = || "".parse().unwrap_or_else(|_| DetachKeys::default());
        let watch = Watch::new(if raw { options.keys.clone() } else { none() });
        let (typed, held) = (Vec::new(), Vec::new());
        Ok(Self { console, signals, watch, listens: options.input, typed, old, held, window })
    }

    /// Passes bytes on until there is a reason to leave.
    pub fn run(mut self) -> io::Result<Leave> {
        self.tell_size();
        loop {
            let (of_input, of_console, of_signals) = self.wait()?;
            if of_signals && let Some(leave) = self.take_signals() {
                return Ok(leave);
            }
            if of_input && self.read_input()? {
                return Ok(Leave::Detached);
            }
            self.send_input()?;
            if of_console && let Some(leave) = self.pass_output()? {
                return Ok(leave);
            }
        }
    }

    /// Waits, and says what is ready: standard input, the console, a signal.
    fn wait(&self) -> io::Result<(bool, bool, bool)> {
        let input = io::stdin();
        let listening = self.listens && self.typed.is_empty();
        let heard = if listening { PollFlags::IN } else { PollFlags::empty() };
        let sent = if self.typed.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        let mut sources = vec![
            PollFd::new(&self.console.stream, PollFlags::IN | sent),
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
        ];
        if listening {
            sources.push(PollFd::new(&input, heard));
        }
        match poll(&mut sources, None) {
            Err(Errno::INTR) => return Ok((false, false, false)),
            other => other?,
        };
        let ready = |at: usize| sources.get(at).is_some_and(|source| !source.revents().is_empty());
        Ok((ready(2), ready(0), ready(1)))
    }

    fn take_signals(&mut self) -> Option<Leave> {
        while let Some(number) = self.signals.take() {
            match number {
                WINDOW => self.tell_size(),
                CONTINUED => terminal::continued(),
                number => return Some(Leave::Signal(u8::try_from(number).unwrap_or(u8::MAX))),
            }
        }
        None
    }

    /// Reads standard input. Whether the detach keys were in it.
    fn read_input(&mut self) -> io::Result<bool> {
        let mut bytes = [0; CHUNK];
        match rustix::io::read(io::stdin(), &mut bytes) {
            // The end, also of a terminal that hung up (EIO).
            Ok(0) | Err(Errno::IO) => {
                self.listens = false;
                if self.typed.is_empty() {
                    let _ = self.console.stream.shutdown(Shutdown::Write);
                }
                Ok(false)
            }
            Ok(count) => Ok(self.watch.feed(&bytes[..count], &mut self.typed)),
            Err(Errno::INTR | Errno::AGAIN) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn send_input(&mut self) -> io::Result<()> {
        while !self.typed.is_empty() {
            match send(&self.console.stream, &self.typed, SendFlags::NOSIGNAL) {
                Ok(count) => drop(self.typed.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                // It has ended; what it said last may still be there to be read.
                Err(Errno::PIPE | Errno::CONNRESET) => {
                    self.typed.clear();
                    self.listens = false;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn pass_output(&mut self) -> io::Result<Option<Leave>> {
        let mut bytes = [0; CHUNK];
        let count = match self.console.stream.read(&mut bytes) {
            Ok(count) => count,
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => return Ok(None),
                io::ErrorKind::ConnectionReset => 0,
                _ => return Err(error),
            },
        };
        let over = (count == 0).then_some(Leave::Ended);
        let shown = self.without_half_line(&bytes[..count]);
        let mut out = io::stdout();
        match out.write_all(&shown).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Some(Leave::NoReader)),
            Err(error) => Err(error),
            Ok(()) => Ok(over),
        }
    }

    /// What is to be shown of the next `bytes`: old output is from the beginning of a line on, if one begins in it.
    fn without_half_line(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.old == 0 {
            return bytes.to_vec();
        }
        let old = bytes.len().min(usize::try_from(self.old).unwrap_or(usize::MAX));
        if let Some(end) = bytes[..old].iter().position(|&byte| byte == b'\n') {
            (self.old, self.held) = (0, Vec::new());
            return bytes[end + 1..].to_vec();
        }
        self.old -= old as u64;
        self.held.extend_from_slice(bytes);
        if self.old == 0 || bytes.is_empty() { std::mem::take(&mut self.held) } else { Vec::new() }
    }

    /// Tells the guest how large the window is. It goes without saying where that fails.
    fn tell_size(&self) {
        let Some(socket) = &self.window else { return };
        let Ok(size) = tcgetwinsize(io::stdout()) else { return };
        if size.ws_col == 0 || size.ws_row == 0 {
            return;
        }
        let size = ConsoleSize { columns: size.ws_col, rows: size.ws_row };
        if let Ok(mut client) = Client::connect_within(socket, PATIENCE) {
            let _ = client.put("/v1/console/size", &size);
        }
    }
}
