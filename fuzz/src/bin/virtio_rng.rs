//! The entropy device behind its queue.

#![no_main]

use carve_fuzz::device::Host;
use devices::virtio::rng::Rng;
use devices::virtio::test_driver::Part;
use libfuzzer_sys::arbitrary::{self, Arbitrary};

struct Entropy;

/// Rooms to fill, after bytes that have no business there, perhaps.
#[derive(Arbitrary, Clone, Debug)]
struct Request {
    bytes: Option<Vec<u8>>,
    rooms: Vec<u16>,
}

impl Host for Entropy {
    type Device = Rng;
    type Request = Request;
    type Action = ();

    fn new() -> Self {
        Self
    }

    fn device(&self) -> Rng {
        Rng::default()
    }

    fn request(&mut self, request: &Request) -> (usize, Vec<Part>) {
        let bytes = request.bytes.iter().cloned().map(Part::Out);
        let rooms = request.rooms.iter().take(32).map(|&len| Part::In(len.into()));
        (0, bytes.chain(rooms).collect())
    }

    fn act(&mut self, (): &()) {}
}

carve_fuzz::virtio_queues!(Entropy);
