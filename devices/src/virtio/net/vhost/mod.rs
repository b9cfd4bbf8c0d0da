//! Leaving a pair of queues to the host's kernel: its worker takes frames from the tap straight to guest
//! memory and back, on the driver's doorbell, and interrupts the driver by an eventfd.
//!
//! What a kernel offers is [`Vhost`], of which [`VhostNet`] is the real one. What the device's thread still
//! does for such a pair is in [`path`]. Everything else about the device (configuration, control queue,
//! link, offloads) is as without it.

mod kernel;
pub(super) mod path;

use std::fmt::Debug;
use std::io;
use std::os::fd::BorrowedFd;

use vmm_sys_util::eventfd::EventFd;

use crate::memory::GuestMemory;
use crate::virtio::queue::Queue;
use crate::virtio::transport::feature::{EVENT_IDX, INDIRECT_DESC, VERSION_1};

pub use self::kernel::{VhostNet, ioctls};

/// What is said to the kernel of what was negotiated: how rings and headers look. All of it is offered to
/// drivers, so a kernel has to have it all.
const FEATURES: u64 = EVENT_IDX | INDIRECT_DESC | VERSION_1 | super::features::MRG_RXBUF;

/// A queue of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Direction {
    /// To the driver.
    Receive = 0,
    /// From the driver.
    Transmit = 1,
}

/// What a queue is served with.
#[derive(Debug)]
pub struct Ends<'a> {
    /// Its rings and doorbell, and how far it is.
    pub queue: &'a Queue,
    /// Counts interrupts.
    pub call: &'a EventFd,
    /// Counts what the kernel could make nothing of.
    pub error: &'a EventFd,
    /// The tap's file of the pair.
    pub tap: BorrowedFd<'a>,
}

/// A pair of queues in the hands of the host's kernel. Kept by the host over resets of the machine.
pub trait Vhost: Debug + Send + Sync {
    /// Says what lies where in guest memory and what was negotiated. Only while no queue is served.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    fn prepare(&self, memory: &GuestMemory, features: u64) -> io::Result<()>;

    /// Serves a queue from here on, beginning with what is there already.
    ///
    /// # Errors
    ///
    /// The kernel refused; the queue is not served.
    fn start(&self, direction: Direction, ends: &Ends<'_>) -> io::Result<()>;

    /// Has interrupts of a queue counted by `call` instead. Those until now have been counted by the one
    /// before when this returns.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    fn set_call(&self, direction: Direction, call: &EventFd) -> io::Result<()>;

    /// Serves a queue no more: when this returns, neither it nor guest memory is touched any longer.
    /// Returns the index of the next chain to take off the available ring.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    fn stop(&self, direction: Direction) -> io::Result<u16>;
}

#[cfg(test)]
#[path = "vhost_test.rs"]
mod vhost_test;
