//! A run from its first to its last machine: the one place where requests are acted upon. What comes
//! from the control interface is carried out in `obey`.

mod obey;
mod room;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use devices::bus::Action;
use resources::config::{OnReboot, VmConfig};
use vmm_sys_util::eventfd::EventFd;

use crate::api::events::Events;
use crate::api::routes::Guest;
use crate::api::server::{Limits, Server};
use crate::api::types::Event;
use crate::clock;
use crate::command::{Mailbox, Refusal};
use crate::console::input::Input;
use crate::console::output::Output;
use crate::console::ring::Ring;
use crate::console::stdio_port::{StdioPort, window_size};
use crate::console::{Console, ConsoleHandle};
use crate::event_loop::EventLoop;
use crate::jail::{self, Confinement};
use crate::kvm::tally::Tally;
use crate::kvm::vcpu::Ended;
use crate::kvm::{self, System, kick};
use crate::machine::console_ports::ConsoleBackEnds;
use crate::machine::passt::Outside;
use crate::machine::sources::{self, Sources};
use crate::machine::{self, ConsolePorts, Context, Machine};
use crate::outcome::{End, Outcome};
use crate::request::{Request, Requests};
use crate::resets::{self, Resets};
use crate::signals::Signals;
use crate::statistics::OwnStatus;
use crate::timings::Timings;

use self::room::{Room, Shortages};

pub use self::room::{DISK_FULL, Full};

/// What to run, and how.
#[derive(Debug)]
pub struct RunOptions {
    /// The guest.
    pub config: VmConfig,
    /// Where its console goes.
    pub console: Console,
    /// The KVM device, usually `/dev/kvm`.
    pub kvm_device: PathBuf,
    /// Folder that keeps extracted kernels; none are kept without it.
    pub kernel_cache: Option<PathBuf>,
    /// The program's first moment: timings count from it.
    pub start: Instant,
    /// How the guest is known, and where it is controlled from.
    pub control: Control,
    /// Tells the user what cannot be known before, such as the name of a pseudo-terminal.
    pub announce: fn(&str),
    /// What this process gives up once everything is open.
    pub confinement: Confinement,
    /// Who does what this process cannot do any more then.
    pub outside: Option<Rc<dyn Outside>>,
    /// The host CPU of each vCPU; those without one run where the process may.
    pub pins: Vec<u32>,
    /// Folders that must not become full: the guest is paused then.
    pub pause_when_full: Vec<PathBuf>,
}

/// How a guest is known to its host, and where it takes commands.
pub struct Control {
    /// Its id; empty where it has none.
    pub id: String,
    /// Its name.
    pub name: String,
    /// A listening unix socket for the control interface.
    pub socket: Option<UnixListener>,
    /// Told, on the main thread, of what happens to the guest.
    pub notify: Box<dyn FnMut(&Notice)>,
}

impl Default for Control {
    fn default() -> Self {
        Self { id: String::new(), name: String::new(), socket: None, notify: Box::new(|_| {}) }
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What happens to a guest while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Its first machine runs.
    Started,
    /// It was reset, and runs again.
    Reset,
    /// It was paused.
    Paused,
    /// It goes on after a pause.
    Resumed,
    /// Its power button was pressed.
    PowerButton,
    /// Something about it was changed: what, and how.
    Updated(String),
    /// The host has no room left for what it writes.
    Full(Full),
}

impl Notice {
    /// What it is called as an event, and more about it.
    pub fn words(&self) -> (&'static str, Vec<(&'static str, String)>) {
        match self {
            Self::Started => ("started", Vec::new()),
            Self::Reset => ("reset", Vec::new()),
            Self::Paused => ("paused", Vec::new()),
            Self::Resumed => ("resumed", Vec::new()),
            Self::PowerButton => ("power-button", Vec::new()),
            Self::Updated(what) => ("updated", vec![("what", what.clone())]),
            Self::Full(full) => (DISK_FULL, full.words()),
        }
    }
}

/// How often files are looked at that tell nothing when the host enlarges them.
const TICK: Duration = Duration::from_secs(2);

/// Most bytes of its last output that the record of a guest gets which did not end well.
const LAST_OUTPUT: usize = 4096;
/// How long an end at once waits for who keeps the guest's output.
const KEEPERS_MOMENT: Duration = Duration::from_millis(200);

/// Why a guest could not be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process could not be confined.
    #[error(transparent)]
    Jail(#[from] jail::Error),
    /// KVM cannot be used.
    #[error(transparent)]
    Kvm(#[from] kvm::Error),
    /// Kernel, initrd or command line cannot be used.
    #[error(transparent)]
    Sources(#[from] sources::Error),
    /// The machine could not be built or run.
    #[error(transparent)]
    Machine(#[from] machine::Error),
    /// The process could not be set up.
    #[error("cannot {what}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Waiting for events failed.
    #[error("the event loop failed: {}", event_error(.0))]
    EventLoop(event_manager::Error),
}

/// In the words of the kernel, where it was the kernel.
fn event_error(error: &event_manager::Error) -> String {
    match error {
        event_manager::Error::Epoll(errno) => io::Error::from(*errno).to_string(),
        other => other.to_string(),
    }
}

impl From<event_manager::Error> for Error {
    fn from(error: event_manager::Error) -> Self {
        Self::EventLoop(error)
    }
}

fn host(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Host { what, source }
}

/// Runs a guest until it ends: powered off, crashed, killed.
///
/// Signals that end the run (see the user guide's exit codes) are taken over meanwhile; a guest
/// that reboots is started again as the configuration says.
///
/// # Errors
///
/// [`Error`] when the guest could not be started or KVM failed; the guest's own failures are an
/// [`Outcome`].
pub fn run(options: RunOptions) -> Result<Outcome, Error> {
    let RunOptions {
        config,
        console,
        kvm_device,
        kernel_cache,
        start,
        mut control,
        announce,
        confinement,
        outside,
        pins,
        pause_when_full,
    } = options;
    let timings = Arc::new(Timings::new(start));
    // Before any thread: all of them inherit the signal mask.
    let signals = Signals::new().map_err(host("take over signals"))?;
    kick::install_handler().map_err(host("install the vCPU signal handler"))?;
    let system = System::open(&kvm_device)?;
    let port = StdioPort::wanted(&config)
        .map_err(host("connect the virtio console to standard input and output"))?;
    let window = port.as_ref().and(console.output.as_ref()).map(OwnedFd::try_clone).transpose();
    let window = window.map_err(host("duplicate standard output"))?;
    let ring = Ring::default();
    if console.kept {
        ring.expect_keeper();
    }
    let output = Output::new(console.output, ring.clone()).map_err(host("create an eventfd"))?;
    let (port_input, port_output, stdio) = match port {
        Some(port) => (Some(port.input), Some(port.output), Some(port.device)),
        None => (None, None, None),
    };
    let on_port = stdio.is_some();
    let sources = Sources::open(&config, kernel_cache.as_deref(), stdio, outside.as_deref())?;
    let status = OwnStatus::open();
    let room = Room::in_folders(pause_when_full);
    timings.opened.mark();
    let uid = rustix::process::geteuid().as_raw();
    let sockets_folder = confinement.enter()?;
    sources.moved(sockets_folder);
    if let Some(outside) = &outside {
        outside.close().map_err(|why| host("close the jail")(std::io::Error::other(why)))?;
    }
    timings.confined.mark();
    sources.networks().follow().map_err(sources::Error::from)?;

    if let Some(pipe) = port_output {
        output.carry(pipe).map_err(host("start a thread for the console"))?;
    }
    let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
    let vcpu_ended = Arc::new(event.map_err(host("create an eventfd"))?);
    let requests = Requests::default();
    let input = Input::new(console.input, console.escapes, port_input, requests.clone())
        .map_err(host("create an eventfd"))?;
    let handle = ConsoleHandle { ring: ring.clone(), input: input.borrow().remote().clone() };
    let mut events =
        EventLoop::new(signals, Rc::clone(&input), &output, Arc::clone(&vcpu_ended), requests)?;

    if sources.has_disks() {
        events.tick(TICK).map_err(host("make a timer"))?;
    }
    let (mailbox, inbox) = Mailbox::new().map_err(host("create an eventfd"))?;
    events.listen(inbox);
    let happened = Events::default();
    let guest = Guest::new(mailbox, happened.clone(), handle);
    // Ends after the main loop, whose last answers it sends.
    let _api = control
        .socket
        .take()
        .map(|socket| Server::start(socket, guest, Limits::default()))
        .transpose()
        .map_err(host("start the control interface"))?;
    for (console, path) in sources.consoles().into_iter().flat_map(ConsoleBackEnds::terminals) {
        announce(&format!("console.{console} is the terminal {}", path.display()));
    }

    let tallies = (0..config.vcpus).map(|_| Tally::default()).collect();
    let context = Context {
        system: &system,
        config: &config,
        sources: &sources,
        timings: &timings,
        tallies: &tallies,
        status: &status,
        pins: &pins,
        vcpu_ended: &vcpu_ended,
    };
    let mut run = Run {
        context,
        events,
        input,
        output,
        on_port,
        window,
        on_continue: console.on_continue,
        resets: Resets::default(),
        control,
        happened,
        room,
        shortages: Shortages::default(),
        started_at: clock::now(),
        uid,
    };
    run.resize_consoles();
    let end = run.until_the_end();
    run.tell_of_full_disks(true);
    let end = end?;
    run.publish("exited", exit_details(&end));
    let resets = run.resets.total();
    drop(run);
    timings.stopped.mark();
    let last_output = match end {
        End::Panicked | End::Crashed { .. } | End::ResetLoop { .. } => ring.tail(LAST_OUTPUT),
        _ => Vec::new(),
    };
    Ok(Outcome { end, resets, last_output, timings })
}

/// A run in progress.
struct Run<'a> {
    context: Context<'a>,
    events: EventLoop,
    input: Rc<RefCell<Input>>,
    output: Output,
    /// The console is a port of the virtio console, and not the UART.
    on_port: bool,
    /// The terminal, for its size, where it is the virtio console's.
    window: Option<OwnedFd>,
    /// See [`Console::on_continue`].
    on_continue: Option<fn()>,
    resets: Resets,
    control: Control,
    /// What the control interface tells.
    happened: Events,
    room: Room,
    shortages: Shortages,
    /// In milliseconds since 1970.
    started_at: u64,
    /// The user who started it, whom it may not be any more.
    uid: u32,
}

impl Drop for Run<'_> {
    /// Nobody waits for events that do not come.
    fn drop(&mut self) {
        self.happened.close();
    }
}

impl Run<'_> {
    fn until_the_end(&mut self) -> Result<End, Error> {
        let end = loop {
            let mut machine = self.start_machine()?;
            self.notify(match self.resets.total() {
                0 => Notice::Started,
                _ => Notice::Reset,
            });
            let end = self.serve(&mut machine)?;
            self.context.timings.ended.mark();
            self.take_down(machine);
            if let ControlFlow::Break(end) = self.after(end) {
                break end;
            }
        };
        self.flush_output(end)
    }

    fn start_machine(&mut self) -> Result<Machine, Error> {
        let output: Box<dyn Write + Send> = match self.on_port {
            false => Box::new(self.output.clone()),
            true => Box::new(io::sink()),
        };
        let console = ConsolePorts { output, on_input_drained: self.input.borrow().on_drained() };
        let machine = Machine::start(&self.context, console)?;
        self.input.borrow_mut().attach(machine.serial());
        Ok(machine)
    }

    /// Acts on requests until one of them ends the machine.
    fn serve(&mut self, machine: &mut Machine) -> Result<MachineEnd, Error> {
        loop {
            match self.events.next()? {
                Request::Signal(number) => return Ok(MachineEnd::Run(End::Signal { number })),
                Request::Quit => return Ok(MachineEnd::Run(End::Quit)),
                Request::PowerButton => {
                    if let Err(refusal) = self.press_power_button(machine) {
                        // As the help is: for who typed the keys.
                        let _ = write!(self.output, "\r\n{refusal}\r\n");
                    }
                }
                Request::Asked(asked) => {
                    if let Some(end) = self.obey(machine, asked) {
                        return Ok(end);
                    }
                }
                Request::Say(text) => {
                    // A console that takes nothing any more has been reported already.
                    let _ = self.output.write_all(text.as_bytes());
                }
                Request::Tick => {
                    self.context.sources.follow_host();
                    self.pause_if_full(machine);
                    self.tell_of_full_disks(self.shortages.is_time(Instant::now()));
                }
                Request::WindowResized => self.resize_consoles(),
                Request::Continued => {
                    if let Some(on_continue) = self.on_continue {
                        on_continue();
                    }
                    self.resize_consoles();
                }
                Request::VcpuEnded => {
                    while let Some(end) = machine.take_end() {
                        if let Some(end) = judge(end?, machine.panicked())? {
                            return Ok(end);
                        }
                    }
                }
                Request::Output => {
                    if let Some(end) = self.output_failed() {
                        return Ok(MachineEnd::Run(end));
                    }
                }
            }
        }
    }

    fn notify(&mut self, notice: Notice) {
        let (event, details) = notice.words();
        self.publish(event, details.into_iter().map(|(key, value)| (key.to_owned(), value)));
        (self.control.notify)(&notice);
    }

    fn publish(&self, event: &str, details: impl IntoIterator<Item = (String, String)>) {
        self.happened.publish(&Event {
            time: clock::now(),
            event: event.to_owned(),
            id: self.control.id.clone(),
            name: self.control.name.clone(),
            uid: Some(self.uid),
            labels: BTreeMap::new(),
            details: details.into_iter().collect(),
        });
    }

    /// Tells the virtio console the size of the terminal's window, if that is where it is.
    fn resize_consoles(&self) {
        if let Some((columns, rows)) = self.window.as_ref().and_then(window_size) {
            self.resize_to(columns, rows);
        }
    }

    /// A UART knows no sizes.
    fn resize_to(&self, columns: u16, rows: u16) {
        if let Some(consoles) = self.context.sources.consoles().filter(|_| self.on_port) {
            consoles.handle().resize(columns, rows);
        }
    }

    /// What a failed console means: a reader that went away ends the run as SIGPIPE would.
    fn output_failed(&self) -> Option<End> {
        let error = self.output.take_error()?;
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Some(End::Signal { number: libc::SIGPIPE });
        }
        tracing::error!("console output is lost, at least some: {error}");
        None
    }

    fn take_down(&mut self, machine: Machine) {
        self.input.borrow_mut().detach();
        self.output.set_unbounded(true);
        drop(machine);
        self.output.set_unbounded(false);
    }

    /// Whether another machine follows.
    fn after(&mut self, end: MachineEnd) -> ControlFlow<End> {
        match end {
            MachineEnd::Run(end) => ControlFlow::Break(end),
            MachineEnd::Reset if self.context.config.on_reboot == OnReboot::Exit => {
                ControlFlow::Break(End::Rebooted)
            }
            MachineEnd::Reset => {
                if self.resets.count(Instant::now()) {
                    let (resets, seconds) = (resets::LIMIT + 1, resets::WINDOW.as_secs());
                    return ControlFlow::Break(End::ResetLoop { resets, seconds });
                }
                tracing::info!(resets = self.resets.total(), "the guest rebooted");
                ControlFlow::Continue(())
            }
        }
    }

    /// Waits until the reader has all of the guest's output. Only a signal ends this early: the
    /// user gave up on the reader.
    fn flush_output(&mut self, end: End) -> Result<End, Error> {
        if matches!(end, End::Signal { .. } | End::Quit) {
            // Leaving at once was asked for; what a ready reader can take goes out in passing.
            self.output.finish();
            self.output.settle(KEEPERS_MOMENT);
            return Ok(end);
        }
        let mut drained = self.output.finish();
        while !drained {
            match self.events.next()? {
                Request::Signal(number) => return Ok(End::Signal { number }),
                Request::Quit => return Ok(end),
                Request::Asked(asked) => asked.answer(Err(Refusal::Ending)),
                _ => drained = self.output.is_drained(),
            }
        }
        Ok(match self.output_failed() {
            Some(failed) => failed,
            None => end,
        })
    }
}

/// What is told about the end of a run.
fn exit_details(end: &End) -> [(String, String); 2] {
    [("exit_code".to_owned(), end.code().to_string()), ("message".to_owned(), end.message())]
}

/// How a machine ended.
enum MachineEnd {
    /// The guest asked for a reset.
    Reset,
    /// And with it the run.
    Run(End),
}

/// What the end of a vCPU's loop means for the machine; nothing when it was stopped.
fn judge(ended: Ended, panicked: bool) -> Result<Option<MachineEnd>, Error> {
    let crashed = |reason| Some(MachineEnd::Run(End::Crashed { reason }));
    Ok(match ended {
        Ended::Stopped => None,
        Ended::Failed(error) => return Err(machine::Error::from(error).into()),
        // A kernel that panicked resets by whatever works, a triple fault included.
        Ended::Action(Action::Reset) | Ended::TripleFault(_) if panicked => {
            Some(MachineEnd::Run(End::Panicked))
        }
        Ended::Action(Action::PowerOff) => Some(MachineEnd::Run(End::PoweredOff)),
        Ended::Action(Action::DebugExit(code)) => Some(MachineEnd::Run(End::DebugExit { code })),
        Ended::Action(Action::Reset | Action::GuestPanicked { .. }) => Some(MachineEnd::Reset),
        Ended::TripleFault(report) => crashed(format!("triple fault on {report}")),
        Ended::Unrunnable { reason, report } => crashed(format!("{reason}\n{report}")),
    })
}
