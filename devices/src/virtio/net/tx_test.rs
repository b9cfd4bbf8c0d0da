#![allow(clippy::cast_possible_truncation)] // Sizes chosen here.

use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::super::buffers::{Room, descriptor};
use super::super::filter::Filter;
use super::super::link::Link;
use super::super::net_test::{MAC, OTHER, frame, outgoing};
use super::super::state::Settings;
use super::*;
use crate::memory::{self, GuestMemory};
use crate::virtio::test_driver::{DriverQueue, MEMORY, Signals};

/// Notes how many frames were handed over, and how many the driver had back by then.
struct Watching {
    event: EventFd,
    memory: Arc<GuestMemory>,
    used_index: u64,
    seen: Vec<(usize, u16)>,
}

impl Port for Watching {
    fn fd(&self) -> BorrowedFd<'_> {
        descriptor(&self.event)
    }

    fn receive(&mut self, _: &mut Room, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn send(&mut self, frames: &[Chain]) -> io::Result<usize> {
        let back = self.memory.load(GuestAddress(self.used_index), Ordering::SeqCst).unwrap();
        self.seen.push((frames.len(), back));
        Ok(frames.len())
    }
}

/// What was handed over of `count` frames of `len` bytes, all available at once.
fn handed_over(count: usize, len: usize) -> Vec<(usize, u16)> {
    let memory = Arc::new(memory::anonymous(&[(0, MEMORY)]));
    let mut driver = DriverQueue::new(&memory, 1, 64, true);
    let queue = driver.device_side(Arc::new(Signals::default())).unwrap();
    for number in 0..count {
        driver.post(&[outgoing(&frame(OTHER, number, len))]);
    }
    let settings = Settings { filter: Filter::new(MAC), pairs: 1, offloads: 0 };
    let shared = Arc::new(Shared::new(Link::new(true), None, None, settings));
    let used_index = driver.used_ring() + 2;
    let event = EventFd::new(0).unwrap();
    let mut port = Watching { event, memory, used_index, seen: Vec::new() };
    let wait = Transmitter::new(queue, 0, shared).serve(&mut port).unwrap();
    assert!(matches!(wait, Wait::Doorbell), "{wait:?}");
    assert_eq!(usize::from(driver.used_index()), count);
    port.seen
}

#[test]
fn the_driver_has_long_frames_back_while_the_next_are_sent() {
    let seen = handed_over(5, 40_000);
    assert_eq!(seen, [(2, 0), (2, 2), (1, 4)]);
}

#[test]
fn short_frames_are_handed_over_together() {
    assert_eq!(handed_over(30, 1514), [(30, 0)]);
}
