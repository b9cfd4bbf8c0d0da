//! One vCPU and the loop that runs it: each exit from the guest goes to a bus, or ends the loop.
//!
//! The loop knows neither why it is asked to stop nor what happens to the machine after it ends.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use devices::bus::{Action, Bus};
use devices::ioapic::IoApic;
use devices::memory::GuestMemory;
use kvm_bindings::{KVM_EXIT_IO_IN, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::{VcpuExit, VcpuFd};
use rustix::time::{ClockId, clock_gettime};

use super::crash::{self, Report};
use super::gate::{Gate, Wish};
use super::kick::Kickable;
use super::stops::Stops;
use super::tally::Tally;
use super::{Error, failed};
use crate::timings::Timings;

/// What a vCPU's exits reach.
pub struct Platform {
    /// Port I/O.
    pub pio: Bus,
    /// Memory-mapped I/O.
    pub mmio: Bus,
    /// Told when a level-triggered interrupt's vector has been handled.
    pub ioapic: Arc<Mutex<IoApic>>,
    /// Guest memory, for the report of a crash.
    pub memory: GuestMemory,
    /// Set once the guest's kernel has said it panicked.
    pub panicked: AtomicBool,
    /// Where vCPUs are told to pause and to stop; kick them afterwards.
    pub gate: Arc<Gate>,
}

/// Why a vCPU's loop ended.
#[derive(Debug)]
pub enum Ended {
    /// It was asked to.
    Stopped,
    /// The guest asked for something the loop cannot do itself.
    Action(Action),
    /// The guest's CPU shut down after a triple fault.
    TripleFault(Box<Report>),
    /// KVM cannot go on with the guest.
    Unrunnable {
        /// What KVM said.
        reason: String,
        /// Where the guest was.
        report: Box<Report>,
    },
    /// KVM_RUN itself failed: the host's fault, not the guest's.
    Failed(Error),
}

/// A vCPU ready to run.
#[derive(Debug)]
pub struct Vcpu {
    index: u32,
    fd: VcpuFd,
    /// When it was about to enter the guest, and when it had left it, the last time.
    entered: Duration,
    left: Duration,
    stops: Stops,
}

/// An exit takes as long only when the process is stopped meanwhile, or a device keeps the vCPU
/// waiting: the guest's watchdogs are to forgive either.
const LONG_EXIT: Duration = Duration::from_millis(500);

/// How KVM_RUN was left.
enum Left {
    /// For something that has been done.
    Served,
    /// By a signal.
    Interrupted,
}

/// Exits that need the vCPU itself, after the borrow that KVM's own exit type holds has ended.
enum Pending {
    PortIo,
    TripleFault,
    InternalError,
    Unrunnable(String),
}

impl Vcpu {
    /// Wraps a vCPU whose registers are set.
    pub fn new(index: u32, fd: VcpuFd) -> Self {
        Self { index, fd, entered: Duration::ZERO, left: Duration::ZERO, stops: Stops::so_far() }
    }

    /// Runs until asked to stop or the guest ends. Call it on the vCPU's own thread.
    pub fn run(&mut self, platform: &Platform, timings: &Timings, tally: &Tally) -> Ended {
        let _running = tally.start();
        let kickable = Kickable::new(&mut self.fd);
        timings.first_entry.mark();
        self.entered = coarse_time();
        loop {
            // Whoever stops us says so at the gate, then kicks. A kick is cleared before this look,
            // never after it, so one that arrives now makes the next KVM_RUN return at once.
            match platform.gate.wish() {
                Wish::Run => {}
                Wish::Stop => return Ended::Stopped,
                Wish::Pause => match self.pause(platform, &kickable) {
                    ControlFlow::Continue(()) => continue,
                    ControlFlow::Break(ended) => return ended,
                },
            }
            let step = self.step(platform);
            tally.exited();
            timings.first_exit.mark();
            match step {
                ControlFlow::Continue(Left::Served) => self.look_for_stops(),
                // Nothing but kicks and the process being stopped interrupts KVM_RUN.
                ControlFlow::Continue(Left::Interrupted) if kickable.clear() => {}
                ControlFlow::Continue(Left::Interrupted) => self.was_stopped(),
                ControlFlow::Break(ended) => return ended,
            }
            self.entered = coarse_time();
            if self.entered.saturating_sub(self.left) > LONG_EXIT {
                self.was_stopped();
            }
        }
    }

    /// A process that is stopped on its way out of KVM_RUN is not interrupted, and looks like a guest
    /// that ran for long, which only the signal tells apart.
    fn look_for_stops(&mut self) {
        if self.left.saturating_sub(self.entered) > LONG_EXIT && self.stops.happened() {
            self.was_stopped();
        }
    }

    /// Completes the instruction that the last exit is part of, and waits at the gate.
    fn pause(&mut self, platform: &Platform, kickable: &Kickable) -> ControlFlow<Ended> {
        loop {
            // KVM_RUN ends the instruction and enters no guest. Where that takes more of the
            // bus, it is another exit (Documentation/virt/kvm/api.rst, 5. The kvm_run structure).
            kickable.kick();
            if let Left::Interrupted = self.step(platform)? {
                kickable.clear();
                break;
            }
        }
        platform.gate.wait();
        (self.entered, self.left) = (coarse_time(), coarse_time());
        self.was_stopped();
        ControlFlow::Continue(())
    }

    fn step(&mut self, platform: &Platform) -> ControlFlow<Ended, Left> {
        let exit = self.fd.run();
        self.left = coarse_time();
        let pending = match exit {
            Ok(VcpuExit::MmioRead(address, data)) => {
                platform.mmio.read(address, data);
                return ControlFlow::Continue(Left::Served);
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                perform(platform.mmio.write(address, data), platform)?;
                return ControlFlow::Continue(Left::Served);
            }
            Ok(VcpuExit::IoapicEoi(vector)) => {
                let mut ioapic = platform.ioapic.lock().unwrap_or_else(PoisonError::into_inner);
                ioapic.end_of_interrupt(vector);
                return ControlFlow::Continue(Left::Served);
            }
            Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => Pending::PortIo,
            Ok(VcpuExit::Shutdown) => Pending::TripleFault,
            Ok(VcpuExit::InternalError) => Pending::InternalError,
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _)) => {
                return ControlFlow::Break(Ended::Action(Action::PowerOff));
            }
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _)) => {
                return ControlFlow::Break(Ended::Action(Action::Reset));
            }
            Ok(VcpuExit::FailEntry(reason, cpu)) => Pending::Unrunnable(format!(
                "the processor refused to enter the guest (reason {reason:#x}, host CPU {cpu})"
            )),
            Ok(VcpuExit::MemoryFault { gpa, size, .. }) => Pending::Unrunnable(format!(
                "the host could not provide guest memory at {gpa:#x} ({size} bytes)"
            )),
            Ok(other) => Pending::Unrunnable(format!("KVM left the guest for {other:?}")),
            Err(e) if e.errno() == libc::EINTR => {
                return ControlFlow::Continue(Left::Interrupted);
            }
            Err(e) if e.errno() == libc::EAGAIN => return ControlFlow::Continue(Left::Served),
            Err(e) => return ControlFlow::Break(Ended::Failed(failed("KVM_RUN")(e))),
        };
        match pending {
            Pending::PortIo => self.port_io(platform),
            Pending::TripleFault => {
                let report = Report::of(self.index, &self.fd, &platform.memory, None);
                ControlFlow::Break(Ended::TripleFault(Box::new(report)))
            }
            Pending::InternalError => {
                let (reason, bytes) = crash::internal_error(&mut self.fd);
                self.unrunnable(reason, platform, bytes)
            }
            Pending::Unrunnable(reason) => self.unrunnable(reason, platform, None),
        }
    }

    /// The machine was paused, or the process stopped (SIGSTOP, a frozen cgroup) and continued. The
    /// guest's clocks went on meanwhile; it is told, so that its watchdogs do not take the time for one
    /// of their CPUs being stuck (KVM_KVMCLOCK_CTRL).
    fn was_stopped(&self) {
        if let Err(error) = self.fd.kvmclock_ctrl() {
            // A guest without kvm-clock has no such watchdog.
            tracing::debug!(vcpu = self.index, "KVM_KVMCLOCK_CTRL: {error}");
        }
    }

    fn unrunnable(
        &self,
        reason: String,
        platform: &Platform,
        bytes: Option<Vec<u8>>,
    ) -> ControlFlow<Ended, Left> {
        let report = Box::new(Report::of(self.index, &self.fd, &platform.memory, bytes));
        ControlFlow::Break(Ended::Unrunnable { reason, report })
    }

    /// Performs a port I/O exit. A string instruction (`rep outsb`) arrives as one exit with many
    /// items; each is an access of its own to the same port.
    #[allow(unsafe_code)]
    fn port_io(&mut self, platform: &Platform) -> ControlFlow<Ended, Left> {
        let run = self.fd.get_kvm_run();
        let page = (&raw mut *run).cast::<u8>();
        // SAFETY: the exit reason is KVM_EXIT_IO, so the kernel filled in this member.
        let io = unsafe { run.__bindgen_anon_1.io };
        let (size, length) = (usize::from(io.size), usize::from(io.size) * io.count as usize);
        let offset = usize::try_from(io.data_offset).unwrap_or(usize::MAX);
        // SAFETY: the kernel places the data inside the mapping of `kvm_run`, at this offset.
        let data = unsafe { page.add(offset) };
        // SAFETY: `length` bytes there belong to this exit, and nothing else refers to them while
        // the vCPU is borrowed.
        let data = unsafe { std::slice::from_raw_parts_mut(data, length) };
        for item in data.chunks_mut(size.max(1)) {
            if u32::from(io.direction) == KVM_EXIT_IO_IN {
                platform.pio.read(io.port.into(), item);
            } else {
                perform(platform.pio.write(io.port.into(), item), platform)?;
            }
        }
        ControlFlow::Continue(Left::Served)
    }
}

/// Time since the host started, to some milliseconds: a look at memory, where the exact time costs
/// as much as some exits do.
fn coarse_time() -> Duration {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    Duration::try_from(now).unwrap_or_default()
}

/// Notes what a device asked for, or ends the loop where only the machine can do it.
fn perform(action: Option<Action>, platform: &Platform) -> ControlFlow<Ended> {
    match action {
        None => ControlFlow::Continue(()),
        Some(Action::GuestPanicked { .. }) => {
            platform.panicked.store(true, Ordering::Release);
            ControlFlow::Continue(())
        }
        Some(action) => ControlFlow::Break(Ended::Action(action)),
    }
}
