//! The interrupts of a virtio function: which MSI-X vector stands for what, and the ISR status.

use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::mutex::lock;
use crate::pci::MsixSignals;
use crate::virtio::interrupt::{Caller, Interrupt};
use crate::virtio::transport::core::{Notifications, isr};

/// No vector (virtio 1.3, 4.1.5.1.2).
pub(super) const NO_VECTOR: u16 = 0xffff;

/// The saved interrupts of a function.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct VectorState {
    config: u16,
    queues: Vec<u16>,
}

/// Who interrupts for a queue without this process.
struct Bound {
    caller: Arc<dyn Caller>,
    /// The vector whose eventfd it has; none: it goes the long way.
    vector: Option<u16>,
}

/// The interrupts of a function.
pub(super) struct PciInterrupt {
    signals: Arc<MsixSignals>,
    config: AtomicU16,
    queues: Box<[AtomicU16]>,
    msix_enabled: AtomicBool,
    notifications: Arc<Notifications>,
    /// By queue; of most devices none.
    callers: Mutex<Vec<Option<Bound>>>,
}

impl PciInterrupt {
    pub fn new(signals: Arc<MsixSignals>, queues: u16, notifications: Arc<Notifications>) -> Self {
        Self {
            signals,
            config: AtomicU16::new(NO_VECTOR),
            queues: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            msix_enabled: AtomicBool::new(false),
            notifications,
            callers: Mutex::default(),
        }
    }

    pub fn config_vector(&self) -> u16 {
        self.config.load(SeqCst)
    }

    /// A vector that does not exist becomes none.
    pub fn set_config_vector(&self, vector: u16) {
        self.config.store(self.existing(vector), SeqCst);
    }

    pub fn queue_vector(&self, queue: u16) -> u16 {
        self.queues.get(usize::from(queue)).map_or(NO_VECTOR, |vector| vector.load(SeqCst))
    }

    pub fn set_queue_vector(&self, queue: u16, vector: u16) {
        if let Some(place) = self.queues.get(usize::from(queue)) {
            place.store(self.existing(vector), SeqCst);
            self.vectors_changed();
        }
    }

    /// Has callers go straight where their vector is open now, and the long way where it is not. When this
    /// returns, none interrupts by a vector that is masked.
    pub fn vectors_changed(&self) {
        for (queue, bound) in (0..).zip(&mut *lock(&self.callers)) {
            if let Some(bound) = bound {
                self.bind(queue, bound);
            }
        }
    }

    fn bind(&self, queue: u16, bound: &mut Bound) {
        let vector = self.queue_vector(queue);
        let event = self.signals.direct(vector);
        let now = event.is_some().then_some(vector);
        if bound.vector != now {
            bound.caller.call_by(event);
            bound.vector = now;
        }
    }

    fn existing(&self, vector: u16) -> u16 {
        if vector < self.signals.count() { vector } else { NO_VECTOR }
    }

    /// Reads the ISR status, which clears it.
    pub fn take_isr(&self) -> u8 {
        let taken = self.notifications.acknowledge(isr::USED_BUFFER | isr::CONFIG_CHANGE);
        taken.to_le_bytes()[0]
    }

    pub fn set_msix_enabled(&self, enabled: bool) {
        self.msix_enabled.store(enabled, SeqCst);
    }

    /// The device has been reset; the ISR status is reset with the device.
    pub fn reset(&self) {
        for vector in self.queues.iter().chain([&self.config]) {
            vector.store(NO_VECTOR, SeqCst);
        }
        self.vectors_changed();
    }

    pub fn save(&self) -> VectorState {
        VectorState {
            config: self.config_vector(),
            queues: self.queues.iter().map(|vector| vector.load(SeqCst)).collect(),
        }
    }

    /// None if the state is one of another number of queues.
    pub fn restore(&self, state: &VectorState) -> Option<()> {
        if state.queues.len() != self.queues.len() {
            return None;
        }
        self.set_config_vector(state.config);
        for (queue, &vector) in (0..).zip(&state.queues) {
            self.set_queue_vector(queue, vector);
        }
        Some(())
    }

    fn send_config_change(&self) {
        self.notifications.raise(isr::CONFIG_CHANGE);
        self.signals.signal(self.config_vector());
    }
}

impl Interrupt for PciInterrupt {
    fn signal_queue(&self, index: u16) {
        // With MSI-X the vector says it all, and the register is left alone (4.1.4.5.1).
        if !self.msix_enabled.load(SeqCst) {
            self.notifications.raise(isr::USED_BUFFER);
        }
        self.signals.signal(self.queue_vector(index));
    }

    fn signal_config(&self) {
        self.notifications.config_changed();
        self.send_config_change();
    }

    fn set_caller(&self, index: u16, caller: Option<Arc<dyn Caller>>) {
        let mut callers = lock(&self.callers);
        let place = usize::from(index);
        if callers.len() <= place {
            callers.resize_with(place + 1, || None);
        }
        callers[place] = caller.map(|caller| {
            let mut bound = Bound { caller, vector: None };
            self.bind(index, &mut bound);
            bound
        });
    }

    fn signal_needs_reset(&self) {
        if self.notifications.needs_reset() {
            self.send_config_change();
        }
    }
}
