//! Virtio devices (virtio 1.3, modern only, split rings) and the two transports that carry them.
//!
//! A device implements [`VirtioDevice`] and knows no transport; a transport knows no device. Both
//! meet in [`transport::Core`], the one state machine of status, features and queues. Between
//! activation and [quiesce](VirtioDevice::quiesce) a device's queues belong to its
//! [workers](worker), which lock nothing that vCPUs share.

pub mod balloon;
pub mod block;
pub mod chain;
pub mod console;
pub mod device;
pub mod interrupt;
pub mod net;
mod preemption;
pub mod queue;
pub mod rng;
pub mod transport;
mod trials;
pub mod vsock;
pub mod worker;

#[cfg(any(test, feature = "test-utils"))]
pub mod test_driver;

pub use chain::Chain;
pub use device::{Activation, DeviceId, RestoreError, VirtioDevice};
pub use interrupt::Interrupt;
pub use queue::{Broken, Queue};
