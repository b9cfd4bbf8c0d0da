//! Where a function's memory answers: a base address register as the rest of the machine sees it, and the
//! allocator of addresses for the first values of such registers.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Not a multiple of any length.
const NOWHERE: u64 = u64::MAX;

/// The memory behind a base address register. The guest moves it at will; any thread may look where
/// it is, without locks.
#[derive(Debug)]
pub struct Bar {
    len: u64,
    windows: Arc<[Range<u64>]>,
    base: AtomicU64,
}

impl Bar {
    /// Memory of `len` bytes, a power of two from 16 on, that answers nowhere yet and never outside of
    /// `windows`.
    pub fn new(len: u64, windows: Arc<[Range<u64>]>) -> Self {
        Self { len, windows, base: AtomicU64::new(NOWHERE) }
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Never: memory has a length.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it would answer if the register said `address`: nowhere outside of the windows.
    pub(crate) fn answers_at(&self, address: u64) -> Option<u64> {
        let end = address.checked_add(self.len)?;
        let within = |window: &Range<u64>| window.start <= address && end <= window.end;
        self.windows.iter().any(within).then_some(address)
    }

    /// Moves it to `base`, one of [`answers_at`](Self::answers_at).
    pub(crate) fn move_to(&self, base: Option<u64>) {
        self.base.store(base.unwrap_or(NOWHERE), Ordering::SeqCst);
    }

    /// Where it answers.
    pub fn base(&self) -> Option<u64> {
        let base = self.base.load(Ordering::SeqCst);
        (base != NOWHERE).then_some(base)
    }

    /// The offset of an access of `len` bytes that lies wholly within it.
    pub(crate) fn offset(&self, address: u64, len: usize) -> Option<u64> {
        let offset = address.checked_sub(self.base()?)?;
        let end = offset.checked_add(u64::try_from(len).ok()?)?;
        (end <= self.len).then_some(offset)
    }
}

/// Gives out addresses of a window, lowest first.
#[derive(Clone, Debug)]
pub struct BarAllocator {
    free: Range<u64>,
}

impl BarAllocator {
    /// All of `window` is free.
    pub fn new(window: Range<u64>) -> Self {
        Self { free: window }
    }

    /// An address for `len` bytes, a power of two, aligned to them; none if the window is full.
    pub fn allocate(&mut self, len: u64) -> Option<u64> {
        let base = self.free.start.checked_next_multiple_of(len)?;
        let end = base.checked_add(len)?;
        (end <= self.free.end).then(|| {
            self.free.start = end;
            base
        })
    }
}

#[cfg(test)]
#[path = "bar_test.rs"]
mod bar_test;
