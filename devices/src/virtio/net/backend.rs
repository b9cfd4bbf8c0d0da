//! What a network device needs of the host: one end of a cable for each pair of queues.

use std::fmt::Debug;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::buffers::Room;
use super::vhost::Vhost;
use crate::virtio::chain::Chain;

/// The host's side of a network device. It outlives the device: a machine that is reset gets a new
/// device on the same back end.
pub trait Backend: Debug + Send + Sync {
    /// How many pairs of queues it serves, from 1.
    fn pairs(&self) -> u16;

    /// Whether frames carry a virtio-net header, and with it checksums and segmentation left to others.
    fn has_offloads(&self) -> bool;

    /// The end of the cable for pair `pair`, below [`pairs`](Self::pairs).
    ///
    /// # Errors
    ///
    /// The host lacks what it takes.
    fn port(&self, pair: u16) -> io::Result<Box<dyn Port>>;

    /// What can serve pair `pair` in the host's kernel, on the file of its [port](Self::port), if that is to be.
    fn vhost(&self, _pair: u16) -> Option<Arc<dyn Vhost>> {
        None
    }

    /// Sets what received frames may leave undone: bits of
    /// [`GUEST_OFFLOADS`](super::features::GUEST_OFFLOADS).
    ///
    /// # Errors
    ///
    /// The kernel refused; what held before holds on.
    fn set_offloads(&self, offloads: u64) -> io::Result<()>;

    /// Spreads received frames over the first `count` pairs only.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    fn use_pairs(&self, count: u16) -> io::Result<()>;
}

/// One end of a cable, owned by the worker of a pair of queues. Nothing here blocks.
pub trait Port: Send {
    /// Readable when a frame may have come, writable when one may go.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Receives the next frame, header first, into `room`, which holds at least the header; what does
    /// not fit goes to `spill`. Returns the length of both together.
    ///
    /// # Errors
    ///
    /// `WouldBlock` without a frame. All others but `Interrupted` mean that none will come any more.
    fn receive(&mut self, room: &mut Room, spill: &mut [u8]) -> io::Result<usize>;

    /// Sends the readable parts of the first of `frames`, of which there is one at least: each a header
    /// and a frame of [`ETHERNET`](super::header::ETHERNET) to [`MAX_FRAME`](super::header::MAX_FRAME)
    /// bytes. Returns how many, as many as one system call takes: at least one.
    ///
    /// # Errors
    ///
    /// None has been sent: `WouldBlock` when the first cannot go yet. Otherwise it never will.
    fn send(&mut self, frames: &[Chain]) -> io::Result<usize>;

    /// Goes on with a frame that was sent in part; whether nothing is left.
    ///
    /// # Errors
    ///
    /// The other side is gone.
    fn flush(&mut self) -> io::Result<bool> {
        Ok(true)
    }

    /// Whether there is another side. One that is lost may be replaced: see
    /// [`revive`](Self::revive).
    fn is_connected(&self) -> bool {
        true
    }

    /// Readable when a lost other side may have been replaced; none where that cannot be.
    fn revival(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Goes on with what has replaced a lost other side; whether something has.
    fn revive(&mut self) -> bool {
        false
    }
}
