//! The thread of a pair of queues: waits for frames, doorbells and limits, and serves what is due. The
//! first pair's also serves the control queue.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmm_sys_util::eventfd::EventFd;

use super::backend::Port;
use super::buffers::descriptor;
use super::control::Control;
use super::rx::Receiver;
use super::state::Shared;
use super::tx::Transmitter;
use super::vhost::path::KernelPath;
use crate::virtio::preemption::Preemption;
use crate::virtio::queue::{Broken, Queue};
use crate::virtio::worker::Handler;

/// Frames in one direction before the other has its turn.
pub(super) const BATCH: u16 = 64;

/// What a direction waits for.
#[derive(Debug)]
pub(super) enum Wait {
    /// There is more to do.
    Nothing,
    /// The driver's doorbell.
    Doorbell,
    /// The back end's end of the cable.
    Port,
    /// Time to pass: for a rate limit, or for more to come.
    Time(Duration),
    /// The back end is gone.
    Gone(io::Error),
}

/// What the whole thread waits for, besides doorbells.
#[derive(Debug, Default)]
struct Plan {
    readable: bool,
    writable: bool,
    timeout: Option<Duration>,
}

impl Plan {
    fn within(&mut self, time: Duration) {
        self.timeout = Some(self.timeout.map_or(time, |timeout| timeout.min(time)));
    }
}

/// The handler of a pair of queues, of which a driver may leave out any.
pub(super) struct Pair {
    /// How the host's kernel serves the queues; dropped before they are.
    pub path: Option<KernelPath>,
    pub port: Box<dyn Port>,
    pub rx: Option<Receiver>,
    pub tx: Option<Transmitter>,
    pub control: Option<Control>,
    pub shared: Arc<Shared>,
    /// Which pair it is.
    pub index: u16,
    pub preemption: Preemption,
    /// The back end's end of the cable is not to be used any more.
    pub port_gone: bool,
    /// There was no frame when the port was last asked, and it has not become ready since: asking again
    /// would be a system call for nothing at every doorbell of the transmit queue.
    pub port_empty: bool,
}

impl Pair {
    /// The queues, as if nothing had been taken that was not given back.
    pub(super) fn into_queues(self) -> impl Iterator<Item = Queue> {
        let rx = self.rx.map(Receiver::into_queue);
        let tx = self.tx.map(Transmitter::into_queue);
        [rx, tx, self.control.map(Control::into_queue)].into_iter().flatten()
    }

    /// Does what is due; which queue broke, if one did.
    fn serve(&mut self) -> Result<Plan, ()> {
        let mut plan = Plan::default();
        if self.port_gone && self.port.revive() {
            self.port_gone = false;
            self.shared.link.set_carrier(true);
            tracing::info!("net: the host's end of the network is back");
        }
        if let Some(control) = &mut self.control {
            let next = control.serve();
            if let Some(time) = failed(next, control.queue())? {
                plan.within(time);
            }
        }
        if self.leave_to_kernel()? {
            return Ok(plan);
        }
        if let Some(rx) = &mut self.rx
            && !self.port_gone
        {
            let wait = if self.port_empty { Ok(Wait::Port) } else { rx.serve(&mut *self.port) };
            let wait = failed(wait, rx.queue())?;
            plan.readable = matches!(wait, Wait::Port);
            self.port_empty = plan.readable;
            self.note(wait, &mut plan);
        }
        if let Some(tx) = &mut self.tx {
            let wait = tx.serve(&mut *self.port);
            let wait = failed(wait, tx.queue())?;
            plan.writable = matches!(wait, Wait::Port);
            self.note(wait, &mut plan);
        }
        if !self.port_gone {
            match self.port.flush() {
                Ok(true) => {}
                Ok(false) => plan.writable = true,
                Err(error) => self.note(Wait::Gone(error), &mut plan),
            }
        }
        Ok(plan)
    }

    /// Has the host's kernel serve the pair if that is to be, and does what is due about it; whether it serves.
    fn leave_to_kernel(&mut self) -> Result<bool, ()> {
        let Some(path) = &mut self.path else { return Ok(false) };
        let due = path.is_due();
        if due {
            // The kernel gets queues that nothing has been taken from.
            self.rx.iter_mut().for_each(Receiver::settle);
            self.tx.iter_mut().for_each(Transmitter::settle);
        }
        let rx = self.rx.as_mut().map(Receiver::queue_mut);
        let tx = self.tx.as_mut().map(Transmitter::queue_mut);
        let mut queues = [rx, tx];
        let served = if due { path.adjust(&mut queues, self.port.fd()) } else { Ok(()) };
        match served.and_then(|()| path.relay(&queues)) {
            Ok(()) => Ok(path.is_running()),
            Err(why) => {
                path.fail(why);
                Err(())
            }
        }
    }

    /// Takes the queues back from the host's kernel.
    fn take_back(&mut self) {
        if let Some(path) = &mut self.path {
            let rx = self.rx.as_mut().map(Receiver::queue_mut);
            let tx = self.tx.as_mut().map(Transmitter::queue_mut);
            if let Err(why) = path.stop(&mut [rx, tx]) {
                path.fail(why);
            }
        }
    }

    fn note(&mut self, wait: Wait, plan: &mut Plan) {
        match wait {
            Wait::Nothing => plan.within(Duration::ZERO),
            Wait::Time(time) => plan.within(time),
            Wait::Doorbell | Wait::Port => {}
            Wait::Gone(error) => {
                // The transmit queue is still emptied, into nothing.
                if !std::mem::replace(&mut self.port_gone, true) {
                    tracing::error!("net: the host's end of the network is gone: {error}");
                    self.shared.link.set_carrier(false);
                }
                plan.within(Duration::ZERO);
            }
        }
    }

    /// Waits for what `plan` says and for doorbells; true if it is time to stop.
    fn wait(&mut self, plan: &Plan, stop: &EventFd) -> bool {
        if let Some(path) = self.path.as_ref().filter(|path| path.is_running()) {
            return self.wait_for_kernel(path, plan, stop);
        }
        let queues = [
            self.rx.as_ref().map(Receiver::queue),
            self.tx.as_ref().map(Transmitter::queue),
            self.control.as_ref().map(Control::queue),
        ];
        let mut port_flags = PollFlags::empty();
        port_flags.set(PollFlags::IN, plan.readable);
        port_flags.set(PollFlags::OUT, plan.writable);
        let port = if self.port_gone {
            self.port.revival().map(|fd| (fd, PollFlags::IN))
        } else {
            (!port_flags.is_empty()).then(|| (self.port.fd(), port_flags))
        };
        // A place that is not used watches nothing: even a descriptor without events of interest would
        // wake this thread again and again once its other side has hung up.
        let stop = descriptor(stop);
        let nothing = (stop, PollFlags::empty());
        let [rx, tx, control] =
            queues.map(|queue| queue.map_or(nothing, |queue| readable(queue.doorbell())));
        let changed = self.path.as_ref().map_or(nothing, |path| readable(path.changed()));
        let port = port.unwrap_or(nothing);
        let places = [(stop, PollFlags::IN), port, rx, tx, control, changed];
        let rang = wait_for(places, plan.timeout);
        for (queue, _) in queues.into_iter().zip(&rang[2..]).filter(|(_, rang)| **rang) {
            let _ = queue.map(|queue| queue.doorbell().read());
        }
        let [stopped, port_ready, .., changed] = rang;
        if changed {
            let _ = self.path.as_ref().map(|path| path.changed().read());
        }
        self.port_empty &= !port_ready;
        stopped
    }

    /// The same while the host's kernel serves the queues: it alone hears their doorbells, and reads none.
    fn wait_for_kernel(&self, path: &KernelPath, plan: &Plan, stop: &EventFd) -> bool {
        let doorbell = self.control.as_ref().map(|control| control.queue().doorbell());
        let nothing = (descriptor(stop), PollFlags::empty());
        let control = doorbell.map_or(nothing, |event| readable(event));
        let [error, receive, transmit] = path.events().map(readable);
        let places = [readable(stop), control, readable(path.changed()), error, receive, transmit];
        let [stopped, rang, changed, ..] = wait_for(places, plan.timeout);
        if rang {
            let _ = doorbell.map(|doorbell| doorbell.read());
        }
        if changed {
            let _ = path.changed().read();
        }
        stopped
    }
}

fn readable(event: &EventFd) -> (BorrowedFd<'_>, PollFlags) {
    (descriptor(event), PollFlags::IN)
}

/// Waits for one of `places` at least, at most so long; which are ready.
fn wait_for<const N: usize>(
    places: [(BorrowedFd<'_>, PollFlags); N],
    timeout: Option<Duration>,
) -> [bool; N] {
    let mut fds = places.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags));
    let timeout = timeout.map(|time| Timespec {
        tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    });
    // Interrupted by a signal, or out of kernel memory: the caller's loop comes back here.
    let ready = poll(&mut fds, timeout.as_ref()).unwrap_or(0);
    fds.map(|fd| ready > 0 && !fd.revents().is_empty())
}

/// Tells the driver of a queue that it broke.
fn failed<T>(result: Result<T, Broken>, queue: &Queue) -> Result<T, ()> {
    result.map_err(|why| queue.fail(why))
}

impl Handler for Pair {
    fn run(&mut self, stop: &EventFd) {
        let mut broken = false;
        loop {
            let plan = if broken {
                Plan::default()
            } else {
                self.serve().unwrap_or_else(|()| {
                    broken = true;
                    self.take_back();
                    Plan::default()
                })
            };
            // It sleeps now, unless there is more to do.
            if plan.timeout != Some(Duration::ZERO) {
                self.preemption.served(self.shared.counters.of(self.index).bytes());
            }
            if self.wait(&plan, stop) {
                return self.take_back();
            }
        }
    }
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("port_gone", &self.port_gone).finish_non_exhaustive()
    }
}
