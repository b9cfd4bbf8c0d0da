//! MSI-X (PCI Local Bus 3.0, 6.8.2): the table of messages, the pending bits, masks, and the way of an
//! interrupt to whoever delivers it.
//!
//! [`Msix`] is what the guest programs, behind its function's lock; [`MsixSignals`] is what the device's
//! threads use, without any. Both meet in two atomics per vector: `gate` says what becomes of an
//! interrupt, `pending` that one is waiting for the gate to open. Each side writes the one before it reads
//! the other (sequentially consistent), so that no interrupt is lost between them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::SeqCst};

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use super::config::ConfigSpace;
use crate::ioapic::Message;
use crate::rate_limit::RateLimitedLog;

/// Bytes of a table entry.
pub const ENTRY: u64 = 16;
/// The most vectors a table has.
pub const MAX_VECTORS: u16 = 2048;

const CAPABILITY: u8 = 0x11;
/// Message control: the function's mask and enable bits.
const FUNCTION_MASK: u16 = 1 << 14;
const ENABLE: u16 = 1 << 15;

/// Words of an entry.
const ADDRESS_LOW: usize = 0;
const ADDRESS_HIGH: usize = 1;
const DATA: usize = 2;
const CONTROL: usize = 3;
/// Vector control: the vector's mask bit, which is set after a reset.
const MASKED: u32 = 1;

/// Where the messages of a function's vectors go.
pub trait MsiVectors: Send + Sync {
    /// From now on `vector` stands for `message`. Called when a vector is unmasked with a message other
    /// than its last, and before its first interrupt.
    ///
    /// # Errors
    ///
    /// The message is none that can be delivered, or the host lacks what it takes. The vector is then
    /// treated as masked.
    fn route(&self, vector: u16, message: Message) -> io::Result<()>;

    /// Sends the message of `vector`. Called from any thread; must not block.
    fn signal(&self, vector: u16);

    /// The eventfd that sends the message of `vector`, where one does: always the same one.
    fn event(&self, _vector: u16) -> Option<&EventFd> {
        None
    }
}

/// What becomes of an interrupt: dropped while MSI-X is off.
const OFF: u8 = 0;
/// Kept in the pending bit while a mask is set.
const HELD: u8 = 1;
/// Sent.
const OPEN: u8 = 2;

#[derive(Debug, Default)]
struct Vector {
    gate: AtomicU8,
    pending: AtomicBool,
}

/// The vectors as the device's threads see them.
pub struct MsixSignals {
    vectors: Box<[Vector]>,
    sink: Arc<dyn MsiVectors>,
}

impl MsixSignals {
    /// `count` vectors, at most [`MAX_VECTORS`], that go to `sink`.
    pub fn new(count: u16, sink: Arc<dyn MsiVectors>) -> Self {
        let vectors = (0..count.min(MAX_VECTORS)).map(|_| Vector::default()).collect();
        Self { vectors, sink }
    }

    /// How many vectors there are.
    pub fn count(&self) -> u16 {
        u16::try_from(self.vectors.len()).unwrap_or(MAX_VECTORS)
    }

    /// Interrupts by `vector`; one that does not exist interrupts nobody.
    pub fn signal(&self, vector: u16) {
        let Some(state) = self.vectors.get(usize::from(vector)) else { return };
        match state.gate.load(SeqCst) {
            OPEN => self.sink.signal(vector),
            HELD => {
                state.pending.store(true, SeqCst);
                // The gate may have been opened in between, before the bit was there to be seen.
                if state.gate.load(SeqCst) == OPEN {
                    self.send_pending(vector, state);
                }
            }
            _ => {}
        }
    }

    /// What interrupts by `vector` when it is written to, while nothing masks the vector.
    pub fn direct(&self, vector: u16) -> Option<&EventFd> {
        let state = self.vectors.get(usize::from(vector))?;
        let open = state.gate.load(SeqCst) == OPEN;
        open.then(|| self.sink.event(vector)).flatten()
    }

    fn set_gate(&self, vector: u16, gate: u8) {
        let Some(state) = self.vectors.get(usize::from(vector)) else { return };
        state.gate.store(gate, SeqCst);
        match gate {
            OPEN => self.send_pending(vector, state),
            OFF => state.pending.store(false, SeqCst),
            _ => {}
        }
    }

    fn send_pending(&self, vector: u16, state: &Vector) {
        if state.pending.swap(false, SeqCst) {
            self.sink.signal(vector);
        }
    }

    fn is_pending(&self, vector: usize) -> bool {
        self.vectors.get(vector).is_some_and(|state| state.pending.load(SeqCst))
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    words: [u32; 4],
    /// What the sink was last told.
    routed: Option<Message>,
}

impl Entry {
    const RESET: Self = Self { words: [0, 0, 0, MASKED], routed: None };

    fn message(&self) -> Message {
        let [low, high, data, _] = self.words;
        Message { address: u64::from(high) << 32 | u64::from(low), data }
    }
}

/// A saved table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MsixState {
    entries: Vec<[u32; 4]>,
    pending: Vec<bool>,
}

/// The capability, table and pending bits of a function.
pub struct Msix {
    entries: Vec<Entry>,
    control: u16,
    /// Offset of the capability in configuration space.
    capability: u16,
    signals: Arc<MsixSignals>,
    refused: RateLimitedLog,
}

impl Msix {
    /// Adds the capability for all vectors of `signals` to `config`, with the table and the pending bits
    /// at these offsets of BAR 0, multiples of 8.
    pub fn new(
        config: &mut ConfigSpace,
        signals: Arc<MsixSignals>,
        table: u32,
        pending: u32,
    ) -> Self {
        let mut body = [0; 10];
        body[..2].copy_from_slice(&signals.count().saturating_sub(1).to_le_bytes());
        body[2..6].copy_from_slice(&table.to_le_bytes());
        body[6..].copy_from_slice(&pending.to_le_bytes());
        let capability = config.add_capability(CAPABILITY, &body);
        config.allow(capability + 2, &(FUNCTION_MASK | ENABLE).to_le_bytes());
        let entries = vec![Entry::RESET; usize::from(signals.count())];
        Self { entries, control: 0, capability, signals, refused: RateLimitedLog::new() }
    }

    /// Takes note of the message control register in `config`, which the guest may have written.
    pub fn configured(&mut self, config: &ConfigSpace) {
        let control = u16::from_le_bytes(config.get(self.capability + 2));
        if std::mem::replace(&mut self.control, control) != control {
            (0..self.signals.count()).for_each(|vector| self.update(vector));
        }
    }

    /// Whether the guest has enabled MSI-X.
    pub fn is_enabled(&self) -> bool {
        self.control & ENABLE != 0
    }

    /// Makes gate and route of a vector what the registers say.
    fn update(&mut self, vector: u16) {
        let Some(entry) = self.entries.get_mut(usize::from(vector)) else { return };
        let masked = self.control & FUNCTION_MASK != 0 || entry.words[CONTROL] & MASKED != 0;
        if self.control & ENABLE == 0 {
            return self.signals.set_gate(vector, OFF);
        }
        if masked {
            return self.signals.set_gate(vector, HELD);
        }
        let message = entry.message();
        if entry.routed != Some(message) {
            if let Err(error) = self.signals.sink.route(vector, message) {
                if let Some(suppressed) = self.refused.admit() {
                    tracing::warn!(vector, suppressed, "an MSI-X message is refused: {error}");
                }
                return self.signals.set_gate(vector, HELD);
            }
            entry.routed = Some(message);
        }
        self.signals.set_gate(vector, OPEN);
    }

    /// Reads the table: aligned accesses of 32 and 64 bits, as the specification has it. Others read
    /// zero.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if !is_word_access(offset, data.len()) {
            return;
        }
        for (at, data) in steps(offset, 4).zip(data.chunks_exact_mut(4)) {
            let entry = usize::try_from(at / ENTRY).ok().and_then(|index| self.entries.get(index));
            let word = entry.map_or(0, |entry| entry.words[word_index(at)]);
            data.copy_from_slice(&word.to_le_bytes());
        }
    }

    /// Writes to the table, as [`read_table`](Self::read_table).
    pub fn write_table(&mut self, offset: u64, data: &[u8]) {
        let Ok(vector) = u16::try_from(offset / ENTRY) else { return };
        let Some(entry) = self.entries.get_mut(usize::from(vector)) else { return };
        if !is_word_access(offset, data.len()) {
            return;
        }
        for (at, data) in steps(offset, 4).zip(data.chunks_exact(4)) {
            let index = word_index(at);
            let writable = match index {
                ADDRESS_LOW => !0b11,
                ADDRESS_HIGH | DATA => !0,
                _ => MASKED,
            };
            let value = data.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte));
            entry.words[index] = value & writable;
        }
        self.update(vector);
    }

    /// Reads pending bits; accesses of any kind.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        for (at, data) in steps(offset, 1).zip(data) {
            let first = usize::try_from(at.saturating_mul(8)).unwrap_or(usize::MAX);
            let bit = |bit: usize| self.signals.is_pending(first.saturating_add(bit));
            *data = (0..8).fold(0, |byte, n| byte | u8::from(bit(n)) << n);
        }
    }

    /// The state of table and pending bits.
    pub fn save(&self) -> MsixState {
        MsixState {
            entries: self.entries.iter().map(|entry| entry.words).collect(),
            pending: (0..self.entries.len())
                .map(|vector| self.signals.is_pending(vector))
                .collect(),
        }
    }

    /// Takes a saved state over; none if it is one of another number of vectors.
    /// [`configured`](Self::configured) then makes it effective.
    pub fn restore(&mut self, state: &MsixState) -> Option<()> {
        let count = self.entries.len();
        if state.entries.len() != count || state.pending.len() != count {
            return None;
        }
        for (entry, &words) in self.entries.iter_mut().zip(&state.entries) {
            let [low, high, data, control] = words;
            entry.words = [low & !0b11, high, data, control & MASKED];
        }
        for (vector, &pending) in self.signals.vectors.iter().zip(&state.pending) {
            vector.pending.store(pending, SeqCst);
        }
        Some(())
    }
}

fn is_word_access(offset: u64, len: usize) -> bool {
    matches!((len, offset % 8), (4, 0 | 4) | (8, 0))
}

/// Offsets from `offset` on; a guest may have chosen the last of all.
fn steps(offset: u64, step: u64) -> impl Iterator<Item = u64> {
    (0u64..).map(move |n| offset.saturating_add(n * step))
}

/// Which word of its entry the one at `offset` in the table is.
fn word_index(offset: u64) -> usize {
    usize::try_from(offset / 4 % 4).unwrap_or(0)
}

#[cfg(test)]
#[path = "msix_test.rs"]
mod msix_test;
