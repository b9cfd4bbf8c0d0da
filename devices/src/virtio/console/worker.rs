//! The one thread of a console device: waits for doorbells, input, room for output and the host's
//! wishes, and looks at every port whenever one of them says something.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::control::Control;
use super::port::{PortInUse, pending};
use super::{Handle, feature};
use crate::virtio::device::Activation;
use crate::virtio::interrupt::Interrupt;
use crate::virtio::queue::Queue;
use crate::virtio::worker::Handler;

/// How long a stop waits for readers of what the guest has written.
const DRAIN: Duration = Duration::from_secs(1);
/// How often to see whether someone has opened a pseudo-terminal: nothing tells.
const ASK: i32 = 500;

/// Numbers of the control queues.
pub(super) const CONTROL: [u16; 2] = [2, 3];

/// Events by token: ports have their numbers.
const STOP: u64 = u64::MAX;
const OTHER: u64 = u64::MAX - 1;

/// The handler of all queues.
pub(super) struct Serving {
    ports: Vec<PortInUse>,
    control: Option<Control>,
    /// Queues that are of no use without VIRTIO_CONSOLE_F_MULTIPORT.
    idle: Vec<Queue>,
    /// Ports that the driver knows of.
    served: usize,
    sized: bool,
    handle: Arc<Handle>,
    interrupt: Arc<dyn Interrupt>,
    epoll: Arc<Epoll>,
}

/// Numbers of the queues of a port, receive and transmit.
pub(super) fn queues_of(port: u16) -> [u16; 2] {
    if port == 0 { [0, 1] } else { [2 * port + 2, 2 * port + 3] }
}

impl Serving {
    pub(super) fn new(
        ports: Vec<PortInUse>,
        mut activation: Activation,
        handle: Arc<Handle>,
    ) -> io::Result<Self> {
        let epoll = Arc::new(Epoll::new()?);
        for queue in &activation.queues {
            watch(&epoll, queue.doorbell(), OTHER)?;
        }
        watch(&epoll, &handle.wake, OTHER)?;
        let multiport = activation.has(feature::MULTIPORT);
        let served = if multiport { ports.len() } else { 1 };
        let mut this = Self {
            ports,
            control: None,
            idle: Vec::new(),
            served,
            sized: activation.has(feature::SIZE),
            handle,
            interrupt: Arc::clone(&activation.interrupt),
            epoll,
        };
        if multiport {
            let [receive, transmit] = CONTROL.map(|index| activation.take_queue(index));
            this.control = Some(Control::new(receive, transmit));
        }
        for (number, port) in (0..).zip(&mut this.ports[..served]) {
            let [receive, transmit] = queues_of(number).map(|index| activation.take_queue(index));
            port.attach(receive, transmit);
            port.host.watch(&this.epoll, number.into())?;
        }
        this.idle = activation.queues;
        Ok(this)
    }

    /// The ports, at rest, and every queue.
    pub(super) fn into_parts(mut self) -> (Vec<PortInUse>, Vec<Queue>) {
        let mut queues = self.idle;
        for port in &mut self.ports {
            port.host.unwatch();
            queues.extend(port.detach());
        }
        queues.extend(self.control.into_iter().flat_map(Control::into_queues));
        (self.ports, queues)
    }

    /// Looks at everything, for a bounded time; true: there is more to do at once.
    fn serve(&mut self) -> bool {
        self.announce_size();
        let mut more = false;
        let size = self.handle.size();
        let ports = &mut self.ports[..self.served];
        let multiport = self.control.is_some();
        if let Some(control) = &mut self.control {
            more |= control.listen(ports, size);
        }
        for port in &mut *ports {
            more |= port.serve(!multiport || port.guest.open);
        }
        if let Some(control) = &mut self.control {
            control.tell(ports, size);
        }
        more
    }

    /// Tells the driver of the terminal's size, if it is new.
    fn announce_size(&mut self) {
        if !self.handle.take_news() || !self.sized {
            return;
        }
        if self.control.is_none() {
            return self.interrupt.signal_config();
        }
        // Ports that are not ready are told the size when they are.
        for port in self.ports.iter_mut().filter(|port| port.console && port.guest.ready) {
            port.guest.pending |= pending::RESIZE;
        }
    }

    /// Waits for events; true: it is time to stop.
    fn wait(&mut self, timeout: i32) -> bool {
        let mut events = [EpollEvent::default(); 16];
        // Interrupted: looked at again.
        let count = self.epoll.wait(timeout, &mut events).unwrap_or(0);
        let mut stop = false;
        let multiport = self.control.is_some();
        for event in &events[..count] {
            stop |= event.data() == STOP;
            let port = usize::try_from(event.data()).ok();
            if let Some(port) = port.and_then(|port| self.ports.get_mut(port)) {
                port.host.look(!multiport || port.guest.open);
            }
        }
        for port in self.ports.iter_mut().filter(|port| port.host.must_be_asked()) {
            port.host.look(true);
        }
        if self.handle.wake.read().is_ok()
            && let Some(port) = self.ports.first_mut()
        {
            self.handle.take_emergency(|byte| port.host.write_byte(byte));
        }
        stop
    }

    /// Writes what the guest has handed over, as far as readers take it within [`DRAIN`].
    fn drain(&mut self) {
        let pausing = self.handle.pausing.load(Ordering::Acquire);
        let deadline = Instant::now() + if pausing { Duration::ZERO } else { DRAIN };
        loop {
            let (mut more, mut unsent) = (false, false);
            for port in &mut self.ports[..self.served] {
                more |= port.send();
                unsent |= port.has_unsent();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !unsent || left.is_zero() {
                return;
            }
            let left = i32::try_from(left.as_millis() + 1).unwrap_or(0);
            self.wait(if more { 0 } else { left });
        }
    }
}

impl Handler for Serving {
    fn run(&mut self, stop: &EventFd) {
        if let Err(error) = watch(&self.epoll, stop, STOP) {
            // Not without a way to be stopped.
            tracing::error!("the console cannot be served: {error}");
            return self.interrupt.signal_needs_reset();
        }
        loop {
            let more = self.serve();
            let ask = self.ports[..self.served].iter().any(|port| port.host.must_be_asked());
            let timeout = match (more, ask) {
                (true, _) => 0,
                (false, true) => ASK,
                (false, false) => -1,
            };
            if self.wait(timeout) {
                break;
            }
        }
        self.drain();
    }
}

/// Edge-triggered: counters need not be read to become quiet.
fn watch(epoll: &Epoll, event: &EventFd, token: u64) -> io::Result<()> {
    let events = EventSet::IN | EventSet::EDGE_TRIGGERED;
    epoll.ctl(ControlOperation::Add, event.as_raw_fd(), EpollEvent::new(events, token))
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving").field("ports", &self.ports).finish_non_exhaustive()
    }
}
