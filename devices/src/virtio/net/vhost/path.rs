//! What the thread of a pair of queues does where the host's kernel moves the frames: starts and stops it as
//! the cable is plugged in and out, passes its interrupts on where they cannot go straight to the guest, and
//! tells the driver of a queue that the kernel could make nothing of.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use super::{Direction, Ends, Vhost};
use crate::memory::GuestMemory;
use crate::mutex::lock;
use crate::virtio::interrupt::{Caller, Interrupt};
use crate::virtio::net::state::Shared;
use crate::virtio::queue::{Broken, Queue};

/// The queues of a pair, receiving first.
pub(in super::super) type Queues<'a> = [Option<&'a mut Queue>; 2];

/// Where interrupts of one queue go.
struct Call {
    vhost: Arc<dyn Vhost>,
    direction: Direction,
    /// The long way: counts for this thread.
    own: EventFd,
    /// The queue is served.
    started: Mutex<bool>,
}

impl Caller for Call {
    fn call_by(&self, event: Option<&EventFd>) {
        let started = lock(&self.started);
        // Fails for no reason that there could be; interrupts then go the way they went.
        if *started
            && let Err(error) = self.vhost.set_call(self.direction, event.unwrap_or(&self.own))
        {
            tracing::error!("net: interrupts by vhost cannot be moved: {error}");
        }
    }
}

/// A pair of queues that the host's kernel can serve.
pub(in super::super) struct KernelPath {
    vhost: Arc<dyn Vhost>,
    pair: u16,
    memory: Arc<GuestMemory>,
    features: u64,
    interrupt: Arc<dyn Interrupt>,
    shared: Arc<Shared>,
    calls: [Arc<Call>; 2],
    /// Counts what the kernel could make nothing of, in either queue.
    error: EventFd,
    /// Counts changes of the link.
    changed: Arc<EventFd>,
    /// How the link was when it was last looked at.
    link_was_up: Option<bool>,
    /// The kernel serves those queues that there are.
    running: bool,
}

impl KernelPath {
    /// The pair `pair` of an active device.
    pub(in super::super) fn new(
        vhost: Arc<dyn Vhost>,
        pair: u16,
        memory: Arc<GuestMemory>,
        features: u64,
        interrupt: Arc<dyn Interrupt>,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let event = || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        let call = |direction| {
            let (vhost, own, started) = (Arc::clone(&vhost), event()?, Mutex::new(false));
            Ok::<_, io::Error>(Arc::new(Call { vhost, direction, own, started }))
        };
        let calls = [call(Direction::Receive)?, call(Direction::Transmit)?];
        let changed = Arc::new(event()?);
        shared.link.watch(Arc::clone(&changed));
        let error = event()?;
        Ok(Self {
            vhost,
            pair,
            memory,
            features,
            interrupt,
            shared,
            calls,
            error,
            changed,
            link_was_up: None,
            running: false,
        })
    }

    /// Whether the kernel serves the queues.
    pub(in super::super) fn is_running(&self) -> bool {
        self.running
    }

    /// Rings when the link changes.
    pub(in super::super) fn changed(&self) -> &EventFd {
        &self.changed
    }

    /// Rings when [`relay`](Self::relay) is to be called.
    pub(in super::super) fn events(&self) -> [&EventFd; 3] {
        let [receive, transmit] = &self.calls;
        [&self.error, &receive.own, &transmit.own]
    }

    /// Whether the link is another than when it was last looked at: then the kernel is to be started or stopped.
    pub(in super::super) fn is_due(&self) -> bool {
        self.link_was_up != Some(self.shared.link.is_up())
    }

    /// Starts the kernel, given the file of the tap, or stops it, as the link has it: this process drops the
    /// frames of a cable that is not plugged in.
    ///
    /// # Errors
    ///
    /// The driver broke a queue, as shows when it is taken back.
    pub(in super::super) fn adjust(
        &mut self,
        queues: &mut Queues<'_>,
        tap: BorrowedFd<'_>,
    ) -> Result<(), Broken> {
        let up = self.shared.link.is_up();
        self.link_was_up = Some(up);
        match (up, self.running) {
            (true, false) => self.start(queues, tap),
            (false, true) => self.stop(queues),
            _ => Ok(()),
        }
    }

    /// Has the kernel serve; this process does if it will not.
    fn start(&mut self, queues: &mut Queues<'_>, tap: BorrowedFd<'_>) -> Result<(), Broken> {
        let Err(error) = self.try_start(queues, tap) else { return Ok(()) };
        if let Some(suppressed) = self.shared.log.admit() {
            tracing::error!(
                suppressed,
                "net: vhost cannot serve pair {} of queues, so this process does: {error}",
                self.pair
            );
        }
        self.stop(queues)
    }

    fn try_start(&mut self, queues: &mut Queues<'_>, tap: BorrowedFd<'_>) -> io::Result<()> {
        self.vhost.prepare(&self.memory, self.features)?;
        self.running = true;
        for (call, queue) in self.calls.iter().zip(queues) {
            let Some(queue) = queue else { continue };
            let ends = Ends { queue, call: &call.own, error: &self.error, tap };
            self.vhost.start(call.direction, &ends)?;
            *lock(&call.started) = true;
            let caller: Arc<dyn Caller> = call.clone();
            self.interrupt.set_caller(queue.index(), Some(caller));
        }
        Ok(())
    }

    /// Takes the queues back from the kernel.
    pub(in super::super) fn stop(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        self.running = false;
        let mut result = Ok(());
        for (call, queue) in self.calls.iter().zip(queues) {
            let Some(queue) = queue else { continue };
            if !*lock(&call.started) {
                continue;
            }
            self.interrupt.set_caller(queue.index(), None);
            *lock(&call.started) = false;
            let stopped = self.vhost.stop(call.direction).map_err(|error| {
                tracing::error!("net: vhost cannot be stopped: {error}");
                Broken::Vhost
            });
            // The last interrupts.
            self.pass_on(call, queue);
            result = result.and(stopped.and_then(|next| queue.carry_on_from(next)));
        }
        result.and(self.errors())
    }

    /// Tells the driver that it broke a queue.
    pub(in super::super) fn fail(&self, why: Broken) {
        tracing::debug!(pair = self.pair, "device needs a reset: {why}");
        self.interrupt.signal_needs_reset();
    }

    /// Passes interrupts on.
    ///
    /// # Errors
    ///
    /// [`Broken::Vhost`] if the kernel met something that it could not make anything of.
    pub(in super::super) fn relay(&self, queues: &Queues<'_>) -> Result<(), Broken> {
        if !self.running {
            return Ok(());
        }
        for (call, queue) in self.calls.iter().zip(queues) {
            if let Some(queue) = queue {
                self.pass_on(call, queue);
            }
        }
        self.errors()
    }

    fn errors(&self) -> Result<(), Broken> {
        if self.error.read().is_ok() { Err(Broken::Vhost) } else { Ok(()) }
    }

    fn pass_on(&self, call: &Call, queue: &Queue) {
        if call.own.read().is_ok() {
            self.interrupt.signal_queue(queue.index());
        }
    }
}

impl Drop for KernelPath {
    /// However the thread ends, the kernel must not go on: what is at those addresses may be something else
    /// by then.
    fn drop(&mut self) {
        for call in &self.calls {
            if std::mem::take(&mut *lock(&call.started)) {
                let _ = self.vhost.stop(call.direction);
            }
        }
    }
}
