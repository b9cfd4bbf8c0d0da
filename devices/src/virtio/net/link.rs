//! The cable as the guest sees it: plugged in or not, and what has passed. The host changes the former
//! while the guest runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use super::counters::Counters;
use crate::mutex::lock;
use crate::virtio::interrupt::Interrupt;

/// Whether a network device has a link: the cable is plugged in, and something is at its other end.
/// Kept by the host over resets of the machine; each device on it tells its driver of changes.
pub struct Link {
    plugged: AtomicBool,
    /// Something is at the other end, as far as the device's workers know.
    carrier: AtomicBool,
    /// The driver that listens, if one does. Not locked on the data path.
    driver: Mutex<Driver>,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Driver {
    interrupt: Option<Arc<dyn Interrupt>>,
    /// Ring at changes.
    watchers: Vec<Arc<EventFd>>,
    /// Something has changed while nobody listened.
    missed: bool,
}

impl Link {
    /// A cable that is plugged in or not.
    pub fn new(plugged: bool) -> Arc<Self> {
        let (plugged, carrier) = (AtomicBool::new(plugged), AtomicBool::new(true));
        Arc::new(Self { plugged, carrier, driver: Mutex::default(), counters: Arc::default() })
    }

    /// What has passed and what was dropped since the cable was made.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Whether frames pass.
    pub fn is_up(&self) -> bool {
        self.plugged.load(Ordering::Acquire) && self.carrier.load(Ordering::Acquire)
    }

    /// Plugs the cable in or out, and tells the driver if that is a change.
    pub fn set(&self, plugged: bool) {
        self.change(&self.plugged, plugged);
    }

    /// Notes whether anything is at the other end, and tells the driver if that is a change.
    pub(super) fn set_carrier(&self, carrier: bool) {
        self.change(&self.carrier, carrier);
    }

    fn change(&self, what: &AtomicBool, to: bool) {
        if what.swap(to, Ordering::AcqRel) != to {
            self.signal();
            for watcher in &lock(&self.driver).watchers {
                // A counter that is full has rung already.
                let _ = watcher.write(1);
            }
        }
    }

    /// Rings `event` at every change until nobody [listens](Self::listen) any more.
    pub(super) fn watch(&self, event: Arc<EventFd>) {
        lock(&self.driver).watchers.push(event);
    }

    /// Tells the driver that the status changed.
    pub(super) fn signal(&self) {
        let mut driver = lock(&self.driver);
        match &driver.interrupt {
            Some(interrupt) => interrupt.signal_config(),
            None => driver.missed = true,
        }
    }

    /// From now on, `interrupt` is told of changes, and of those that nobody was told of.
    pub(super) fn listen(&self, interrupt: Option<Arc<dyn Interrupt>>) {
        let mut driver = lock(&self.driver);
        if let Some(interrupt) = &interrupt
            && std::mem::take(&mut driver.missed)
        {
            interrupt.signal_config();
        }
        driver.interrupt = interrupt;
        driver.watchers.clear();
    }

    /// The next driver to listen asks for itself how the link is.
    pub(super) fn forget(&self) {
        lock(&self.driver).missed = false;
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("up", &self.is_up()).finish_non_exhaustive()
    }
}
