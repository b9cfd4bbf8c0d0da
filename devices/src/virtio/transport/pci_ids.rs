//! What a virtio device calls itself on PCI (virtio 1.3, 4.1.2).

use crate::pci::Identity;
use crate::virtio::device::DeviceId;

const VENDOR: u16 = 0x1af4;
/// Plus the device type: the device id of a modern device.
const DEVICE: u16 = 0x1040;

/// Identity of a device of type `id`. Drivers go by the ids; the class tells people what it is.
pub(super) fn identity(id: DeviceId) -> Identity {
    let device = DEVICE + id as u16;
    let class = match id {
        // Network controller, Ethernet.
        DeviceId::Net => 0x02_00_00,
        // Mass storage controller, other.
        DeviceId::Block => 0x01_80_00,
        // Communication controller, other.
        DeviceId::Console | DeviceId::Vsock => 0x07_80_00,
        // In no defined class.
        DeviceId::Entropy | DeviceId::Balloon => 0xff_00_00,
    };
    Identity {
        vendor: VENDOR,
        device,
        revision: 1,
        class,
        subsystem_vendor: VENDOR,
        subsystem: device,
    }
}
