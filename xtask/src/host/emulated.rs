//! Running the command inside the emulated host: starts it, carries bytes, signals and the exit code between here and
//! the agent inside, and ends it on every way out.

use std::io::{self as stdio, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::termios::{self, OptionalActions, Termios};
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};

use super::protocol::{Ending, Frame, Size, Start};
use super::qemu::Machine;
use super::{Arguments, Error, Share, TIMED_OUT, exit_code, io, prepare};
use crate::workspace::Workspace;

/// How long the host may take to start the command (5 s is usual).
const START_LIMIT: Duration = Duration::from_secs(180);
/// How long the command may take to end after a signal before the host is taken away from under it.
const GRACE: Duration = Duration::from_secs(10);
/// How often the host is asked whether it lives. QEMU's emulation of nested virtualization loses timer interrupts now and
/// then; the interrupt that a ping causes sets a host that sleeps for lack of one going again.
const PING: Duration = Duration::from_secs(1);
/// A host silent for so long will not wake up any more.
const SILENCE: Duration = Duration::from_secs(60);

/// Runs the command to its end or the time limit.
pub fn run(workspace: &Workspace, arguments: &Arguments, share: &Share) -> Result<u8, Error> {
    let (qemu, host) = prepare::obtain(workspace)?;
    let signals = Signals::catch()?;
    if arguments.one_core {
        keep_to_one_core()?;
    }
    let (mut machine, stream) = Machine::start(&qemu, &host, &share.path, arguments.size())?;
    let on_terminal = arguments.on_terminal();
    let start = Start {
        command: arguments.command.clone(),
        environment: arguments.environment(share),
        directory: std::env::current_dir().map_err(io("find the working directory"))?,
        share: share.path.clone(),
        modules: host.modules.clone(),
        busybox: host.busybox.clone(),
        terminal: on_terminal.then(terminal_size).flatten(),
        now: now(),
    };
    let mut session = Session::open(stream, signals)?;
    session.send(&Frame::Start(start))?;
    let _raw = on_terminal.then(RawTerminal::enter).transpose()?;
    session.pump_input(!arguments.no_stdin);
    session.carry(arguments.time_limit, &mut machine)
}

/// Keeps this thread, and what it starts, to the processor it is on.
fn keep_to_one_core() -> Result<(), Error> {
    let mut one = CpuSet::new();
    one.set(sched_getcpu());
    let kept = sched_setaffinity(None, &one);
    kept.map_err(|error| io("stay on one processor")(error.into()))
}

enum Event {
    Frame(Frame),
    Gone,
    Signal(i32),
}

/// A connection to the agent.
struct Session {
    stream: UnixStream,
    sender: Arc<Mutex<UnixStream>>,
    events: mpsc::Receiver<Event>,
}

impl Session {
    fn open(stream: UnixStream, signals: Signals) -> Result<Self, Error> {
        let clone = || stream.try_clone().map_err(io("duplicate a socket"));
        let (events_out, events) = mpsc::channel();
        let mut reader = clone()?;
        let frames_out = events_out.clone();
        std::thread::spawn(move || {
            while let Ok(Some(frame)) = Frame::receive(&mut reader) {
                if frames_out.send(Event::Frame(frame)).is_err() {
                    return;
                }
            }
            let _ = frames_out.send(Event::Gone);
        });
        std::thread::spawn(move || {
            signals.forward(|signal| events_out.send(Event::Signal(signal)).is_ok());
        });
        let sender = Arc::new(Mutex::new(clone()?));
        Ok(Self { stream, sender, events })
    }

    fn send(&self, frame: &Frame) -> Result<(), Error> {
        send(&self.sender, frame).map_err(io("talk to the emulated host"))
    }

    /// Carries our standard input to the command on a thread of its own, which may block for ever.
    fn pump_input(&self, input: bool) {
        let sender = Arc::clone(&self.sender);
        std::thread::spawn(move || {
            if input {
                copy_input(&sender);
            }
            let _ = send(&sender, &Frame::InputEnd);
        });
    }

    /// Writes what the command writes, until it ended.
    fn carry(&mut self, limit: Option<Duration>, machine: &mut Machine) -> Result<u8, Error> {
        let mut started = false;
        let mut signalled = None;
        let mut deadline = Instant::now() + START_LIMIT;
        let mut heard = Instant::now();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = match self.events.recv_timeout(left.min(PING)) {
                Ok(event) => event,
                Err(RecvTimeoutError::Disconnected) => Event::Gone,
                Err(RecvTimeoutError::Timeout) if left > PING => {
                    if started {
                        self.send(&Frame::Ping)?;
                    }
                    if started && heard.elapsed() > SILENCE {
                        return Err(Error::Stopped { log: machine.log_tail() });
                    }
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {
                    return match (started, signalled) {
                        (false, _) => Err(Error::Stopped { log: machine.log_tail() }),
                        (true, Some(signal)) => Ok(exit_code(None, Some(signal))),
                        (true, None) => Ok(TIMED_OUT),
                    };
                }
            };
            heard = Instant::now();
            match event {
                Event::Frame(Frame::Output(bytes)) => write(&mut stdio::stdout().lock(), &bytes)?,
                Event::Frame(Frame::Error(bytes)) => write(&mut stdio::stderr().lock(), &bytes)?,
                Event::Frame(Frame::Started) => {
                    started = true;
                    let far = Duration::from_secs(365 * 24 * 3600);
                    deadline = Instant::now() + limit.unwrap_or(far);
                }
                Event::Frame(Frame::Ended(ending)) => return ended(ending),
                Event::Frame(_) => {}
                Event::Gone => return Err(Error::Stopped { log: machine.log_tail() }),
                Event::Signal(SIGWINCH) => {
                    if let Some(size) = terminal_size() {
                        self.send(&Frame::Resize(size))?;
                    }
                }
                Event::Signal(signal) => {
                    if !started || signalled.is_some() {
                        return Ok(exit_code(None, Some(signal)));
                    }
                    signalled = Some(signal);
                    deadline = deadline.min(Instant::now() + GRACE);
                    self.send(&Frame::Signal(signal))?;
                }
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

/// Sends our standard input to its end.
fn copy_input(sender: &Mutex<UnixStream>) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = stdio::stdin().lock().read(&mut buffer) {
        if send(sender, &Frame::Input(buffer[..count].to_vec())).is_err() {
            return;
        }
    }
}

fn send(stream: &Mutex<UnixStream>, frame: &Frame) -> stdio::Result<()> {
    let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
    frame.send(&mut *stream)
}

fn write(out: &mut impl Write, bytes: &[u8]) -> Result<(), Error> {
    out.write_all(bytes).and_then(|()| out.flush()).map_err(io("write the command's output"))
}

fn ended(ending: Ending) -> Result<u8, Error> {
    match ending {
        Ending::Exited(code) => Ok(exit_code(Some(code), None)),
        Ending::Signalled(signal) => Ok(exit_code(None, Some(signal))),
        Ending::Failed(reason) => Err(Error::Agent(reason)),
    }
}

/// Nanoseconds since the epoch.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn terminal_size() -> Option<Size> {
    let size = termios::tcgetwinsize(stdio::stdin()).ok()?;
    Some(Size { columns: size.ws_col, rows: size.ws_row })
}

/// Our terminal in raw mode: keys go to the terminal inside. Restored when dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> Result<Self, Error> {
        let failed = |error: rustix::io::Errno| io("set the terminal to raw mode")(error.into());
        let stdin = stdio::stdin();
        let before = termios::tcgetattr(stdin.as_fd()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(stdin.as_fd(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(stdio::stdin().as_fd(), OptionalActions::Now, &self.0);
    }
}

/// Signals that end us, or tell of the terminal, caught from when this is made on.
pub struct Signals(signal_hook::iterator::Signals);

impl Signals {
    /// Catches them.
    pub fn catch() -> Result<Self, Error> {
        let signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM, SIGWINCH]);
        signals.map(Self).map_err(io("catch signals"))
    }

    /// Ends `forward`.
    pub fn handle(&self) -> signal_hook::iterator::Handle {
        self.0.handle()
    }

    /// Passes each signal on until `pass` says false.
    pub fn forward(mut self, mut pass: impl FnMut(i32) -> bool) {
        for signal in self.0.forever() {
            if !pass(signal) {
                return;
            }
        }
    }
}
