//! How a device tells its driver that something happened.

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

    /// The driver broke a queue: sets DEVICE_NEEDS_RESET and says so to the driver (virtio 1.3,
    /// 2.1.2). The device does nothing more until it is reset.
    fn signal_needs_reset(&self);
}
