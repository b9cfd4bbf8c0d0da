//! Flow control of one stream, both ways (virtio 1.3, 5.10.6.3): counters that run freely through
//! all of 32 bits.

use super::packet::Header;

/// The counters of one stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Credit {
    /// Bytes we hold for the guest at most.
    buf_alloc: u32,
    /// The guest's bytes that we have passed on.
    fwd_cnt: u32,
    /// What we last told the guest of `fwd_cnt`.
    told: u32,
    /// Bytes sent to the guest.
    tx_cnt: u32,
    peer_buf_alloc: u32,
    peer_fwd_cnt: u32,
}

impl Credit {
    /// A new stream, for which we keep `buf_alloc` bytes of room.
    pub(super) fn new(buf_alloc: u32) -> Self {
        Self { buf_alloc, fwd_cnt: 0, told: 0, tx_cnt: 0, peer_buf_alloc: 0, peer_fwd_cnt: 0 }
    }

    /// Room we keep, in bytes.
    pub(super) fn buf_alloc(&self) -> u32 {
        self.buf_alloc
    }

    /// Takes what the guest says of its room, in any packet.
    pub(super) fn hear(&mut self, header: &Header) {
        (self.peer_buf_alloc, self.peer_fwd_cnt) = (header.buf_alloc, header.fwd_cnt);
    }

    /// Says in `header` how much room we have.
    pub(super) fn tell(&mut self, header: &mut Header) {
        (header.buf_alloc, header.fwd_cnt) = (self.buf_alloc, self.fwd_cnt);
        self.told = self.fwd_cnt;
    }

    /// Bytes that may be sent to the guest now. Counters that make no sense are no room.
    pub(super) fn peer_free(&self) -> u32 {
        let in_flight = self.tx_cnt.wrapping_sub(self.peer_fwd_cnt);
        self.peer_buf_alloc.saturating_sub(in_flight)
    }

    /// Counts `len` bytes sent to the guest.
    pub(super) fn sent(&mut self, len: u32) {
        self.tx_cnt = self.tx_cnt.wrapping_add(len);
    }

    /// Whether the guest may send `len` bytes while we hold `buffered`.
    pub(super) fn allows(&self, buffered: usize, len: u32) -> bool {
        buffered as u64 + u64::from(len) <= u64::from(self.buf_alloc)
    }

    /// Counts `len` bytes of the guest's passed on.
    pub(super) fn forwarded(&mut self, len: u32) {
        self.fwd_cnt = self.fwd_cnt.wrapping_add(len);
    }

    /// Whether the guest believes that half of our room, or more, is taken which is not: it may
    /// be waiting.
    pub(super) fn owes_update(&self) -> bool {
        self.fwd_cnt.wrapping_sub(self.told) >= self.buf_alloc / 2
    }

    /// All counters of both sides as if `bytes` had gone each way.
    #[cfg(test)]
    pub(super) fn advance(&mut self, bytes: u32) {
        self.fwd_cnt = self.fwd_cnt.wrapping_add(bytes);
        self.told = self.told.wrapping_add(bytes);
        self.tx_cnt = self.tx_cnt.wrapping_add(bytes);
        self.peer_fwd_cnt = self.peer_fwd_cnt.wrapping_add(bytes);
    }
}

#[cfg(test)]
#[path = "credit_test.rs"]
mod credit_test;
