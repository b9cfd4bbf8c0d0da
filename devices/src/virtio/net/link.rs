//! The cable as the guest sees it: plugged in or not. The host changes that while the guest runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::virtio::interrupt::Interrupt;

/// Whether a network device has a link: the cable is plugged in, and something is at its other end.
/// Kept by the host over resets of the machine; each device on it tells its driver of changes.
pub struct Link {
    plugged: AtomicBool,
    /// Something is at the other end, as far as the device's workers know.
    carrier: AtomicBool,
    /// Of the driver that listens, if one does. Not locked on the data path.
    interrupt: Mutex<Option<Arc<dyn Interrupt>>>,
}

impl Link {
    /// A cable that is plugged in or not.
    pub fn new(plugged: bool) -> Arc<Self> {
        let (plugged, carrier) = (AtomicBool::new(plugged), AtomicBool::new(true));
        Arc::new(Self { plugged, carrier, interrupt: Mutex::default() })
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
        }
    }

    /// Tells the driver that the status changed.
    pub(super) fn signal(&self) {
        let interrupt = self.interrupt.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(interrupt) = &*interrupt {
            interrupt.signal_config();
        }
    }

    pub(super) fn listen(&self, interrupt: Option<Arc<dyn Interrupt>>) {
        *self.interrupt.lock().unwrap_or_else(PoisonError::into_inner) = interrupt;
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("up", &self.is_up()).finish_non_exhaustive()
    }
}
