//! User-mode networking: a `passt` process at the other side of a network device's cable, which
//! carries the guest's traffic on as connections of the host's own, without any privilege.
//!
//! Each process has a thread, which starts it, passes on what it says, starts it again when it ends,
//! and ends it with this value. It cannot outlive this program: its end of the cable closes then, upon
//! which it exits, and the kernel kills it, should it not.
#![allow(unsafe_code)] // What a child does between fork and exec.

mod ports;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use devices::mutex::lock;
use devices::rate_limit::RateLimitedLog;
use devices::thread::{Role, Start};
use devices::virtio::net::{MacAddress, StreamSocket};
use resources::config::{Forward, Protocol};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{RecvFlags, recv};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use crate::descriptor::descriptor;
use crate::messages::{pair, receive, send};

const PROGRAM: &str = "passt";
/// Longest to wait for a sign of life. One that gives none may still be alive.
const START: Duration = Duration::from_millis(300);
/// A process that lived so long had no trouble with how it was started.
const STEADY: Duration = Duration::from_secs(10);
/// Before a process that ended soon is started again: doubled each time, up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Bytes of a line of its messages that are passed on.
const LINE: usize = 400;

/// Why user-mode networking cannot be had. Says value, reason and remedy.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say what each is.
pub enum Error {
    #[error(
        "user needs the program passt, which is not found in PATH; install the package passt, or use tap or bridge"
    )]
    NotFound,
    #[error("the program passt cannot be started: {0}; check its permissions")]
    Start(io::Error),
    #[error("no descriptors or threads can be had for passt: {0}")]
    Host(io::Error),
    #[error("{0}")]
    Outside(String),
    #[error(
        "the port of the host in forward {0} is in use; end what uses it, or forward another port"
    )]
    PortInUse(Forward),
    #[error(
        "forward {0} takes a port that needs CAP_NET_BIND_SERVICE; use one from 1024 on, or lower the sysctl net.ipv4.ip_unprivileged_port_start"
    )]
    PortPermission(Forward),
    #[error("the address in forward {0} is none of this host; leave it out, or give one that is")]
    NoSuchAddress(Forward),
    #[error("the host cannot listen for forward {forward}: {source}")]
    Port { forward: Forward, source: io::Error },
    #[error(
        "passt ended at once ({status}){}; run `{command}` to see why, or use tap or bridge",
        .said.as_ref().map_or_else(String::new, |said| format!(": {said}"))
    )]
    Ended { status: String, said: Option<String>, command: String },
}

/// Who starts processes where this one cannot do it again once it is confined.
pub trait Outside: std::fmt::Debug {
    /// Whether this process will not be able to.
    fn is_needed(&self) -> bool;

    /// Starts a passt process and [serves](serve) it, with `news` as the other end.
    ///
    /// # Errors
    ///
    /// Why it could not be started.
    fn start_passt(
        &self,
        options: &Options,
        forwards: &[Forward],
        news: OwnedFd,
    ) -> Result<(), String>;

    /// No more of them may be asked for: from here on the guest may be the one who asks.
    ///
    /// # Errors
    ///
    /// Whoever it is told is gone.
    fn close(&self) -> Result<(), String>;
}

/// What a process is started for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Options {
    /// What the device is written under, for messages.
    pub name: String,
    /// The guest's address.
    pub mac: MacAddress,
    /// What it tells the guest over DHCP.
    pub mtu: u16,
    /// The gateway's address leads to the host.
    pub host: bool,
}

/// What is told to the other side about a process that runs outside.
#[derive(Debug, Serialize, Deserialize)]
enum News {
    /// It runs; its end of the cable comes along.
    Started,
    /// It has ended: how, and the last that it said.
    Ended(String, Option<String>),
}

/// A running process, over all its restarts.
#[derive(Debug)]
pub struct Passt {
    socket: StreamSocket,
    /// Where news of it come from until somebody [follows](Passt::follow) them, if it is outside.
    news: Mutex<Option<OwnedFd>>,
    /// Another descriptor of the first process's socket, until it has given a sign of life.
    first: Mutex<Option<UnixStream>>,
    life: Arc<Life>,
    stop: Arc<EventFd>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What its thread tells others.
#[derive(Debug, Default)]
struct Life {
    /// Why the first process ended, if it has.
    ended: Mutex<Option<(String, Option<String>)>>,
    event: std::sync::Condvar,
}

impl Passt {
    /// Starts a process that lets `forwards` in.
    pub(super) fn start(options: Options, forwards: &[Forward]) -> Result<Self, Error> {
        forwards.iter().try_for_each(ports::check)?;
        let arguments = arguments(&options, forwards);
        let stop = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(Error::Host)?;
        let (stop, life) = (Arc::new(stop), Arc::<Life>::default());
        let (answer, answered) = mpsc::sync_channel(1);
        let (until, tell) = (Arc::clone(&stop), Arc::clone(&life));
        // The thread that starts a process is its parent to the kernel, and so must live as long.
        let body = move || match spawn(&options, &arguments) {
            Ok((child, socket)) => match StreamSocket::new(socket) {
                Ok(socket) => {
                    let _ = answer.send(Ok(socket.clone()));
                    let log = RateLimitedLog::new();
                    let line = Line::Near { socket, life: tell };
                    let supervisor = Supervisor { options, arguments, line, until, log };
                    supervisor.run(child);
                }
                Err(error) => _ = answer.send(Err(Error::Host(error))),
            },
            Err(error) => _ = answer.send(Err(error)),
        };
        let thread = Start::new(Role::Passt, PROGRAM).run(body);
        let thread = Mutex::new(Some(thread.map_err(Error::Host)?));
        let lost = || Error::Host(io::ErrorKind::BrokenPipe.into());
        let socket: StreamSocket = answered.recv().unwrap_or_else(|_| Err(lost()))?;
        let first = Mutex::new(Some(socket.socket().try_clone().map_err(Error::Host)?));
        Ok(Self { socket, news: Mutex::new(None), first, life, stop, thread })
    }

    /// The same of a process that `outside` starts, in this process's stead.
    pub(super) fn start_outside(
        outside: &dyn Outside,
        options: &Options,
        forwards: &[Forward],
    ) -> Result<Self, Error> {
        let (ours, theirs) = pair().map_err(Error::Host)?;
        outside.start_passt(options, forwards, theirs).map_err(Error::Outside)?;
        let socket = match receive(ours.as_fd()).map_err(Error::Host)? {
            Some((News::Started, Some(fd))) => UnixStream::from(fd),
            _ => return Err(Error::Host(io::ErrorKind::BrokenPipe.into())),
        };
        let stop = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(Error::Host)?;
        let first = Mutex::new(Some(socket.try_clone().map_err(Error::Host)?));
        Ok(Self {
            socket: StreamSocket::new(socket).map_err(Error::Host)?,
            news: Mutex::new(Some(ours)),
            first,
            life: Arc::default(),
            stop: Arc::new(stop),
            thread: Mutex::new(None),
        })
    }

    /// Follows the news of a process outside, on a thread of its own.
    pub(super) fn follow(&self) -> io::Result<()> {
        let Some(news) = lock(&self.news).take() else { return Ok(()) };
        let (socket, until, life) =
            (self.socket.clone(), Arc::clone(&self.stop), Arc::clone(&self.life));
        let body = move || follow(&news, &until, &socket, &life);
        *lock(&self.thread) = Some(Start::new(Role::Passt, PROGRAM).run(body)?);
        Ok(())
    }

    /// The guest's end of the cable.
    pub(super) fn socket(&self) -> &StreamSocket {
        &self.socket
    }

    /// Waits, the first time, until the process has shown that it works, or for a short while.
    ///
    /// # Errors
    ///
    /// It ended instead.
    pub(super) fn check(&self) -> Result<(), Error> {
        let Some(socket) = lock(&self.first).take() else { return Ok(()) };
        let mut fds = [PollFd::new(&socket, PollFlags::IN)];
        let _ = poll(&mut fds, Some(&timespec(START)));
        let mut byte = [0];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match recv(&socket, &mut byte, flags) {
            Ok((1.., _)) | Err(Errno::AGAIN) => return Ok(()),
            Ok(_) | Err(_) => {}
        }
        // Its end of the cable is closed: it has ended, or is about to.
        let ended = lock(&self.life.ended);
        let wait = self.life.event.wait_timeout_while(ended, START, |ended| ended.is_none());
        let (ended, _) = wait.unwrap_or_else(PoisonError::into_inner);
        let (status, said) = match &*ended {
            Some((status, said)) => (status.clone(), said.clone()),
            None => ("its socket closed".to_owned(), None),
        };
        let command = format!("{PROGRAM} --foreground");
        Err(Error::Ended { status, said, command })
    }
}

impl Drop for Passt {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }
}

/// Takes news of a process outside, until told to stop or whoever sends them is gone.
fn follow(news: &OwnedFd, until: &EventFd, socket: &StreamSocket, life: &Life) {
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(descriptor(until), PollFlags::IN),
            PollFd::new(news, PollFlags::IN),
        ];
        let _ = poll(&mut fds, None);
        if !fds[0].revents().is_empty() {
            return;
        }
        match receive(news.as_fd()) {
            Ok(Some((News::Started, Some(fd)))) => {
                if let Err(error) = socket.replace(fd.into()) {
                    tracing::error!("a network does not come back: {error}");
                }
            }
            Ok(Some((News::Ended(status, said), _))) => life.note(status, said),
            _ => return,
        }
    }
}

/// Starts a process, sends its end of the cable to `news`, and supervises it until that is closed.
///
/// # Errors
///
/// The process cannot be started.
pub fn serve(options: Options, forwards: &[Forward], news: OwnedFd) -> Result<(), Error> {
    forwards.iter().try_for_each(ports::check)?;
    let arguments = arguments(&options, forwards);
    let (answer, answered) = mpsc::sync_channel(1);
    // The thread that starts a process is its parent to the kernel, and so must live as long.
    let body = move || match spawn(&options, &arguments) {
        Ok((child, socket)) => {
            let sent = send(news.as_fd(), &News::Started, Some(socket.as_fd()));
            let _ = answer.send(sent.map_err(Error::Host));
            drop(socket);
            let news = Arc::new(news);
            let (line, until) = (Line::Far(Arc::clone(&news)), news);
            let log = RateLimitedLog::new();
            Supervisor { options, arguments, line, until, log }.run(child);
        }
        Err(error) => _ = answer.send(Err(error)),
    };
    Start::new(Role::Passt, PROGRAM).run(body).map_err(Error::Host)?;
    let lost = || Error::Host(io::ErrorKind::BrokenPipe.into());
    answered.recv().unwrap_or_else(|_| Err(lost()))
}

impl Life {
    /// The first end is what whoever waits for a sign of life wants to know.
    fn note(&self, status: String, said: Option<String>) {
        lock(&self.ended).get_or_insert((status, said));
        self.event.notify_all();
    }
}

/// Where the cable of a process leads to.
enum Line {
    /// This process's own device.
    Near { socket: StreamSocket, life: Arc<Life> },
    /// Whoever gets the news.
    Far(Arc<OwnedFd>),
}

impl Line {
    fn replace(&self, socket: UnixStream) -> io::Result<()> {
        match self {
            Self::Near { socket: line, .. } => line.replace(socket),
            Self::Far(news) => send(news.as_fd(), &News::Started, Some(socket.as_fd())),
        }
    }

    fn ended(&self, status: ExitStatus, said: Option<String>) {
        match self {
            Self::Near { life, .. } => life.note(status.to_string(), said),
            // Whoever is gone needs no news.
            Self::Far(news) => {
                let _ = send(news.as_fd(), &News::Ended(status.to_string(), said), None);
            }
        }
    }
}

/// Starts a process; our end of its cable.
fn spawn(options: &Options, arguments: &[String]) -> Result<(Child, UnixStream), Error> {
    let (ours, theirs) = UnixStream::pair().map_err(Error::Host)?;
    let fd = theirs.as_raw_fd();
    let mut command = Command::new(PROGRAM);
    // Its group is not the terminal's: Ctrl-C is for the guest, or for this program to act on.
    command.args(["--fd", &fd.to_string()]).args(arguments).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let inherit = move || {
        set_parent_process_death_signal(Some(Signal::TERM))?;
        // SAFETY: open until after exec, in this copy of the process alone.
        fcntl_setfd(unsafe { BorrowedFd::borrow_raw(fd) }, FdFlags::empty())?;
        Ok(())
    };
    // SAFETY: two system calls, and nothing that another thread could have left half done.
    unsafe { command.pre_exec(inherit) };
    let child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound,
        _ => Error::Start(error),
    })?;
    drop(theirs);
    // Something to answer, which shows that it works, and tells it the guest's address: an ARP probe
    // (RFC 5227), behind its length. What fails shows when the device is used.
    let _ = (&ours).write_all(&probe(options.mac));
    Ok((child, ours))
}

/// Options that every version has understood since there was `--fd` (2022).
fn arguments(options: &Options, forwards: &[Forward]) -> Vec<String> {
    let mut arguments: Vec<_> = ["--foreground", "--quiet", "--mtu"].map(str::to_owned).into();
    arguments.push(options.mtu.to_string());
    if !options.host {
        // What listens on the host's loopback trusts whoever connects.
        arguments.push("--no-map-gw".to_owned());
    }
    for forward in forwards {
        let option = match forward.protocol {
            Protocol::Tcp => "--tcp-ports",
            Protocol::Udp => "--udp-ports",
        };
        let address = forward.address.map_or_else(String::new, |address| format!("{address}/"));
        arguments.push(option.to_owned());
        arguments.push(format!("{address}{}:{}", forward.host, forward.guest));
    }
    arguments
}

/// Asks for a link-local address, which is nobody's, on behalf of `mac`.
fn probe(mac: MacAddress) -> Vec<u8> {
    let start = [0, 0, 0, 42];
    let arp = [8, 6, 0, 1, 8, 0, 6, 4, 0, 1];
    let target = [0, 0, 0, 0, 0, 0, 169, 254, 1, 1];
    [&start[..], &[0xff; 6], &mac, &arp, &mac, &[0; 4], &target].concat()
}

/// The thread of a process.
struct Supervisor<F> {
    options: Options,
    arguments: Vec<String>,
    line: Line,
    /// Readable, or closed at its other end, when the process is to end.
    until: Arc<F>,
    log: RateLimitedLog,
}

impl<F: AsRawFd> Supervisor<F> {
    fn until(&self) -> BorrowedFd<'_> {
        // SAFETY: open as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.until.as_raw_fd()) }
    }

    fn run(&self, mut child: Child) {
        let mut pause = SHORTEST_PAUSE;
        loop {
            let started = Instant::now();
            let Some((status, said)) = self.watch(child) else { return };
            if started.elapsed() > STEADY {
                pause = SHORTEST_PAUSE;
            }
            self.report(status, said.as_deref(), pause);
            self.line.ended(status, said);
            child = loop {
                if self.stopped_within(pause) {
                    return;
                }
                pause = (2 * pause).min(LONGEST_PAUSE);
                match self.restart() {
                    Ok(child) => break child,
                    Err(error) => self.warn(&format!("passt cannot be started again: {error}")),
                }
            };
        }
    }

    fn restart(&self) -> Result<Child, Error> {
        let (mut child, socket) = spawn(&self.options, &self.arguments)?;
        if let Err(error) = self.line.replace(socket) {
            end(&mut child);
            return Err(Error::Host(error));
        }
        Ok(child)
    }

    /// Passes on what `child` says until it ends; none when told to end it.
    fn watch(&self, mut child: Child) -> Option<(ExitStatus, Option<String>)> {
        let mut lines = Lines { stderr: child.stderr.take(), text: Vec::new(), last: None };
        let pidfd = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pidfd = pidfd.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        loop {
            let (stop, flags) = (self.until(), PollFlags::IN);
            let mut fds = vec![PollFd::from_borrowed_fd(stop, flags)];
            fds.extend(pidfd.as_ref().map(|fd| PollFd::new(fd, flags)));
            fds.extend(lines.stderr.as_ref().map(|fd| PollFd::new(fd, flags)));
            // Without a pidfd: looked at now and then.
            let timeout = pidfd.is_none().then(|| timespec(Duration::from_secs(1)));
            let _ = poll(&mut fds, timeout.as_ref());
            if !fds[0].revents().is_empty() {
                end(&mut child);
                return None;
            }
            let status = child.try_wait().ok().flatten();
            let said = fds.len() > 1 && fds.last().is_some_and(|fd| !fd.revents().is_empty());
            if said || status.is_some() {
                lines.read(|line| self.pass_on(line), status.is_some());
            }
            if let Some(status) = status {
                return Some((status, lines.last));
            }
        }
    }

    fn pass_on(&self, line: &str) {
        if let Some(suppressed) = self.log.admit() {
            tracing::info!(suppressed, "{}: passt says: {line}", self.options.name);
        }
    }

    fn report(&self, status: ExitStatus, said: Option<&str>, pause: Duration) {
        let said = said.map_or_else(String::new, |said| format!(": {said}"));
        self.warn(&format!(
            "passt ended ({status}){said}; the guest has no network until it is started again in {pause:?}"
        ));
    }

    fn warn(&self, text: &str) {
        if let Some(suppressed) = self.log.admit() {
            tracing::error!(suppressed, "{}: {text}", self.options.name);
        }
    }

    fn stopped_within(&self, time: Duration) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.until(), PollFlags::IN)];
        let _ = poll(&mut fds, Some(&timespec(time)));
        !fds[0].revents().is_empty()
    }
}

/// What a process says, line by line.
struct Lines {
    /// None once it is closed.
    stderr: Option<ChildStderr>,
    text: Vec<u8>,
    /// The last line that says something.
    last: Option<String>,
}

impl Lines {
    /// Reads what is there: once, or all of it as nothing more can come.
    fn read(&mut self, mut line: impl FnMut(&str), all: bool) {
        let mut bytes = [0; 1024];
        // What a child of a child may still have open is not waited for.
        for _ in 0..if all { 16 } else { 1 } {
            let Some(stderr) = &mut self.stderr else { break };
            let mut fds = [PollFd::new(stderr, PollFlags::IN)];
            if poll(&mut fds, Some(&timespec(Duration::ZERO))) != Ok(1) {
                break;
            }
            match stderr.read(&mut bytes) {
                Ok(count @ 1..) => self.split(&bytes[..count], &mut line),
                Ok(0) | Err(_) => self.stderr = None,
            }
        }
    }

    fn split(&mut self, bytes: &[u8], line: &mut impl FnMut(&str)) {
        for &byte in bytes {
            if byte != b'\n' {
                if self.text.len() < LINE {
                    self.text.push(byte);
                }
                continue;
            }
            let text = String::from_utf8_lossy(&self.text).escape_debug().to_string();
            self.text.clear();
            // Older versions complain about each line that the system's log did not take.
            if !text.is_empty() && !text.ends_with("bytes to syslog") {
                line(&text);
                self.last = Some(text);
            }
        }
    }
}

/// Ends a process, which keeps nothing that would have to be put away.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}

#[cfg(test)]
#[path = "passt_test.rs"]
mod passt_test;
