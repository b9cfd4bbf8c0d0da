//! The cable as the guest sees it: plugged in or not. The host changes that while the guest runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::virtio::interrupt::Interrupt;

/// Whether a network device has a link. Kept by the host over resets of the machine; each device
/// on it tells its driver of changes.
#[derive(Default)]
pub struct Link {
    up: AtomicBool,
    /// Of the driver that listens, if one does. Not locked on the data path.
    interrupt: Mutex<Option<Arc<dyn Interrupt>>>,
}

impl Link {
    /// A link that is up or down.
    pub fn new(up: bool) -> Arc<Self> {
        Arc::new(Self { up: AtomicBool::new(up), interrupt: Mutex::default() })
    }

    /// Whether frames pass.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// Plugs the cable in or out, and tells the driver if that is a change.
    pub fn set(&self, up: bool) {
        if self.up.swap(up, Ordering::AcqRel) != up {
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
