//! How a device tells its driver that something happened, and how often it did.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use vmm_sys_util::eventfd::EventFd;

/// The interrupts of one virtio device. Transports implement it; workers call it from their own
/// threads, without locks.
///
/// Nothing here fails: an interrupt that cannot be delivered is the transport's to report, and the
/// device could do nothing about it.
pub trait Interrupt: Send + Sync {
    /// Buffers of queue `index` have been used.
    fn signal_queue(&self, index: u16);

    /// The configuration space has changed. Call it after the change.
    fn signal_config(&self);

    /// From now on tells `caller` by which eventfd it can interrupt for queue `index` itself, now and whenever
    /// that changes; without one, nobody. Where there is no such way, nobody is told anything.
    fn set_caller(&self, _index: u16, _caller: Option<Arc<dyn Caller>>) {}

    /// The driver broke a queue: sets DEVICE_NEEDS_RESET and says so to the driver (virtio 1.3,
    /// 2.1.2). The device does nothing more until it is reset.
    fn signal_needs_reset(&self);
}

/// Who interrupts for a queue from outside of this process, by eventfds, as a worker of the host's kernel does.
pub trait Caller: Send + Sync {
    /// From now on, interrupt by `event`; without one, by way of [`Interrupt::signal_queue`], as at first.
    /// Interrupts no other way any more when this returns.
    fn call_by(&self, event: Option<&EventFd>);
}

/// How often a device has interrupted its driver, masked or not; without those of a [`Caller`] that went straight. Kept by the host over resets of the machine.
#[derive(Debug, Default)]
pub struct InterruptCounts {
    /// Made once it is known how many queues there are.
    queues: OnceLock<Box<[AtomicU64]>>,
    config: AtomicU64,
}

impl InterruptCounts {
    /// For each queue; nothing before there was a device.
    pub fn queues(&self) -> Vec<u64> {
        let counts = self.queues.get().map_or(&[][..], |queues| queues);
        counts.iter().map(|count| count.load(Relaxed)).collect()
    }

    /// For what is not of a queue: changes of the configuration, and that the device was broken.
    pub fn config(&self) -> u64 {
        self.config.load(Relaxed)
    }
}

/// Interrupts that are counted on their way.
pub(super) struct Counted {
    interrupt: Arc<dyn Interrupt>,
    counts: Arc<InterruptCounts>,
}

impl Counted {
    /// Counts those of a device with so many queues.
    pub fn new(interrupt: Arc<dyn Interrupt>, counts: Arc<InterruptCounts>, queues: usize) -> Self {
        counts.queues.get_or_init(|| (0..queues).map(|_| AtomicU64::new(0)).collect());
        Self { interrupt, counts }
    }
}

impl Interrupt for Counted {
    fn signal_queue(&self, index: u16) {
        let queues = self.counts.queues.get();
        if let Some(count) = queues.and_then(|queues| queues.get(usize::from(index))) {
            count.fetch_add(1, Relaxed);
        }
        self.interrupt.signal_queue(index);
    }

    fn signal_config(&self) {
        self.counts.config.fetch_add(1, Relaxed);
        self.interrupt.signal_config();
    }

    fn set_caller(&self, index: u16, caller: Option<Arc<dyn Caller>>) {
        self.interrupt.set_caller(index, caller);
    }

    fn signal_needs_reset(&self) {
        self.counts.config.fetch_add(1, Relaxed);
        self.interrupt.signal_needs_reset();
    }
}

#[cfg(test)]
mod interrupt_test {
    use super::*;

    /// Counts itself what arrives.
    #[derive(Default)]
    struct Line(AtomicU64);

    impl Interrupt for Line {
        fn signal_queue(&self, _: u16) {
            self.0.fetch_add(1, Relaxed);
        }

        fn signal_config(&self) {
            self.0.fetch_add(100, Relaxed);
        }

        fn signal_needs_reset(&self) {
            self.0.fetch_add(10_000, Relaxed);
        }
    }

    #[test]
    fn interrupts_are_counted_by_queue_passed_on_and_kept_over_resets() {
        let (line, counts) = (Arc::new(Line::default()), Arc::new(InterruptCounts::default()));
        assert_eq!(counts.queues(), [0; 0]);
        for _ in 0..2 {
            let counted = Counted::new(line.clone(), Arc::clone(&counts), 2);
            counted.signal_queue(1);
            counted.signal_queue(7);
            counted.signal_config();
            counted.signal_needs_reset();
        }
        assert_eq!((counts.queues(), counts.config()), (vec![0, 2], 4));
        assert_eq!(line.0.load(Relaxed), 2 * (2 + 100 + 10_000));
    }
}
