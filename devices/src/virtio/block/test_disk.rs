//! Disks for tests, and requests as a driver writes them.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::sync::mpsc;

use rustix::fs::{MemfdFlags, memfd_create};
use vmm_sys_util::eventfd::EventFd;

use super::backend::{Engine, Operation, Raw, RawOptions};
use super::*;
use crate::memory::GuestMemory;
use crate::virtio::test_driver::{Driver, DriverQueue, Part};

pub(super) const IN: u32 = 0;
pub(super) const OUT: u32 = 1;
pub(super) const FLUSH: u32 = 4;
pub(super) const GET_ID: u32 = 8;
pub(super) const DISCARD: u32 = 11;
pub(super) const WRITE_ZEROES: u32 = 13;

/// With io_uring and without.
pub(super) const BOTH: [RawOptions; 2] = [
    RawOptions { direct: false, synchronous: false },
    RawOptions { direct: false, synchronous: true },
];

/// A file in memory of `len` bytes.
pub(super) fn memfd(len: u64) -> File {
    let file = File::from(memfd_create("disk", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(len).unwrap();
    file
}

pub(super) fn raw(file: &File, options: RawOptions) -> Arc<dyn Storage> {
    Arc::new(Raw::new(file.try_clone().unwrap(), options).unwrap())
}

pub(super) fn block(storage: &Arc<dyn Storage>, properties: Properties) -> Block {
    Block::new(Arc::clone(storage), properties).unwrap()
}

/// A running device with one queue.
pub(super) fn driver(storage: &Arc<dyn Storage>) -> Driver<Block> {
    Driver::new(block(storage, Properties::default()), u64::MAX)
}

pub(super) fn header(kind: u32, sector: u64) -> Part {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(sector.to_le_bytes());
    Part::Out(bytes)
}

pub(super) fn segment(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes
}

/// Asks and waits: the status, and the data.
#[track_caller]
pub(super) fn ask(queue: &mut DriverQueue, parts: &[Part]) -> (u8, Vec<u8>) {
    let posted = queue.post(parts);
    queue.kick();
    let (head, _) = queue.wait_used();
    assert_eq!(head, posted, "another request was answered");
    let mut room = queue.room(posted);
    let status = room.pop().unwrap();
    (status, room)
}

#[track_caller]
pub(super) fn read(queue: &mut DriverQueue, sector: u64, len: usize) -> Vec<u8> {
    let (status, data) = ask(queue, &[header(IN, sector), Part::In(len), Part::In(1)]);
    assert_eq!(status, 0, "reading {len} bytes at sector {sector}");
    data
}

#[track_caller]
pub(super) fn write(queue: &mut DriverQueue, sector: u64, data: &[u8]) {
    let parts = [header(OUT, sector), Part::Out(data.to_vec()), Part::In(1)];
    assert_eq!(ask(queue, &parts).0, 0, "writing {} bytes at sector {sector}", data.len());
}

/// The status of a request with these ranges.
#[track_caller]
pub(super) fn ranges(queue: &mut DriverQueue, kind: u32, ranges: &[Vec<u8>]) -> u8 {
    ask(queue, &[header(kind, 0), Part::Out(ranges.concat()), Part::In(1)]).0
}

/// A storage whose operations end when the test says so.
#[derive(Default)]
pub(super) struct Slow {
    pub(super) control: Mutex<Option<mpsc::Receiver<()>>>,
    pub(super) log: Arc<Mutex<Vec<String>>>,
    pub(super) cancellable: bool,
}

struct SlowEngine {
    allowed: mpsc::Receiver<()>,
    pending: VecDeque<u16>,
    cancelled: bool,
    cancellable: bool,
    log: Arc<Mutex<Vec<String>>>,
    event: EventFd,
}

impl Storage for Slow {
    fn capacity(&self) -> u64 {
        1 << 20
    }

    fn grow(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn engine(&self, _: &Arc<GuestMemory>, _: u16) -> io::Result<Box<dyn Engine>> {
        let event = EventFd::new(0).unwrap();
        // Always readable: the worker looks for completions all the time.
        event.write(1).unwrap();
        Ok(Box::new(SlowEngine {
            allowed: lock(&self.control).take().unwrap_or_else(|| mpsc::channel().1),
            pending: VecDeque::new(),
            cancelled: false,
            cancellable: self.cancellable,
            log: Arc::clone(&self.log),
            event,
        }))
    }
}

impl Engine for SlowEngine {
    fn start(&mut self, slot: u16, operation: Operation<'_>) -> Option<io::Result<()>> {
        let name = format!("{operation:?}");
        lock(&self.log).push(name.split('(').next().unwrap().to_owned());
        self.pending.push_back(slot);
        None
    }

    fn reap(&mut self) -> Option<(u16, io::Result<()>)> {
        if self.cancelled {
            return Some((
                self.pending.pop_front()?,
                Err(io::Error::from_raw_os_error(libc::ECANCELED)),
            ));
        }
        if self.pending.is_empty() || self.allowed.try_recv().is_err() {
            return None;
        }
        Some((self.pending.pop_front()?, Ok(())))
    }

    fn completions(&self) -> Option<BorrowedFd<'_>> {
        Some(borrow(&self.event))
    }

    fn cancel(&mut self) {
        self.cancelled = self.cancellable;
    }
}

#[allow(unsafe_code)]
fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: open as long as `event` is borrowed.
    unsafe { BorrowedFd::borrow_raw(std::os::fd::AsRawFd::as_raw_fd(event)) }
}
