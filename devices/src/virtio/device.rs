//! What a virtio device is to a transport.

use std::io;
use std::sync::Arc;

use super::interrupt::Interrupt;
use super::queue::Queue;
use crate::memory::GuestMemory;

/// Device types (virtio 1.3, 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
#[allow(missing_docs)]
pub enum DeviceId {
    Net = 1,
    Block = 2,
    Console = 3,
    Entropy = 4,
    Balloon = 5,
    Vsock = 19,
}

/// A device that has been taken over by a driver: everything its data path needs.
pub struct Activation {
    /// Guest RAM.
    pub memory: Arc<GuestMemory>,
    /// The queues the driver enabled, in order. Not necessarily all the device has: drivers leave
    /// queues out, and reset single ones (VIRTIO_F_RING_RESET).
    pub queues: Vec<Queue>,
    /// How the guest is told.
    pub interrupt: Arc<dyn Interrupt>,
    /// Features both sides agreed on, the transport's own included.
    pub features: u64,
}

impl Activation {
    /// Takes queue `index` out, if the driver enabled it.
    pub fn take_queue(&mut self, index: u16) -> Option<Queue> {
        let at = self.queues.iter().position(|queue| queue.index() == index)?;
        Some(self.queues.remove(at))
    }

    /// Whether all bits of `feature` were agreed on.
    pub fn has(&self, feature: u64) -> bool {
        self.features & feature == feature
    }
}

/// Why a saved state was refused.
#[derive(Debug, thiserror::Error)]
#[error("the saved state of the {device} device cannot be used: {reason}")]
pub struct RestoreError {
    /// Which device.
    pub device: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

/// A virtio device.
///
/// The transport calls these methods under its own lock, from vCPU threads and from the main
/// thread, and never while the data path needs them: workers own what they work with.
///
/// Life: `activate`, then `quiesce`, then either `activate` again (resume after a pause, change of
/// the set of queues: nothing may be lost or done twice) or `reset` (the driver starts over).
pub trait VirtioDevice: Send {
    /// Its type.
    fn id(&self) -> DeviceId;

    /// Feature bits of the device type it offers; the transport adds its own.
    fn features(&self) -> u64;

    /// The largest size of each queue, powers of two.
    fn queue_sizes(&self) -> &[u16];

    /// Reads `data.len()` bytes of the configuration space at `offset`, which the guest chose:
    /// bytes past the end read as zero. See [`read_config`].
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes to the configuration space; whatever is not writable ignores it.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// Starts serving the queues: any number of them, none included. A queue may already hold requests whose doorbell will not ring
    /// again: every queue is looked at once unasked.
    ///
    /// # Errors
    ///
    /// The host lacks what it takes (threads, descriptors, memory); the device then needs a reset.
    fn activate(&mut self, activation: Activation) -> io::Result<()>;

    /// Stops serving: waits, bounded in time, for what is in flight, and gives back every queue
    /// that `activate` was given, those it had no use for included: one that is missing makes the
    /// device need a reset. A device that is not active gives none; one whose `activate` failed,
    /// those it still has.
    fn quiesce(&mut self) -> Vec<Queue>;

    /// [`quiesce`](Self::quiesce) for a pause, which the guest is to notice as little of as can be: what
    /// need not be done now is done afterwards.
    fn pause(&mut self) -> Vec<Queue> {
        self.quiesce()
    }

    /// Forgets everything the driver told it. Only called when quiesced.
    fn reset(&mut self);

    /// What a device of the same configuration needs to carry on where this one, quiesced, stopped;
    /// queues aside.
    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Carries on from what [`save`](Self::save) gave; called before `activate`. The state is
    /// untrusted input.
    ///
    /// # Errors
    ///
    /// It is not a state of such a device.
    fn restore(&mut self, _state: &[u8]) -> Result<(), RestoreError> {
        Ok(())
    }
}

/// Serves a read of a configuration space that consists of `space`: what lies behind it is zero.
pub fn read_config(space: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let from = usize::try_from(offset).ok().and_then(|offset| space.get(offset..));
    for (to, from) in data.iter_mut().zip(from.unwrap_or_default()) {
        *to = *from;
    }
}
