//! qcow2 images behind a disk: an image that is damaged anywhere, its backing image, and what a driver asks of it.
//! Every request is answered, with a status.

#![no_main]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, LazyLock};

use carve_fuzz::disk;
use devices::virtio::VirtioDevice;
use devices::virtio::block::backend::{Layer, Qcow2Header};
use devices::virtio::block::{Block, Properties};
use devices::virtio::test_driver::{Driver, Part};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

/// An image: what is put over a good one.
#[derive(Arbitrary, Debug)]
struct Image {
    /// What is changed, after each other.
    damage: Vec<Damage>,
    /// Where the file ends, in units of 512 bytes; where it did, if that is less.
    end: Option<u16>,
    /// On top of a raw image.
    backing: bool,
    writable: bool,
}

#[derive(Arbitrary, Debug)]
enum Damage {
    /// A field of the header: a 32-bit word.
    Header { word: u8, value: Word },
    /// An extension of the header, or what else lies there.
    Extension { at: u8, bytes: Vec<u8> },
    /// An entry of the table of level 1, of the first one of level 2, of the refcount table or of its first block.
    Entry { table: Table, index: u8, value: Word },
    /// Bytes anywhere.
    Anywhere { at: u32, bytes: Vec<u8> },
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum Table {
    Level1,
    Level2,
    Refcounts,
    RefcountBlock,
}

/// Values that mean something more often than not.
#[derive(Arbitrary, Debug, Clone, Copy)]
enum Word {
    Small(u8),
    /// A cluster of the file, with flags.
    Cluster(u8, Flags),
    Compressed(u16, u8),
    Any(u64),
}

#[derive(Arbitrary, Debug, Clone, Copy)]
struct Flags {
    copied: bool,
    zero: bool,
}

/// Types of requests (virtio 1.2, 5.2.6).
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

impl Word {
    fn value(self) -> u64 {
        match self {
            Self::Small(value) => value.into(),
            Self::Cluster(number, Flags { copied, zero }) => {
                u64::from(number) * CLUSTER | u64::from(copied) << 63 | u64::from(zero)
            }
            Self::Compressed(at, sectors) => {
                1 << 62 | u64::from(sectors) << 54 | u64::from(at) * 16
            }
            Self::Any(value) => value,
        }
    }
}

#[derive(Arbitrary, Debug)]
enum Step {
    Read { sector: Sector, sectors: u8 },
    Write { sector: Sector, sectors: u8 },
    Discard { sector: Sector, sectors: u16, zeroes: bool, unmap: bool },
    Flush,
    Pause,
    Grow(u8),
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum Sector {
    First(u16),
    FromEnd(u16),
    Any(u64),
}

const CLUSTER: u64 = 64 << 10;
/// Size of the disk that the good image has.
const SIZE: u64 = 4 << 20;
const STEPS: usize = 16;

/// Where the tables of the image are, which `Layer::create` and one write make.
struct Places {
    bytes: Vec<u8>,
    level1: u64,
    level2: u64,
    refcounts: u64,
    refcount_block: u64,
}

impl Places {
    /// A good image with some data, whose base is another.
    fn new() -> Self {
        let file = disk::file(0);
        Layer::create(file.try_clone().expect("a descriptor"), SIZE, "base", "raw").expect("space");
        let header = Qcow2Header::open(file.try_clone().expect("a descriptor"), true, false);
        let layer = header.expect("its own writing").on(None);
        let mut driver = Driver::new(device(layer).expect("a device"), u64::MAX);
        for sector in [0, 300, 5000] {
            let parts = [header_of(OUT, sector), Part::Out(vec![0xa5; 1536]), Part::In(1)];
            assert_eq!(driver.queues[0].request(&parts), [0]);
        }
        drop(driver);
        let mut bytes = vec![0; file.metadata().expect("a size").len() as usize];
        file.read_exact_at(&mut bytes, 0).expect("all of it");
        let long = |at: u64| {
            let at = at as usize;
            u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
        };
        let cluster = |entry: u64| entry & 0x00ff_ffff_ffff_fe00;
        let (level1, refcounts) = (long(40), long(48));
        let (level2, refcount_block) = (cluster(long(level1)), cluster(long(refcounts)));
        Self { level1, level2, refcounts, refcount_block, bytes }
    }
}

static GOOD: LazyLock<Places> = LazyLock::new(Places::new);

impl Image {
    /// The file of it.
    fn file(&self) -> File {
        let good = &*GOOD;
        let file = disk::file(good.bytes.len() as u64);
        let write = |bytes: &[u8], at: u64| file.write_all_at(bytes, at).expect("space");
        write(&good.bytes, 0);
        for damage in &self.damage {
            match damage {
                Damage::Header { word, value } => {
                    let value = value.value() as u32;
                    write(&value.to_be_bytes(), u64::from(*word % 28) * 4);
                }
                Damage::Extension { at, bytes } => write(bytes, 100 + u64::from(*at)),
                Damage::Entry { table, index, value } => {
                    let table = match table {
                        Table::Level1 => good.level1,
                        Table::Level2 => good.level2,
                        Table::Refcounts => good.refcounts,
                        Table::RefcountBlock => good.refcount_block,
                    };
                    write(&value.value().to_be_bytes(), table + u64::from(*index) * 8);
                }
                Damage::Anywhere { at, bytes } => {
                    write(bytes, u64::from(*at) % good.bytes.len() as u64);
                }
            }
        }
        if let Some(sectors) = self.end {
            let length = u64::from(sectors) * 512;
            file.set_len(length.min(good.bytes.len() as u64)).expect("space");
        }
        file
    }
}

fn device(layer: Layer) -> io::Result<Block> {
    let properties = Properties { queue_size: 64, ..Properties::default() };
    Block::new(Arc::new(layer.into_storage()), properties)
}

fn header_of(kind: u32, sector: u64) -> Part {
    Part::Out([&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat())
}

/// Asks for something, with `data` if that has any. It is answered.
fn ask(driver: &mut Driver<Block>, header: Part, data: Part) {
    let some =
        !matches!(data, Part::In(0)) && !matches!(&data, Part::Out(bytes) if bytes.is_empty());
    let parts: Vec<_> =
        [header].into_iter().chain(some.then_some(data)).chain([Part::In(1)]).collect();
    let queue = &mut driver.queues[0];
    let posted = queue.post(&parts);
    queue.kick();
    assert_eq!(queue.wait_used().0, posted);
    assert!(queue.room(posted).pop().is_some_and(|status| status <= 2));
}

fn act(driver: &mut Driver<Block>, step: &Step) {
    let capacity = driver.device.handle().capacity() / 512;
    let place = |sector: &Sector| match *sector {
        Sector::First(sector) => sector.into(),
        Sector::FromEnd(sectors) => capacity.saturating_sub(sectors.into()),
        Sector::Any(sector) => sector,
    };
    match step {
        Step::Read { sector, sectors } => {
            let room = Part::In(usize::from(*sectors) * 512);
            ask(driver, header_of(IN, place(sector)), room);
        }
        Step::Write { sector, sectors } => {
            let data = Part::Out(vec![0x5a; usize::from(*sectors) * 512]);
            ask(driver, header_of(OUT, place(sector)), data);
        }
        Step::Discard { sector, sectors, zeroes, unmap } => {
            let mut range = place(sector).to_le_bytes().to_vec();
            range.extend(u32::from(*sectors).to_le_bytes());
            range.extend(u32::from(*zeroes && *unmap).to_le_bytes());
            let kind = if *zeroes { WRITE_ZEROES } else { DISCARD };
            ask(driver, header_of(kind, 0), Part::Out(range));
        }
        Step::Flush => ask(driver, header_of(FLUSH, 0), Part::In(0)),
        Step::Pause => driver.pause_and_resume(),
        Step::Grow(mebibytes) => {
            let _ = driver.device.handle().grow(u64::from(*mebibytes) << 20);
        }
    }
}

/// What the library that reads images panics about is an error of the request. Nothing else may panic.
fn let_the_library_panic() {
    let abort = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.location().is_some_and(|at| at.file().contains("/imago-")) {
            abort(panic);
        }
    }));
}

fuzz_target!(init: let_the_library_panic(), |input: (Image, Vec<Step>)| {
    let (image, steps) = input;
    let Ok(header) = Qcow2Header::open(image.file(), image.writable, false) else { return };
    let _ = header.backing();
    let backing = image.backing.then(|| Layer::raw(disk::file(SIZE / 2), false).expect("a disk"));
    let Ok(device) = device(header.on(backing)) else { return };
    let mut driver = Driver::new(device, u64::MAX);
    for step in steps.iter().take(STEPS) {
        act(&mut driver, step);
    }
    assert!(!driver.signals.needs_reset());
    assert_eq!(driver.device.quiesce().len(), 1, "the queue was lost: the device's thread panicked");
});
