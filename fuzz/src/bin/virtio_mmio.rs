//! The entropy device behind virtio-mmio registers: the transport and the state machine.

#![no_main]

use devices::virtio::rng::Rng;

carve_fuzz::virtio_device!(Rng::default());
