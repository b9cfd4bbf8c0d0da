//! The thread of a pair of queues: waits for frames, doorbells and limits, and serves what is due. The
//! first pair's also serves the control queue.

use std::io;
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
    /// Time to pass, for a rate limit.
    Limit(Duration),
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
    pub port: Box<dyn Port>,
    pub rx: Option<Receiver>,
    pub tx: Option<Transmitter>,
    pub control: Option<Control>,
    pub shared: Arc<Shared>,
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

    fn note(&mut self, wait: Wait, plan: &mut Plan) {
        match wait {
            Wait::Nothing => plan.within(Duration::ZERO),
            Wait::Limit(time) => plan.within(time),
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
        let [rx, tx, control] = queues.map(|queue| {
            queue.map_or(nothing, |queue| (descriptor(queue.doorbell()), PollFlags::IN))
        });
        let places = [(stop, PollFlags::IN), port.unwrap_or(nothing), rx, tx, control];
        let mut fds = places.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags));
        let timeout = plan.timeout.map(|time| Timespec {
            tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        });
        // Interrupted by a signal, or out of kernel memory: the loop comes back here.
        let ready = poll(&mut fds, timeout.as_ref()).unwrap_or(0);
        let rang = fds.map(|fd| ready > 0 && !fd.revents().is_empty());
        for (queue, _) in queues.into_iter().zip(&rang[2..]).filter(|(_, rang)| **rang) {
            let _ = queue.map(|queue| queue.doorbell().read());
        }
        let [stopped, port_ready, ..] = rang;
        self.port_empty &= !port_ready;
        stopped
    }
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
                    Plan::default()
                })
            };
            if self.wait(&plan, stop) {
                return;
            }
        }
    }
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("port_gone", &self.port_gone).finish_non_exhaustive()
    }
}
