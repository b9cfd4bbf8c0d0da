//! Feature bits of the network device (virtio 1.3, 5.1.3), and which of them a back end can keep.

use virtio_bindings::virtio_net as bits;

/// The device completes checksums of frames from the driver.
pub const CSUM: u64 = 1 << bits::VIRTIO_NET_F_CSUM;
/// The driver takes frames whose checksum is not complete.
pub const GUEST_CSUM: u64 = 1 << bits::VIRTIO_NET_F_GUEST_CSUM;
/// Offloads towards the driver can be switched while it runs.
pub const CTRL_GUEST_OFFLOADS: u64 = 1 << bits::VIRTIO_NET_F_CTRL_GUEST_OFFLOADS;
/// The device says which MTU to use.
pub const MTU: u64 = 1 << bits::VIRTIO_NET_F_MTU;
/// The device has a MAC address.
pub const MAC: u64 = 1 << bits::VIRTIO_NET_F_MAC;
/// The driver takes TCP over IPv4 in frames of up to 64 KiB.
pub const GUEST_TSO4: u64 = 1 << bits::VIRTIO_NET_F_GUEST_TSO4;
/// The driver takes TCP over IPv6 in frames of up to 64 KiB.
pub const GUEST_TSO6: u64 = 1 << bits::VIRTIO_NET_F_GUEST_TSO6;
/// The driver takes such frames with explicit congestion notification.
pub const GUEST_ECN: u64 = 1 << bits::VIRTIO_NET_F_GUEST_ECN;
/// The driver takes UDP in frames of up to 64 KiB.
pub const GUEST_UFO: u64 = 1 << bits::VIRTIO_NET_F_GUEST_UFO;
/// The device segments TCP over IPv4.
pub const HOST_TSO4: u64 = 1 << bits::VIRTIO_NET_F_HOST_TSO4;
/// The device segments TCP over IPv6.
pub const HOST_TSO6: u64 = 1 << bits::VIRTIO_NET_F_HOST_TSO6;
/// The device segments TCP with explicit congestion notification.
pub const HOST_ECN: u64 = 1 << bits::VIRTIO_NET_F_HOST_ECN;
/// The device fragments UDP.
pub const HOST_UFO: u64 = 1 << bits::VIRTIO_NET_F_HOST_UFO;
/// A received frame may fill several chains.
pub const MRG_RXBUF: u64 = 1 << bits::VIRTIO_NET_F_MRG_RXBUF;
/// The configuration space has the status.
pub const STATUS: u64 = 1 << bits::VIRTIO_NET_F_STATUS;
/// There is a control queue.
pub const CTRL_VQ: u64 = 1 << bits::VIRTIO_NET_F_CTRL_VQ;
/// The receive mode and the MAC table can be set.
pub const CTRL_RX: u64 = 1 << bits::VIRTIO_NET_F_CTRL_RX;
/// VLANs are filtered.
pub const CTRL_VLAN: u64 = 1 << bits::VIRTIO_NET_F_CTRL_VLAN;
/// The driver announces itself when asked to.
pub const GUEST_ANNOUNCE: u64 = 1 << bits::VIRTIO_NET_F_GUEST_ANNOUNCE;
/// There are several pairs of queues.
pub const MQ: u64 = 1 << bits::VIRTIO_NET_F_MQ;
/// The MAC address can be changed through the control queue.
pub const CTRL_MAC_ADDR: u64 = 1 << bits::VIRTIO_NET_F_CTRL_MAC_ADDR;

/// What a device has whatever its back end is.
const ALWAYS: u64 =
    MAC | MRG_RXBUF | STATUS | CTRL_VQ | CTRL_RX | CTRL_VLAN | GUEST_ANNOUNCE | CTRL_MAC_ADDR;

/// What CTRL_GUEST_OFFLOADS switches: offloads towards the driver, at the places of their feature bits.
pub const GUEST_OFFLOADS: u64 = GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | GUEST_UFO;

/// What a back end must have vnet headers for.
const OFFLOADS: u64 =
    GUEST_OFFLOADS | CTRL_GUEST_OFFLOADS | CSUM | HOST_TSO4 | HOST_TSO6 | HOST_ECN | HOST_UFO;

/// The features a device offers.
pub(super) fn offered(offloads: bool, mtu: bool, pairs: u16) -> u64 {
    let when = |condition: bool, features: u64| if condition { features } else { 0 };
    ALWAYS | when(offloads, OFFLOADS) | when(mtu, MTU) | when(pairs > 1, MQ)
}
