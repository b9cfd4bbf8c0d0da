//! Requests of a disk, in well-formed chains: headers, lengths and order are any. Every one is answered,
//! once, with a status.

#![no_main]

use carve_fuzz::disk;
use devices::virtio::test_driver::{Driver, Part};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Request {
    kind: Kind,
    sector: Sector,
    /// Bytes after the header.
    out: Vec<u8>,
    /// Bytes of data that are readable and not in `out`, in units of 64.
    more: u8,
    /// Writable buffers, in units of 64 bytes, and one byte less at the end of each if odd.
    room: [u8; 2],
}

#[derive(Arbitrary, Debug)]
enum Kind {
    Known(u8),
    Any(u32),
}

#[derive(Arbitrary, Debug)]
enum Sector {
    First(u16),
    FromEnd(u8),
    Any(u64),
}

#[derive(Arbitrary, Debug)]
enum Step {
    Request(Request),
    Writeback(u8),
    Pause,
    Restore,
}

fuzz_target!(|input: (u64, Vec<Step>)| {
    let (features, steps) = input;
    let mut driver = Driver::new(disk::fresh(1), features);
    for step in steps.iter().take(32) {
        match step {
            Step::Request(request) => ask(&mut driver, request),
            Step::Writeback(value) => {
                devices::virtio::VirtioDevice::write_config(&mut driver.device, 32, &[*value]);
            }
            Step::Pause => driver.pause_and_resume(),
            Step::Restore => driver.save_and_restore(disk::fresh(1)),
        }
    }
    assert!(!driver.signals.needs_reset());
});

fn ask(driver: &mut Driver<devices::virtio::block::Block>, request: &Request) {
    let kind = match request.kind {
        Kind::Known(kind) => [0, 1, 4, 8, 11, 13][usize::from(kind) % 6],
        Kind::Any(kind) => kind,
    };
    let sector = match request.sector {
        Sector::First(sector) => sector.into(),
        Sector::FromEnd(sectors) => disk::SIZE / 512 - u64::from(sectors),
        Sector::Any(sector) => sector,
    };
    let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
    let mut parts = vec![Part::Out(header)];
    let more = vec![0xa5; usize::from(request.more) * 64];
    let data = [request.out.clone(), more].into_iter().filter(|bytes| !bytes.is_empty());
    parts.extend(data.map(Part::Out));
    let room = request.room.map(|units| usize::from(units) * 64 - usize::from(units % 2));
    parts.extend(room.into_iter().filter(|&len| len > 0).map(Part::In));
    parts.push(Part::In(1));
    let queue = &mut driver.queues[0];
    let posted = queue.post(&parts);
    queue.kick();
    let (answered, _) = queue.wait_used();
    assert_eq!(answered, posted);
    assert!(queue.room(posted).pop().is_some_and(|status| status <= 2));
}
