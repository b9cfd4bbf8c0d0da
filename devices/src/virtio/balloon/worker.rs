//! Serves the balloon's queues.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::statistics::Statistics;
use super::{Handle, PAGE, feature, release};
use crate::memory::GuestMemory;
use crate::rate_limit::RateLimitedLog;
use crate::virtio::chain::Chain;
use crate::virtio::device::Activation;
use crate::virtio::interrupt::Interrupt;
use crate::virtio::queue::{Broken, Queue};
use crate::virtio::worker::Handler;

/// Most page numbers in one request, and about as many pieces are given back before the device looks
/// whether it is to stop. Linux sends 256.
const MOST_PFNS: usize = 1 << 16;

const STOP: u64 = 0;
const EVENT: u64 = 1;

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Inflate,
    Deflate,
    Statistics,
    Reporting,
    /// Nothing: the driver set up a queue it cannot use.
    Idle,
}

impl Role {
    /// By the specification reports have queue 4 whatever else there is; Linux, up to 6.11 at least,
    /// leaves out the numbers of queues it does not use. Both are told apart by the features alone.
    fn of(index: u16, features: u64) -> Self {
        let has = |feature| features & feature != 0;
        match index {
            0 => Self::Inflate,
            1 => Self::Deflate,
            2 if has(feature::STATS_VQ) => Self::Statistics,
            _ if has(feature::REPORTING) => Self::Reporting,
            _ => Self::Idle,
        }
    }
}

#[derive(Debug)]
struct Served {
    role: Role,
    queue: Queue,
    broken: bool,
}

/// The handler of all queues.
pub(super) struct Serving {
    queues: Vec<Served>,
    chain: Chain,
    memory: Arc<GuestMemory>,
    interrupt: Arc<dyn Interrupt>,
    handle: Arc<Handle>,
    interval: Option<Duration>,
    /// Pages that the driver fills with a value are not to change by being reported.
    poison: bool,
    /// The buffer of the statistics received last, kept until new ones are wanted.
    held: Option<u16>,
    pfns: Vec<u32>,
    epoll: Epoll,
    log: RateLimitedLog,
}

impl Serving {
    pub(super) fn new(
        activation: Activation,
        handle: Arc<Handle>,
        interval: Option<Duration>,
    ) -> io::Result<Self> {
        let Activation { memory, queues, interrupt, features } = activation;
        let epoll = Epoll::new()?;
        let served = |queue: Queue| {
            watch(&epoll, queue.doorbell(), EVENT)?;
            Ok(Served { role: Role::of(queue.index(), features), queue, broken: false })
        };
        let queues = queues.into_iter().map(served).collect::<io::Result<_>>()?;
        watch(&epoll, &handle.target_changed, EVENT)?;
        watch(&epoll, &handle.poll, EVENT)?;
        Ok(Self {
            queues,
            chain: Chain::new(Arc::clone(&memory)),
            memory,
            interrupt,
            handle,
            interval,
            poison: features & feature::PAGE_POISON != 0,
            held: None,
            pfns: Vec::new(),
            epoll,
            log: RateLimitedLog::new(),
        })
    }

    pub(super) fn into_queues(self) -> Vec<Queue> {
        self.queues.into_iter().map(|served| served.queue).collect()
    }

    /// Looks at every queue, for a bounded time.
    fn serve(&mut self) {
        let mut queues = std::mem::take(&mut self.queues);
        for served in queues.iter_mut().filter(|served| !served.broken) {
            if let Err(why) = self.serve_queue(served.role, &mut served.queue) {
                served.queue.fail(why);
                served.broken = true;
            }
        }
        self.queues = queues;
    }

    fn serve_queue(&mut self, role: Role, queue: &mut Queue) -> Result<(), Broken> {
        if role == Role::Statistics {
            return self.receive_statistics(queue);
        }
        let mut pieces = 0;
        while pieces < MOST_PFNS && queue.pop(&mut self.chain)? {
            pieces += match role {
                Role::Inflate => self.inflate()?,
                Role::Reporting => self.report(),
                // Pages that return are there when touched; other queues ask for nothing.
                Role::Deflate | Role::Statistics | Role::Idle => 0,
            };
            // What asks for nothing takes time, too.
            pieces += 16;
            queue.push(self.chain.head(), 0);
        }
        queue.signal();
        if queue.enable_doorbell()? {
            // More has come meanwhile: its turn is after the other queues', and after a stop.
            let _ = queue.doorbell().write(1);
        }
        Ok(())
    }

    /// Gives the pages back that the chain names; how many.
    fn inflate(&mut self) -> Result<usize, Broken> {
        let count = self.chain.readable_len() / 4;
        if count > MOST_PFNS {
            return Err(Broken::Request);
        }
        self.pfns.clear();
        let mut bytes = [0; 1024];
        for first in (0..count).step_by(bytes.len() / 4) {
            let bytes = &mut bytes[..4 * (count - first).min(256)];
            self.chain.read(4 * first, bytes).map_err(|_| Broken::Request)?;
            self.pfns.extend(bytes.as_chunks().0.iter().map(|pfn| u32::from_le_bytes(*pfn)));
        }
        self.pfns.sort_unstable();
        self.pfns.dedup();
        for run in self.pfns.chunk_by(|a, b| a + 1 == *b) {
            let Some(&first) = run.first() else { continue };
            let len = PAGE * run.len() as u64;
            let (inside, result) = release::guest_range(&self.memory, PAGE * u64::from(first), len);
            if inside < len {
                self.complain("the guest put pages into the balloon that it has not");
            }
            if let Err(error) = result {
                self.complain(&format!("pages of the balloon stay in use: {error}"));
            }
        }
        Ok(count)
    }

    /// Gives the pages back that the chain consists of; how many buffers.
    fn report(&self) -> usize {
        // With a fill value, reported pages must keep it (5.5.6.7); those given back read as zeros.
        if self.poison && self.handle.poison.load(Ordering::Acquire) != 0 {
            return 0;
        }
        for buffer in self.chain.writable() {
            if let Err(error) = release::buffer(&self.memory, buffer) {
                self.complain(&format!("free pages stay in use: {error}"));
            }
        }
        self.chain.writable().len()
    }

    /// Takes statistics that have arrived; their buffer is kept.
    fn receive_statistics(&mut self, queue: &mut Queue) -> Result<(), Broken> {
        if self.held.is_none() && queue.pop(&mut self.chain)? {
            self.handle.set_statistics(Some(Statistics::read(&self.chain)));
            self.held = Some(self.chain.head());
        }
        // While a buffer is held, another is no reason to look.
        if queue.enable_doorbell()? && self.held.is_none() {
            let _ = queue.doorbell().write(1);
        }
        Ok(())
    }

    /// Gives the statistics' buffer back, which asks for new ones. Without one they are on their way.
    fn request_statistics(&mut self) {
        let Some(head) = self.held.take() else { return };
        if let Some(queue) = self.statistics_queue() {
            queue.push(head, 0);
            queue.signal();
        }
    }

    fn statistics_queue(&mut self) -> Option<&mut Queue> {
        let served = self.queues.iter_mut().find(|served| served.role == Role::Statistics)?;
        (!served.broken).then_some(&mut served.queue)
    }

    /// Time until the next statistics are due.
    fn wait(&self, due: Option<Instant>) -> i32 {
        let left = due.map(|due| due.saturating_duration_since(Instant::now()));
        // Rounded up, so as not to wake too early and turn around until it is time.
        left.map_or(-1, |left| i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX))
    }

    fn complain(&self, what: &str) {
        if let Some(suppressed) = self.log.admit() {
            tracing::warn!(suppressed, "{what}");
        }
    }
}

impl Handler for Serving {
    fn run(&mut self, stop: &EventFd) {
        if let Err(error) = watch(&self.epoll, stop, STOP) {
            // Not without a way to be stopped.
            tracing::error!("the balloon cannot be served: {error}");
            return self.interrupt.signal_needs_reset();
        }
        let mut due = self.interval.map(|interval| Instant::now() + interval);
        let mut events = [EpollEvent::default(); 8];
        loop {
            self.serve();
            // Interrupted: looked at again.
            let count = self.epoll.wait(self.wait(due), &mut events).unwrap_or(0);
            if events[..count].iter().any(|event| event.data() == STOP) {
                break;
            }
            if self.handle.target_changed.read().is_ok() {
                self.interrupt.signal_config();
            }
            let asked = self.handle.poll.read().is_ok();
            let is_due = due.is_some_and(|due| due <= Instant::now());
            if is_due {
                due = self.interval.map(|interval| Instant::now() + interval);
            }
            if asked || is_due {
                self.request_statistics();
            }
        }
        if self.held.take().is_some()
            && let Some(queue) = self.statistics_queue()
        {
            // The next to serve the queue finds it again.
            queue.undo_pop();
        }
    }
}

/// Edge-triggered: counters need not be read to become quiet.
fn watch(epoll: &Epoll, event: &EventFd, token: u64) -> io::Result<()> {
    let events = EventSet::IN | EventSet::EDGE_TRIGGERED;
    epoll.ctl(ControlOperation::Add, event.as_raw_fd(), EpollEvent::new(events, token))
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving").field("queues", &self.queues).finish_non_exhaustive()
    }
}
