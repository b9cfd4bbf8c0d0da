//! The network device (virtio 1.3, 5.1).
//!
//! Each pair of queues has a thread of its own, which moves frames between guest buffers and the
//! host's end of the cable, a [`Backend`]: a [`Tap`] of the host's kernel, or a [`StreamSocket`] to a
//! process such as passt. With [`vhost`] the kernel moves those of a tap, and the thread sees to that. What the driver sets through the control queue is in `state`, shared by
//! those threads; the cable itself is a [`Link`], which the host plugs in and out.
//!
//! Which interface or process is behind a back end, and who opened it, is not known here.

pub mod backend;
mod buffers;
mod control;
mod counters;
pub mod features;
mod filter;
pub mod header;
mod link;
mod moderation;
mod rx;
mod state;
mod stream;
pub mod tap;
mod tx;
pub mod vhost;
mod worker;

use std::io;
use std::sync::Arc;

use super::device::{Activation, DeviceId, RestoreError, VirtioDevice, read_config};
use super::preemption::Preemption;
use super::queue::Queue;
use super::worker::Worker;
use crate::thread::Role;
use crate::token_bucket::SharedLimiter;

use self::control::Control;
use self::filter::Filter;
use self::rx::Receiver;
use self::state::{Settings, Shared, State};
use self::tx::Transmitter;
use self::vhost::path::KernelPath;
use self::worker::Pair;

pub use self::backend::{Backend, Port};
pub use self::buffers::Room;
pub use self::counters::{Counters, Passed};
pub use self::filter::MacAddress;
pub use self::link::Link;
pub use self::stream::StreamSocket;
pub use self::tap::Tap;
pub use self::vhost::{Vhost, VhostNet};

/// Status bits of the configuration space.
const LINK_UP: u16 = 1;
const ANNOUNCE: u16 = 2;
/// Entries of the control queue.
const CONTROL_SIZE: u16 = 64;

/// What a network device is beside its back end.
#[derive(Clone, Debug)]
pub struct Options {
    /// What its threads are called, such as `net0`: at most 12 bytes show.
    pub name: String,
    /// Its address, of one station.
    pub mac: MacAddress,
    /// The MTU it tells the driver, 68 to 65535 bytes.
    pub mtu: Option<u16>,
    /// Entries of each receive and transmit queue, a power of two.
    pub queue_size: u16,
    /// The cable, kept over resets.
    pub link: Arc<Link>,
    /// Bounds frames to the guest: bytes, and frames as operations.
    pub receive_limit: Option<Arc<SharedLimiter>>,
    /// Bounds frames from the guest.
    pub send_limit: Option<Arc<SharedLimiter>>,
}

/// A network device.
#[derive(Debug)]
pub struct Net {
    backend: Arc<dyn Backend>,
    options: Options,
    queue_sizes: Vec<u16>,
    shared: Arc<Shared>,
    workers: Vec<Worker<Pair>>,
    /// Queues the driver enabled without the features they belong to.
    unused: Vec<Queue>,
    /// The settings are the driver's, not those of a reset.
    started: bool,
    /// Restored, and not yet activated.
    restored: bool,
    /// Queues given back by the last `quiesce`.
    paused: Vec<u16>,
}

impl Net {
    /// A device on `backend`.
    pub fn new(backend: Arc<dyn Backend>, options: Options) -> Self {
        let pairs = usize::from(backend.pairs());
        let mut queue_sizes = vec![options.queue_size; 2 * pairs];
        queue_sizes.push(CONTROL_SIZE);
        let shared = Arc::new(Shared::new(
            Arc::clone(&options.link),
            options.receive_limit.clone(),
            options.send_limit.clone(),
            initial(options.mac),
        ));
        Self {
            backend,
            options,
            queue_sizes,
            shared,
            workers: Vec::new(),
            unused: Vec::new(),
            started: false,
            restored: false,
            paused: Vec::new(),
        }
    }

    /// Puts the driver's settings in force: those of before, or a fresh driver's.
    fn apply_settings(&mut self, features: u64) -> io::Result<()> {
        if !std::mem::replace(&mut self.started, true) {
            self.shared.change(|settings| {
                *settings = initial(self.options.mac);
                settings.offloads = features & features::GUEST_OFFLOADS;
                if features & features::CTRL_VLAN != 0 {
                    settings.filter.filter_vlans();
                }
            });
        }
        let (offloads, pairs) = {
            let settings = self.shared.settings();
            // A restored state may be of another driver's than the features.
            let several = features & features::MQ != 0;
            (settings.offloads & features, if several { settings.pairs } else { 1 })
        };
        self.backend.set_offloads(offloads)?;
        self.backend.use_pairs(pairs)
    }

    fn start_pair(
        &mut self,
        pair: u16,
        control: Option<Control>,
        activation: &mut Activation,
    ) -> io::Result<()> {
        let mergeable = activation.has(features::MRG_RXBUF);
        let rx = activation.take_queue(2 * pair);
        let tx = activation.take_queue(2 * pair + 1);
        if rx.is_none() && tx.is_none() && control.is_none() {
            return Ok(());
        }
        let shared = || Arc::clone(&self.shared);
        let port = self.backend.port(pair)?;
        let port_gone = !port.is_connected();
        self.shared.link.set_carrier(!port_gone);
        let path = self.backend.vhost(pair).map(|vhost| {
            let (memory, interrupt) =
                (Arc::clone(&activation.memory), Arc::clone(&activation.interrupt));
            KernelPath::new(vhost, pair, memory, activation.features, interrupt, shared())
        });
        let handler = Pair {
            path: path.transpose()?,
            port,
            rx: rx.map(|queue| Receiver::new(queue, pair, mergeable, shared())),
            tx: tx.map(|queue| Transmitter::new(queue, pair, shared())),
            control,
            shared: shared(),
            index: pair,
            preemption: Preemption::new(),
            port_gone,
            port_empty: false,
        };
        self.workers.push(Worker::start(
            Role::Net,
            format!("{}-{pair}", self.options.name),
            handler,
        )?);
        Ok(())
    }

    fn start(&mut self, mut activation: Activation) -> io::Result<()> {
        let features = activation.features;
        self.apply_settings(features)?;
        let indices: Vec<u16> = activation.queues.iter().map(Queue::index).collect();
        let several = activation.has(features::MQ);
        let pairs = if several { self.backend.pairs() } else { 1 };
        let mut control = None;
        if activation.has(features::CTRL_VQ) {
            let (shared, backend) = (Arc::clone(&self.shared), Arc::clone(&self.backend));
            // Behind the pairs that there are, or that a driver without MQ knows of (5.1.2).
            let queue = activation.take_queue(2 * pairs);
            control = queue.map(|queue| Control::new(queue, shared, backend, features));
        }
        let listens = activation.has(features::STATUS);
        self.shared.link.listen(listens.then(|| Arc::clone(&activation.interrupt)));
        for pair in 0..pairs {
            self.start_pair(pair, control.take(), &mut activation)?;
        }
        self.unused = activation.queues;
        self.announce_after_pause(&indices, features);
        Ok(())
    }

    /// Asks the driver to announce itself, as switches may have forgotten it or know another place.
    fn announce_after_pause(&mut self, queues: &[u16], features: u64) {
        // The same queues again: no driver that resets single ones.
        let resumed = !self.paused.is_empty() && self.paused == queues;
        self.paused.clear();
        let restored = std::mem::take(&mut self.restored);
        let wanted = features::GUEST_ANNOUNCE | features::CTRL_VQ | features::STATUS;
        if (resumed || restored) && features & wanted == wanted {
            self.shared.set_announce(true);
            self.shared.link.signal();
        }
    }
}

/// The settings of a driver that has not set anything.
fn initial(mac: MacAddress) -> Settings {
    Settings { filter: Filter::new(mac), pairs: 1, offloads: 0 }
}

impl VirtioDevice for Net {
    fn id(&self) -> DeviceId {
        DeviceId::Net
    }

    fn features(&self) -> u64 {
        let (offloads, pairs) = (self.backend.has_offloads(), self.backend.pairs());
        features::offered(offloads, self.options.mtu.is_some(), pairs)
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut status = 0;
        if self.shared.link.is_up() {
            status |= LINK_UP;
        }
        if self.shared.announces() {
            status |= ANNOUNCE;
        }
        let mut space = [0; 12];
        space[..6].copy_from_slice(&self.shared.mac());
        space[6..8].copy_from_slice(&status.to_le_bytes());
        space[8..10].copy_from_slice(&self.backend.pairs().to_le_bytes());
        space[10..].copy_from_slice(&self.options.mtu.unwrap_or(0).to_le_bytes());
        read_config(&space, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let started = self.start(activation);
        if started.is_err() {
            // Half a device does not run.
            self.quiesce();
        }
        started
    }

    fn quiesce(&mut self) -> Vec<Queue> {
        let handlers: Vec<_> = self.workers.drain(..).filter_map(Worker::stop).collect();
        let mut queues: Vec<_> = handlers.into_iter().flat_map(Pair::into_queues).collect();
        queues.append(&mut self.unused);
        self.shared.link.listen(None);
        queues.sort_by_key(Queue::index);
        self.paused = queues.iter().map(Queue::index).collect();
        queues
    }

    fn reset(&mut self) {
        (self.started, self.restored) = (false, false);
        self.paused.clear();
        self.shared.link.forget();
        self.shared.set_announce(false);
        self.shared.change(|settings| *settings = initial(self.options.mac));
        // Should the kernel refuse, the next driver's activation fails and says so.
        let _ = self.backend.set_offloads(0);
        let _ = self.backend.use_pairs(1);
    }

    fn save(&self) -> Vec<u8> {
        let settings = self.started.then(|| self.shared.settings().clone());
        State { settings, announce: self.shared.announces() }.bytes()
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), RestoreError> {
        let state = State::read(state, self.backend.pairs(), self.features())?;
        self.started = state.settings.is_some();
        self.restored = self.started;
        if let Some(restored) = state.settings {
            self.shared.change(|settings| *settings = restored);
        }
        self.shared.set_announce(state.announce);
        Ok(())
    }
}

#[cfg(test)]
#[path = "net_test.rs"]
mod net_test;

#[cfg(test)]
#[path = "life_test.rs"]
mod life_test;

#[cfg(test)]
#[path = "steady_test.rs"]
mod steady_test;
