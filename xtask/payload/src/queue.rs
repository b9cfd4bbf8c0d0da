//! The driver's side of a split virtqueue (virtio 1.3, 2.7) that is polled: interrupts are never asked for. Chains are
//! set up once, as a disk driver's or network driver's buffers lie where they lie, and offered again and again.

use core::sync::atomic::{AtomicU16, Ordering, fence};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// A buffer of a chain.
#[derive(Clone, Copy)]
pub struct Buffer {
    /// Where it is.
    pub address: usize,
    /// Bytes.
    pub len: u32,
    /// Whether the device fills it.
    pub device_writes: bool,
}

/// A queue; its rings take three pages of 4 KiB, or fewer.
pub struct Queue {
    index: u16,
    size: u16,
    desc: usize,
    avail: usize,
    used: usize,
    notify: *mut u32,
    event_idx: bool,
    /// Chains offered so far, of which the device can see those up to `published`.
    offered: u16,
    published: u16,
    seen: u16,
}

impl Queue {
    /// A queue with rings in the three pages from `memory` on, at most 256 entries.
    pub fn new(index: u16, size: u16, memory: usize, notify: *mut u32, event_idx: bool) -> Self {
        let queue = Self {
            index,
            size,
            desc: memory,
            avail: memory + 0x1000,
            used: memory + 0x2000,
            notify,
            event_idx,
            offered: 0,
            published: 0,
            seen: 0,
        };
        // SAFETY: the three pages are the queue's.
        unsafe { core::ptr::write_bytes(memory as *mut u8, 0, 0x3000) };
        queue.avail_flags().store(if event_idx { 0 } else { NO_INTERRUPT }, Ordering::Relaxed);
        queue.refuse_interrupts();
        queue
    }

    /// Descriptor table, available ring, used ring.
    pub fn addresses(&self) -> [u64; 3] {
        [self.desc, self.avail, self.used].map(|address| address as u64)
    }

    /// Writes a chain into the descriptors from `head` on.
    pub fn describe(&mut self, head: u16, buffers: &[Buffer]) {
        for (at, buffer) in buffers.iter().enumerate() {
            let number = head + at as u16;
            let more = at + 1 < buffers.len();
            let flags = if more { NEXT } else { 0 } | if buffer.device_writes { WRITE } else { 0 };
            let words = [
                buffer.address as u64,
                u64::from(buffer.len) | u64::from(flags) << 32 | u64::from(number + 1) << 48,
            ];
            // SAFETY: within the table.
            unsafe {
                ((self.desc + 16 * usize::from(number)) as *mut [u64; 2]).write_volatile(words)
            };
        }
    }

    /// Offers a chain; the device sees it by [`kick`](Self::kick).
    pub fn offer(&mut self, head: u16) {
        let slot = usize::from(self.offered % self.size);
        // SAFETY: within the ring.
        unsafe { ((self.avail + 4 + 2 * slot) as *mut u16).write_volatile(head) };
        self.offered = self.offered.wrapping_add(1);
    }

    /// Shows the device what was offered and rings the doorbell if it wants that.
    pub fn kick(&mut self) {
        let old = core::mem::replace(&mut self.published, self.offered);
        if old == self.published {
            return;
        }
        self.u16_at(self.avail + 2).store(self.published, Ordering::Release);
        fence(Ordering::SeqCst);
        let wanted = if self.event_idx {
            let event =
                self.u16_at(self.used + 4 + 8 * usize::from(self.size)).load(Ordering::Relaxed);
            self.published.wrapping_sub(event).wrapping_sub(1) < self.published.wrapping_sub(old)
        } else {
            self.u16_at(self.used).load(Ordering::Relaxed) & NO_NOTIFY == 0
        };
        if wanted {
            // SAFETY: the device's register.
            unsafe { self.notify.write_volatile(self.index.into()) };
        }
    }

    /// A chain that the device is through with: its head and how much was written to it.
    pub fn take(&mut self) -> Option<(u16, u32)> {
        if self.u16_at(self.used + 2).load(Ordering::Acquire) == self.seen {
            return None;
        }
        let slot = usize::from(self.seen % self.size);
        // SAFETY: within the ring.
        let [head, len] =
            unsafe { ((self.used + 4 + 8 * slot) as *const [u32; 2]).read_volatile() };
        self.seen = self.seen.wrapping_add(1);
        self.refuse_interrupts();
        Some((head as u16, len))
    }

    /// Moves the index at which an interrupt is wanted to one that has passed.
    fn refuse_interrupts(&self) {
        if self.event_idx {
            let event = self.u16_at(self.avail + 4 + 2 * usize::from(self.size));
            event.store(self.seen.wrapping_sub(1), Ordering::Relaxed);
        }
    }

    fn avail_flags(&self) -> &AtomicU16 {
        self.u16_at(self.avail)
    }

    fn u16_at(&self, address: usize) -> &AtomicU16 {
        // SAFETY: a field of the rings, aligned.
        unsafe { AtomicU16::from_ptr(address as *mut u16) }
    }
}
