//! Features and configuration space of a block device (virtio 1.3, 5.2.3 and 5.2.4).

/// Feature bits (virtio 1.3, 5.2.3).
pub mod feature {
    /// `seg_max` is valid.
    pub const SEG_MAX: u64 = 1 << 2;
    /// Read-only.
    pub const RO: u64 = 1 << 5;
    /// `blk_size` is valid.
    pub const BLK_SIZE: u64 = 1 << 6;
    /// Flush requests; without it every write is durable when it ends.
    pub const FLUSH: u64 = 1 << 9;
    /// `topology` is valid.
    pub const TOPOLOGY: u64 = 1 << 10;
    /// The driver can switch between write-back and write-through.
    pub const CONFIG_WCE: u64 = 1 << 11;
    /// Several queues.
    pub const MQ: u64 = 1 << 12;
    /// Discard requests.
    pub const DISCARD: u64 = 1 << 13;
    /// Write zeroes requests.
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// Most ranges in a discard request.
pub(super) const MAX_DISCARD_SEGMENTS: u32 = 16;
/// Most ranges in a write zeroes request.
pub(super) const MAX_WRITE_ZEROES_SEGMENTS: u32 = 1;
/// Longest range to discard, in sectors: 1 GiB.
pub(super) const MAX_DISCARD_SECTORS: u32 = 1 << 21;
/// Longest range to fill with zeros, in sectors: 32 MiB, for they may have to be written.
pub(super) const MAX_WRITE_ZEROES_SECTORS: u32 = 1 << 16;

/// Offset of the field `writeback`, the only one the driver may write.
pub(super) const WRITEBACK: u64 = 32;

/// What the configuration space shows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Config {
    pub(super) capacity: u64,
    pub(super) queue_size: u16,
    pub(super) queues: u16,
    pub(super) block_size: u32,
    pub(super) writeback: bool,
    pub(super) read_only: bool,
}

impl Config {
    /// `struct virtio_blk_config` (5.2.4), up to `unused1`.
    pub(super) fn bytes(&self) -> [u8; 60] {
        let mut bytes = [0; 60];
        let mut put = |at: usize, value: &[u8]| bytes[at..][..value.len()].copy_from_slice(value);
        put(0, &(self.capacity / 512).to_le_bytes());
        put(12, &u32::from(seg_max(self.queue_size)).to_le_bytes());
        put(20, &self.block_size.to_le_bytes());
        // Topology: one logical block in a physical one, no misalignment, no preferred sizes but one
        // block (1 and 1, in logical blocks).
        put(26, &1u16.to_le_bytes());
        put(28, &1u32.to_le_bytes());
        put(32, &[self.writeback.into()]);
        put(34, &self.queues.to_le_bytes());
        if !self.read_only {
            let alignment = self.block_size / 512;
            put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
            put(40, &MAX_DISCARD_SEGMENTS.to_le_bytes());
            put(44, &alignment.to_le_bytes());
            put(48, &MAX_WRITE_ZEROES_SECTORS.to_le_bytes());
            put(52, &MAX_WRITE_ZEROES_SEGMENTS.to_le_bytes());
            put(56, &[1]);
        }
        bytes
    }
}

/// Most data buffers in a request, so that with header and status it fits into a ring.
fn seg_max(queue_size: u16) -> u16 {
    queue_size.saturating_sub(2).max(1)
}

/// Feature bits of a device.
pub(super) fn features(read_only: bool, queues: u16) -> u64 {
    use feature::{BLK_SIZE, CONFIG_WCE, DISCARD, FLUSH, MQ, RO, SEG_MAX, TOPOLOGY, WRITE_ZEROES};
    let common = SEG_MAX | BLK_SIZE | TOPOLOGY | FLUSH | CONFIG_WCE;
    let access = if read_only { RO } else { DISCARD | WRITE_ZEROES };
    common | access | if queues > 1 { MQ } else { 0 }
}
