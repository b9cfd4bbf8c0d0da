//! A disk behind virtio-mmio registers: requests of any kind, in chains of any form.

#![no_main]

use carve_fuzz::disk;

carve_fuzz::virtio_device!(disk::fresh(2));
