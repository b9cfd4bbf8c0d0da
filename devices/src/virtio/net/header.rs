//! The header before each frame, `struct virtio_net_hdr_v1` (virtio 1.3, 5.1.6). Back ends with vnet
//! headers take and make it themselves; this device only fills in the number of buffers.

/// Its length in bytes.
pub const LEN: usize = 12;
/// Where the number of buffers stands, a little-endian u16 that the host's kernel leaves alone.
pub const NUM_BUFFERS: usize = 10;

/// Bytes of an Ethernet header: destination, source, type.
pub const ETHERNET: usize = 14;
/// Bytes of the longest frame: 64 KiB of packet behind an Ethernet header with a VLAN tag.
pub const MAX_FRAME: usize = 65_536 + ETHERNET + 4;
