//! A split virtqueue in use (virtio 1.3, 2.7): takes chains off the available ring, puts them on the
//! used ring, and keeps notifications in both directions as few as the protocol allows.
//!
//! Set-up and its checks are [`virtio_queue`]'s; from activation on this file works on the rings
//! itself, through host addresses looked up once. Reasons, in `docs/adr/0009-own-ring-access.md`: every
//! malformed ring is an error (the library's iterators end silently), several used buffers can be
//! published at once, and no address is translated twice.
#![allow(unsafe_code)] // Rings in guest memory.

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering, fence};

use virtio_queue::{QueueState, QueueT};
use vm_memory::{GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::EventFd;

use super::chain::Chain;
use super::interrupt::Interrupt;
use crate::memory::GuestMemory;

/// Most buffers in a chain, indirect ones included: what one vectored system call takes (IOV_MAX).
pub const MAX_BUFFERS: usize = 1024;

const DESC_NEXT: u16 = 1;
const DESC_WRITE: u16 = 2;
const DESC_INDIRECT: u16 = 4;
const DESC_SIZE: usize = size_of::<Descriptor>();

/// One descriptor as it lies in a table, little endian; indirect tables may lie anywhere.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

const AVAIL_NO_INTERRUPT: u16 = 1;
const USED_NO_NOTIFY: u16 = 1;

/// The driver broke the protocol: the device must be reset (virtio 1.3, 2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// Rings outside memory, misaligned, overlapping, or of an impossible size.
    #[error("the rings are not where rings can be")]
    Rings,
    /// More chains with the device than the ring has room for, or fewer than it has taken already.
    #[error("the available index jumped")]
    AvailIndex,
    /// A descriptor index past the table.
    #[error("a descriptor index is past the table")]
    DescriptorIndex,
    /// A chain that is endless, or longer than [`MAX_BUFFERS`].
    #[error("a chain has too many descriptors")]
    ChainLength,
    /// A buffer that is empty, not wholly in RAM, or makes the chain longer than 4 GiB.
    #[error("a buffer is not memory")]
    Buffer,
    /// A readable buffer behind a writable one.
    #[error("a readable buffer follows a writable one")]
    Order,
    /// An indirect table that is empty, ragged, nested, continued or not wholly in RAM.
    #[error("an indirect table is malformed")]
    Indirect,
    /// What the device was asked to do makes no sense in a way that no reply can tell.
    #[error("a request is malformed")]
    Request,
    /// The host's kernel, which serves the queue, could make nothing of what it found there.
    #[error("the host's kernel cannot serve it any more")]
    Vhost,
}

/// One queue of an active device, owned by whoever serves it.
pub struct Queue {
    index: u16,
    max_size: u16,
    size: u16,
    event_idx: bool,
    addresses: [u64; 3],
    desc: *const u8,
    avail: *mut u8,
    used: *mut u8,
    next_avail: u16,
    next_used: u16,
    /// Value of `next_used` when the driver was last told.
    signalled: u16,
    memory: Arc<GuestMemory>,
    doorbell: Arc<EventFd>,
    interrupt: Arc<dyn Interrupt>,
}

// SAFETY: the pointers lead into guest RAM, kept mapped by `memory`, which any thread may access.
unsafe impl Send for Queue {}

impl Queue {
    /// The queue that the driver set up as `state`. `doorbell` is readable when the driver has
    /// made buffers available.
    ///
    /// # Errors
    ///
    /// [`Broken::Rings`]; [`Broken::AvailIndex`] if the indices cannot be those of one queue.
    pub fn new(
        index: u16,
        state: &QueueState,
        memory: Arc<GuestMemory>,
        doorbell: Arc<EventFd>,
        interrupt: Arc<dyn Interrupt>,
    ) -> Result<Self, Broken> {
        let checked = virtio_queue::Queue::try_from(*state).map_err(|_| Broken::Rings)?;
        let size = usize::from(checked.size());
        // Flags, index, ring and event index of either side.
        let rings = [
            (state.desc_table, DESC_SIZE * size),
            (state.avail_ring, 6 + 2 * size),
            (state.used_ring, 6 + 8 * size),
        ];
        for (i, &(start, len)) in rings.iter().enumerate() {
            let ends_before = |&(other, other_len): &(u64, usize)| {
                start.checked_add(len as u64).is_some_and(|end| end <= other)
                    || other.checked_add(other_len as u64).is_some_and(|end| end <= start)
            };
            if !rings.iter().enumerate().all(|(j, other)| i == j || ends_before(other)) {
                return Err(Broken::Rings);
            }
        }
        let [desc, avail, used] =
            rings.map(|(start, len)| host(&memory, start, len).ok_or(Broken::Rings));
        let (desc, avail, used) = (desc?, avail?, used?);
        // Guest addresses are aligned, checked above; host ones are if regions begin at pages.
        if !avail.cast::<u16>().is_aligned() || !used.cast::<u32>().is_aligned() {
            return Err(Broken::Rings);
        }
        if state.next_avail.wrapping_sub(state.next_used) > checked.size() {
            return Err(Broken::AvailIndex);
        }
        Ok(Self {
            index,
            max_size: state.max_size,
            size: checked.size(),
            event_idx: state.event_idx_enabled,
            addresses: [state.desc_table, state.avail_ring, state.used_ring],
            desc,
            avail,
            used,
            next_avail: state.next_avail,
            next_used: state.next_used,
            signalled: state.next_used,
            memory,
            doorbell,
            interrupt,
        })
    }

    /// Its number within the device.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Entries of each ring.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Rings when the driver has made buffers available.
    pub fn doorbell(&self) -> &Arc<EventFd> {
        &self.doorbell
    }

    /// Addresses in this process of descriptor table, available ring and used ring: for whoever serves
    /// the queue in its place, from [`next_avail`](Self::next_avail) on.
    pub fn rings(&self) -> [u64; 3] {
        [self.desc, self.avail.cast_const(), self.used.cast_const()].map(|ring| ring.addr() as u64)
    }

    /// Index of the next chain to take off the available ring.
    pub fn next_avail(&self) -> u16 {
        self.next_avail
    }

    /// Carries on where somebody else stopped serving the queue, who would have taken the chain
    /// `next_avail` next; what was used is on the used ring.
    ///
    /// # Errors
    ///
    /// [`Broken::AvailIndex`] if those cannot be the indices of one queue: the driver has written to the
    /// used ring.
    pub fn carry_on_from(&mut self, next_avail: u16) -> Result<(), Broken> {
        let next_used = u16::from_le(self.used_index().load(Ordering::Acquire));
        if next_avail.wrapping_sub(next_used) > self.size {
            return Err(Broken::AvailIndex);
        }
        (self.next_avail, self.next_used, self.signalled) = (next_avail, next_used, next_used);
        Ok(())
    }

    /// The memory its buffers are in.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// An empty chain for [`pop`](Self::pop) to fill.
    pub fn chain(&self) -> Chain {
        Chain::new(Arc::clone(&self.memory))
    }

    /// What a new queue needs to carry on from here.
    pub fn state(&self) -> QueueState {
        let [desc_table, avail_ring, used_ring] = self.addresses;
        QueueState {
            max_size: self.max_size,
            next_avail: self.next_avail,
            next_used: self.next_used,
            event_idx_enabled: self.event_idx,
            size: self.size,
            ready: true,
            desc_table,
            avail_ring,
            used_ring,
        }
    }

    /// Tells the driver that it broke this queue. Log lines are the caller's, who knows what for.
    pub fn fail(&self, why: Broken) {
        tracing::debug!(queue = self.index, "device needs a reset: {why}");
        self.interrupt.signal_needs_reset();
    }

    /// How many chains the driver has made available that have not been popped.
    ///
    /// A driver has [`size`](Self::size) descriptors, so there are never more chains than that which
    /// are available, or popped and not published: a worker never holds more than `size` of them,
    /// whatever the driver does. Their heads may be equal all the same.
    ///
    /// # Errors
    ///
    /// [`Broken::AvailIndex`]
    pub fn available(&self) -> Result<u16, Broken> {
        let index = u16::from_le(self.avail_index().load(Ordering::Acquire));
        let count = index.wrapping_sub(self.next_avail);
        let popped = self.next_avail.wrapping_sub(self.next_used);
        if count > self.size.saturating_sub(popped) {
            return Err(Broken::AvailIndex);
        }
        Ok(count)
    }

    /// Fills `chain` with the next available one; false when there is none.
    ///
    /// # Errors
    ///
    /// [`Broken`]; nothing more can be done with this queue.
    pub fn pop(&mut self, chain: &mut Chain) -> Result<bool, Broken> {
        if self.available()? == 0 {
            return Ok(false);
        }
        let slot = self.next_avail % self.size;
        // SAFETY: entry `slot` lies within the available ring.
        let head = u16::from_le(unsafe { read::<u16>(self.avail, 4 + 2 * usize::from(slot)) });
        if let Err(broken) = self.fill(chain, head) {
            chain.clear();
            return Err(broken);
        }
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(true)
    }

    /// Makes the chain popped last available again, as if it had not been popped.
    pub fn undo_pop(&mut self) {
        self.next_avail = self.next_avail.wrapping_sub(1);
    }

    /// Walks the chain that starts at descriptor `head`.
    fn fill(&self, chain: &mut Chain, head: u16) -> Result<(), Broken> {
        chain.clear();
        chain.head = head;
        // The buffers are kept mapped by the memory they are in, whoever filled the chain before.
        if !Arc::ptr_eq(&chain.memory, &self.memory) {
            chain.memory = Arc::clone(&self.memory);
        }
        let (mut table, mut count) = (self.desc, usize::from(self.size));
        let mut indirect = false;
        let mut index = usize::from(head);
        let mut left = count;
        loop {
            if index >= count {
                return Err(Broken::DescriptorIndex);
            }
            // A chain that visits more descriptors than there are visits one twice: this, and the
            // bound on buffers, stop endless chains.
            left = left.checked_sub(1).ok_or(Broken::ChainLength)?;
            // SAFETY: entry `index` lies within the table.
            let descriptor = unsafe { read::<Descriptor>(table, DESC_SIZE * index) };
            let flags = u16::from_le(descriptor.flags);
            if flags & DESC_INDIRECT != 0 {
                // DESC_WRITE means nothing here and must be ignored (2.7.5.3.2).
                if indirect || flags & DESC_NEXT != 0 {
                    return Err(Broken::Indirect);
                }
                (table, count) = self.indirect_table(descriptor)?;
                (indirect, index, left) = (true, 0, count);
                continue;
            }
            self.add_buffer(chain, descriptor, flags & DESC_WRITE != 0)?;
            if flags & DESC_NEXT == 0 {
                return Ok(());
            }
            index = usize::from(u16::from_le(descriptor.next));
        }
    }

    /// Where an indirect table is and how many descriptors it has, of which a chain may use fewer.
    fn indirect_table(&self, descriptor: Descriptor) -> Result<(*const u8, usize), Broken> {
        let len = u32::from_le(descriptor.len) as usize;
        if !len.is_multiple_of(DESC_SIZE) {
            return Err(Broken::Indirect);
        }
        let start =
            host(&self.memory, u64::from_le(descriptor.address), len).ok_or(Broken::Indirect)?;
        Ok((start, len / DESC_SIZE))
    }

    fn add_buffer(
        &self,
        chain: &mut Chain,
        descriptor: Descriptor,
        write: bool,
    ) -> Result<(), Broken> {
        if chain.buffers.len() == MAX_BUFFERS {
            return Err(Broken::ChainLength);
        }
        let len = u32::from_le(descriptor.len) as usize;
        let start =
            host(&self.memory, u64::from_le(descriptor.address), len).ok_or(Broken::Buffer)?;
        chain.buffers.push(libc::iovec { iov_base: start.cast(), iov_len: len });
        let total = if write {
            &mut chain.writable_len
        } else if chain.readable == chain.buffers.len() - 1 {
            chain.readable += 1;
            &mut chain.readable_len
        } else {
            return Err(Broken::Order);
        };
        *total += len;
        if chain.readable_len + chain.writable_len > u32::MAX as usize {
            return Err(Broken::Buffer);
        }
        Ok(())
    }

    /// Gives a popped chain back to the driver, with `len` bytes written to it. Not to be mixed with
    /// entries that are staged and not published.
    pub fn push(&mut self, head: u16, len: u32) {
        self.stage(0, head, len);
        self.publish(1);
    }

    /// Writes the used entry of a popped chain, `ahead` of those published and unseen by the driver
    /// until [`publish`](Self::publish).
    pub fn stage(&mut self, ahead: u16, head: u16, len: u32) {
        let slot = self.next_used.wrapping_add(ahead) % self.size;
        let entry = [u32::from(head).to_le(), len.to_le()];
        // SAFETY: entry `slot` lies within the used ring.
        unsafe { write(self.used, 4 + 8 * usize::from(slot), entry) };
    }

    /// Shows the driver `count` staged entries at once.
    pub fn publish(&mut self, count: u16) {
        self.next_used = self.next_used.wrapping_add(count);
        self.used_index().store(self.next_used.to_le(), Ordering::Release);
    }

    /// Rings the doorbell in the driver's place: for a worker that goes back to waiting with work left,
    /// so that a driver which never runs out of requests cannot keep it from being stopped.
    pub fn ring_doorbell(&self) {
        // The counter cannot be that full, and would still be readable.
        let _ = self.doorbell.write(1);
    }

    /// Interrupts the driver if it wants to know about what was published since the last call.
    /// To be called before 65,536 more entries are published: indices cannot tell more apart.
    pub fn signal(&mut self) {
        if self.wants_signal() {
            self.interrupt.signal_queue(self.index);
        }
    }

    fn wants_signal(&mut self) -> bool {
        if self.signalled == self.next_used {
            return false;
        }
        let old = std::mem::replace(&mut self.signalled, self.next_used);
        // The used index must be visible before the driver's wish is read (virtio 1.3, 2.7.7.2).
        fence(Ordering::SeqCst);
        if self.event_idx {
            let event = u16::from_le(self.used_event().load(Ordering::Relaxed));
            let new = self.next_used;
            return new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old);
        }
        // SAFETY: the flags are the ring's first field.
        let flags = u16::from_le(unsafe { read::<u16>(self.avail, 0) });
        flags & AVAIL_NO_INTERRUPT == 0
    }

    /// Asks the driver to ring the doorbell for what it makes available from now on; true when
    /// there is something available already, for which it may not ring.
    ///
    /// # Errors
    ///
    /// [`Broken::AvailIndex`]
    pub fn enable_doorbell(&mut self) -> Result<bool, Broken> {
        if self.event_idx {
            self.avail_event().store(self.next_avail.to_le(), Ordering::Relaxed);
        } else {
            self.used_flags().store(0, Ordering::Relaxed);
        }
        // The wish must be visible before the index is read again (virtio 1.3, 2.7.10.1).
        fence(Ordering::SeqCst);
        Ok(self.available()? > 0)
    }

    /// Tells the driver that the doorbell need not ring.
    pub fn disable_doorbell(&mut self) {
        // With event indices it rings once at most anyway.
        if !self.event_idx {
            self.used_flags().store(USED_NO_NOTIFY.to_le(), Ordering::Relaxed);
        }
    }

    fn avail_index(&self) -> &AtomicU16 {
        // SAFETY: second field of the available ring, aligned to two bytes as the ring is.
        unsafe { AtomicU16::from_ptr(self.avail.wrapping_add(2).cast()) }
    }

    fn used_index(&self) -> &AtomicU16 {
        // SAFETY: second field of the used ring, which is aligned to four bytes.
        unsafe { AtomicU16::from_ptr(self.used.wrapping_add(2).cast()) }
    }

    fn used_flags(&self) -> &AtomicU16 {
        // SAFETY: first field of the used ring.
        unsafe { AtomicU16::from_ptr(self.used.cast()) }
    }

    /// Last field of the available ring: the driver's wish.
    fn used_event(&self) -> &AtomicU16 {
        let at = self.avail.wrapping_add(4 + 2 * usize::from(self.size));
        // SAFETY: within the ring, whose length counts it, and aligned.
        unsafe { AtomicU16::from_ptr(at.cast()) }
    }

    /// Last field of the used ring: ours.
    fn avail_event(&self) -> &AtomicU16 {
        let at = self.used.wrapping_add(4 + 8 * usize::from(self.size));
        // SAFETY: as above.
        unsafe { AtomicU16::from_ptr(at.cast()) }
    }
}

/// Host address of `len` bytes of guest RAM at `start`, at least one, all in one region.
fn host(memory: &GuestMemory, start: u64, len: usize) -> Option<*mut u8> {
    let start = GuestAddress(start);
    if len == 0 {
        return None;
    }
    GuestMemoryBackend::get_slice(memory, start, len)
        .ok()
        .map(|slice| slice.ptr_guard_mut().as_ptr())
}

/// # Safety
///
/// `T` at `offset` from `base` lies within mapped guest RAM; any bytes make a `T`.
unsafe fn read<T: Copy>(base: *const u8, offset: usize) -> T {
    // SAFETY: the caller's promise. Volatile: the guest writes there at any time.
    unsafe { ptr::read_volatile(base.wrapping_add(offset).cast()) }
}

/// # Safety
///
/// `T` at `offset` from `base` lies within mapped guest RAM.
unsafe fn write<T>(base: *mut u8, offset: usize, value: T) {
    // SAFETY: the caller's promise.
    unsafe { ptr::write_volatile(base.wrapping_add(offset).cast(), value) }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // A worker that panics takes its queues with it: nobody would answer the driver any more.
        if std::thread::panicking() {
            self.interrupt.signal_needs_reset();
        }
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue")
            .field("index", &self.index)
            .field("size", &self.size)
            .field("next_avail", &self.next_avail)
            .field("next_used", &self.next_used)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "queue_test.rs"]
mod queue_test;
