//! A descriptor chain, checked from end to end before a device sees it, as two lists of host
//! buffers: what the driver wants read, then what it wants written.
#![allow(unsafe_code)] // Copies from and to guest memory.

use std::sync::Arc;

use vm_memory::{ByteValued, VolatileSlice};

use crate::memory::GuestMemory;

/// One descriptor chain. Reused from request to request, so that popping allocates nothing in
/// the steady state; [`Queue::pop`](super::Queue::pop) fills it.
///
/// A guest can change the bytes at any time, even between two reads of the same place: read
/// whatever is checked once, into memory of your own.
pub struct Chain {
    /// Keeps the mappings behind the buffers.
    pub(super) memory: Arc<GuestMemory>,
    pub(super) head: u16,
    pub(super) buffers: Vec<libc::iovec>,
    pub(super) readable: usize,
    pub(super) readable_len: usize,
    pub(super) writable_len: usize,
}

// SAFETY: the pointers lead into guest RAM, which is kept mapped by `memory` and may be accessed
// from any thread.
unsafe impl Send for Chain {}

/// An access past the end of a chain's readable or writable part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request is shorter than it says")]
pub struct TooShort;

impl Chain {
    /// An empty chain to be filled.
    pub fn new(memory: Arc<GuestMemory>) -> Self {
        Self { memory, head: 0, buffers: Vec::new(), readable: 0, readable_len: 0, writable_len: 0 }
    }

    pub(super) fn clear(&mut self) {
        self.buffers.clear();
        (self.head, self.readable, self.readable_len, self.writable_len) = (0, 0, 0, 0);
    }

    /// Index of the first descriptor: what goes into the used ring.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Host buffers the driver filled. They hold exactly [`readable_len`](Self::readable_len) bytes
    /// of guest RAM, at most [`MAX_BUFFERS`](super::queue::MAX_BUFFERS) buffers of a byte or more together
    /// with the writable ones, and stay mapped as long as the memory of the queue does. Buffers may
    /// overlap each other and the rings.
    pub fn readable(&self) -> &[libc::iovec] {
        &self.buffers[..self.readable]
    }

    /// Host buffers for the device to fill; see [`readable`](Self::readable).
    pub fn writable(&self) -> &[libc::iovec] {
        &self.buffers[self.readable..]
    }

    /// Bytes the driver filled.
    pub fn readable_len(&self) -> usize {
        self.readable_len
    }

    /// Bytes the device may fill.
    pub fn writable_len(&self) -> usize {
        self.writable_len
    }

    /// Copies the readable bytes from `offset` on into all of `to`.
    ///
    /// # Errors
    ///
    /// There are fewer; `to` then holds nothing of use.
    pub fn read(&self, offset: usize, to: &mut [u8]) -> Result<(), TooShort> {
        let mut done = 0;
        for slice in slices(self.readable(), offset, to.len()) {
            let count = slice.copy_to(&mut to[done..]);
            done += count;
        }
        if done == to.len() { Ok(()) } else { Err(TooShort) }
    }

    /// Reads a plain structure at `offset` of the readable bytes.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn read_obj<T: ByteValued>(&self, offset: usize) -> Result<T, TooShort> {
        let mut value = T::zeroed();
        self.read(offset, value.as_mut_slice()).map(|()| value)
    }

    /// Copies all of `from` to the writable bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// There are fewer; as many as there are have been written.
    pub fn write(&self, offset: usize, from: &[u8]) -> Result<(), TooShort> {
        let mut done = 0;
        for slice in slices(self.writable(), offset, from.len()) {
            slice.copy_from(&from[done..done + slice.len()]);
            done += slice.len();
        }
        if done == from.len() { Ok(()) } else { Err(TooShort) }
    }

    /// Writes a plain structure at `offset` of the writable bytes.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn write_obj<T: ByteValued>(&self, offset: usize, value: T) -> Result<(), TooShort> {
        self.write(offset, value.as_slice())
    }
}

/// The pieces of `buffers` that hold `len` bytes from `offset` on, or as many as there are.
pub(super) fn slices(
    buffers: &[libc::iovec],
    mut offset: usize,
    mut len: usize,
) -> impl Iterator<Item = VolatileSlice<'_>> {
    buffers.iter().filter_map(move |buffer| {
        let skip = offset.min(buffer.iov_len);
        offset -= skip;
        let count = (buffer.iov_len - skip).min(len);
        len -= count;
        // SAFETY: within a buffer of mapped guest RAM, accessed volatilely only.
        (count > 0).then(|| unsafe {
            VolatileSlice::new(buffer.iov_base.cast::<u8>().wrapping_add(skip), count)
        })
    })
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain")
            .field("head", &self.head)
            .field("readable_len", &self.readable_len)
            .field("writable_len", &self.writable_len)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "chain_test.rs"]
mod chain_test;
