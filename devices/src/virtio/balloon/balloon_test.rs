//! The balloon from its driver's side, and what becomes of the host's memory.
#![allow(unsafe_code)] // Memory maps, and a look at which pages are there.
#![allow(clippy::cast_possible_truncation)]

use std::ptr::{self, NonNull};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend};

use super::*;
use crate::memory::{GuestMemory, RamRegion};
use crate::virtio::test_driver::{
    Driver, MEMORY, Part, RawDescriptor, survives_pause_and_restore, wait,
};

/// Guest-physical address past everything the driver itself uses.
const PAGES: u64 = 0x300_0000;
const PFN: u32 = (PAGES / PAGE) as u32;

const ALL: Options = Options { deflate_on_oom: true, reporting: true, statistics_interval: None };

fn balloon(options: Options) -> (Balloon, Arc<Handle>) {
    let handle = Handle::new(0).unwrap();
    (Balloon::new(options, Arc::clone(&handle)), handle)
}

fn driver(options: Options) -> (Driver<Balloon>, Arc<Handle>) {
    let (balloon, handle) = balloon(options);
    (Driver::new(balloon, u64::MAX), handle)
}

fn pfns(pfns: impl IntoIterator<Item = u32>) -> Part {
    Part::Out(pfns.into_iter().flat_map(u32::to_le_bytes).collect())
}

fn entry(tag: u16, value: u64) -> Vec<u8> {
    [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat()
}

/// Fills `count` pages from [`PAGES`] on with ones.
fn touch(memory: &GuestMemory, count: usize) {
    memory.write_slice(&vec![1; count * PAGE as usize], GuestAddress(PAGES)).unwrap();
}

/// How many of `count` pages from [`PAGES`] on the host holds in memory.
fn resident(memory: &GuestMemory, count: usize) -> usize {
    let len = count * PAGE as usize;
    let slice = GuestMemoryBackend::get_slice(memory, GuestAddress(PAGES), len).unwrap();
    let mut there = vec![0u8; count];
    // SAFETY: a mapped range, and a vector with a byte for each of its pages.
    let result =
        unsafe { libc::mincore(slice.ptr_guard_mut().as_ptr().cast(), len, there.as_mut_ptr()) };
    assert_eq!(result, 0);
    there.iter().filter(|&&page| page & 1 != 0).count()
}

/// The first byte of a page from [`PAGES`] on.
fn byte(memory: &GuestMemory, page: u64) -> u8 {
    memory.read_obj(GuestAddress(PAGES + page * PAGE)).unwrap()
}

/// RAM of a shared mapping of a memfd, or what is told to be huge pages.
fn memfd_memory(hugetlb: bool) -> Arc<GuestMemory> {
    let file = std::fs::File::from(memfd_create("ram", MemfdFlags::CLOEXEC).unwrap());
    ftruncate(&file, MEMORY as u64).unwrap();
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh mapping wherever the kernel likes.
    let host = unsafe { mmap(ptr::null_mut(), MEMORY, access, MapFlags::SHARED, &file, 0) };
    let host = NonNull::new(host.unwrap().cast()).unwrap();
    let file = Some(FileOffset::new(file, 0));
    let start = GuestAddress(0);
    // SAFETY: the mapping made above, handed over whole.
    let region = unsafe { RamRegion::from_mapping(start, host, MEMORY, file, hugetlb) };
    Arc::new(GuestMemory::from_regions(vec![region]).unwrap())
}

#[test]
fn inflated_pages_leave_the_host_and_read_as_zeros() {
    let (mut driver, _) = driver(ALL);
    touch(&driver.memory, 512);
    assert_eq!(resident(&driver.memory, 512), 512);
    // As Linux names them: one request of 256 at a time, in any order.
    driver.queues[0].request(&[pfns((0..256).rev().map(|page| PFN + page))]);
    assert_eq!(resident(&driver.memory, 512), 256);
    assert_eq!((byte(&driver.memory, 0), byte(&driver.memory, 255)), (0, 0));
    assert_eq!(byte(&driver.memory, 256), 1);
}

#[test]
fn deflated_pages_are_there_when_touched() {
    let (mut driver, _) = driver(ALL);
    touch(&driver.memory, 1);
    driver.queues[0].request(&[pfns([PFN])]);
    driver.queues[1].request(&[pfns([PFN])]);
    touch(&driver.memory, 1);
    assert_eq!(byte(&driver.memory, 0), 1);
}

#[test]
fn holes_are_punched_into_memory_of_a_memfd() {
    let mut driver = Driver::with_memory(balloon(ALL).0, u64::MAX, memfd_memory(false));
    touch(&driver.memory, 64);
    assert_eq!(resident(&driver.memory, 64), 64);
    driver.queues[0].request(&[pfns((0..32).map(|page| PFN + page))]);
    assert_eq!(resident(&driver.memory, 64), 32);
    report(&mut driver, 4, &[(PAGES + 32 * PAGE, 16 * PAGE as u32)]);
    assert_eq!(resident(&driver.memory, 64), 16);
    assert_eq!((byte(&driver.memory, 40), byte(&driver.memory, 48)), (0, 1));
}

#[test]
fn pages_of_huge_pages_stay() {
    let mut driver = Driver::with_memory(balloon(ALL).0, u64::MAX, memfd_memory(true));
    touch(&driver.memory, 4);
    driver.queues[0].request(&[pfns(PFN..PFN + 4)]);
    report(&mut driver, 4, &[(PAGES, 4 * PAGE as u32)]);
    assert_eq!(byte(&driver.memory, 0), 1);
}

/// Reports ranges of addresses and lengths as one chain of `queue`.
fn report(driver: &mut Driver<Balloon>, queue: usize, ranges: &[(u64, u32)]) {
    let used = &mut driver.queues[queue];
    for (i, &(address, len)) in (0u16..).zip(ranges) {
        let more = u16::from(usize::from(i) + 1 < ranges.len());
        used.write_descriptor(i, RawDescriptor { address, len, flags: 2 | more, next: i + 1 });
    }
    used.make_available(0);
    used.kick();
    let memory = Arc::clone(&driver.memory);
    let index = GuestAddress(used.used_ring() + 2);
    let before: u16 = REPORTS.with(|reports| reports.replace(reports.get() + 1));
    wait("the report is taken", || memory.read_obj::<u16>(index).unwrap() == before + 1);
}

thread_local! {
    /// Reports made by the test of this thread.
    static REPORTS: std::cell::Cell<u16> = const { std::cell::Cell::new(0) };
}

#[test]
fn reported_pages_leave_the_host() {
    let (mut driver, _) = driver(ALL);
    touch(&driver.memory, 64);
    let len = 16 * PAGE as u32;
    report(&mut driver, 4, &[(PAGES, len), (PAGES + 32 * PAGE, len)]);
    assert_eq!(resident(&driver.memory, 64), 32);
    assert_eq!((byte(&driver.memory, 15), byte(&driver.memory, 16)), (0, 1));
}

#[test]
fn only_whole_pages_of_a_report_are_given_back() {
    let (mut driver, _) = driver(ALL);
    touch(&driver.memory, 4);
    report(&mut driver, 4, &[(PAGES + 1, 3 * PAGE as u32 - 1)]);
    report(&mut driver, 4, &[(PAGES + 8, 16)]);
    let bytes = [0, 1, 2, 3].map(|page| byte(&driver.memory, page));
    assert_eq!(bytes, [1, 0, 0, 1]);
}

#[test]
fn reports_are_taken_from_the_queue_that_older_linux_uses() {
    let (mut driver, _) = driver(ALL);
    touch(&driver.memory, 1);
    report(&mut driver, 3, &[(PAGES, PAGE as u32)]);
    assert_eq!(byte(&driver.memory, 0), 0);
    // Without statistics it is the third queue.
    let mut driver = Driver::new(balloon(ALL).0, !feature::STATS_VQ);
    touch(&driver.memory, 1);
    REPORTS.set(0);
    report(&mut driver, 2, &[(PAGES, PAGE as u32)]);
    assert_eq!(byte(&driver.memory, 0), 0);
}

#[test]
fn poisoned_pages_keep_their_contents_when_reported() {
    let (mut driver, _) = driver(ALL);
    driver.device.write_config(12, &0xaaaa_aaaa_u32.to_le_bytes());
    touch(&driver.memory, 1);
    report(&mut driver, 4, &[(PAGES, PAGE as u32)]);
    assert_eq!(byte(&driver.memory, 0), 1);
    // Zeros are what pages given back hold anyway.
    driver.device.write_config(12, &[0; 4]);
    report(&mut driver, 4, &[(PAGES, PAGE as u32)]);
    assert_eq!(byte(&driver.memory, 0), 0);
}

#[test]
fn features_and_queues_follow_the_options() {
    let (balloon, _) = balloon(Options::default());
    assert_eq!(balloon.features(), feature::STATS_VQ);
    assert_eq!(balloon.queue_sizes().len(), 3);
    let all =
        feature::STATS_VQ | feature::DEFLATE_ON_OOM | feature::PAGE_POISON | feature::REPORTING;
    let balloon = Balloon::new(ALL, Handle::new(0).unwrap());
    assert_eq!((balloon.features(), balloon.queue_sizes().len()), (all, 5));
}

#[test]
fn the_target_reaches_the_driver_and_the_actual_size_the_host() {
    let (mut driver, handle) = driver(ALL);
    handle.set_target_bytes(10 * PAGE + 5);
    wait("a configuration change", || driver.signals.config() == 1);
    let mut space = [0xff; 20];
    driver.device.read_config(0, &mut space);
    assert_eq!(space[..8], [10, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(space[8..], [0; 12]);
    driver.device.write_config(4, &7u32.to_le_bytes());
    assert_eq!((handle.actual_pages(), handle.target_pages()), (7, 10));
    handle.set_target_bytes(u64::MAX);
    assert_eq!(handle.target_pages(), u32::MAX);
}

#[test]
fn writes_elsewhere_in_the_configuration_change_nothing_else() {
    let (mut balloon, handle) = balloon(ALL);
    for offset in [0, 1, 8, 13, 15, 16, 17, u64::MAX] {
        balloon.write_config(offset, &[0xff]);
    }
    balloon.write_config(2, &[0xff; 64]);
    assert_eq!((handle.target_pages(), handle.actual_pages()), (0, u32::MAX));
    balloon.reset();
    assert_eq!(handle.actual_pages(), 0);
}

#[test]
fn a_new_target_is_told_however_it_meets_a_pause() {
    let (mut driver, handle) = driver(ALL);
    let queues = driver.device.quiesce();
    handle.set_target_pages(5);
    assert_eq!(driver.signals.config(), 0);
    driver.restart(queues);
    wait("a configuration change", || driver.signals.config() == 1);
}

#[test]
fn statistics_arrive_and_are_asked_for_again() {
    let (mut driver, handle) = driver(ALL);
    assert!(handle.statistics().is_none());
    let first = [entry(4, 1000), entry(5, 2000), entry(0x7777, 1)].concat();
    let posted = driver.queues[2].post(&[Part::Out(first)]);
    driver.queues[2].kick();
    wait("statistics", || handle.statistics().is_some());
    let statistics = handle.statistics().unwrap();
    assert_eq!(statistics.get(Statistic::Free), Some(1000));
    assert_eq!(statistics.get(Statistic::Total), Some(2000));
    assert_eq!(statistics.get(Statistic::SwapIn), None);
    // The buffer comes back when new ones are wanted, and not before.
    assert!(driver.queues[2].poll_used().is_none());
    handle.poll_statistics();
    assert_eq!(driver.queues[2].wait_used().0, posted);
    driver.queues[2].post(&[Part::Out(entry(4, 900)), Part::Out(entry(15, 3))]);
    driver.queues[2].kick();
    let free = || handle.statistics().and_then(|all| all.get(Statistic::Free));
    wait("new statistics", || free() == Some(900));
    assert_eq!(handle.statistics().unwrap().get(Statistic::DirectReclaims), Some(3));
}

#[test]
fn statistics_are_asked_for_at_intervals() {
    let interval = Some(Duration::from_millis(5));
    let (mut driver, handle) = driver(Options { statistics_interval: interval, ..ALL });
    for round in 0..5 {
        driver.queues[2].post(&[Part::Out(entry(4, round))]);
        driver.queues[2].kick();
        driver.queues[2].wait_used();
        assert_eq!(handle.statistics().unwrap().get(Statistic::Free), Some(round));
    }
}

#[test]
fn malformed_statistics_are_read_as_far_as_they_make_sense() {
    let (mut driver, handle) = driver(ALL);
    for bytes in [vec![4], [entry(4, 7), vec![0; 9]].concat(), vec![0xff; 100_000]] {
        driver.queues[2].post(&[Part::Out(bytes), Part::In(8)]);
        driver.queues[2].kick();
        wait("the buffer is held", || {
            handle.poll_statistics();
            driver.queues[2].poll_used().is_some()
        });
    }
    assert!(!driver.signals.needs_reset());
}

#[test]
fn pages_outside_of_memory_are_skipped() {
    let (mut driver, _) = driver(ALL);
    touch(&driver.memory, 2);
    let end = (MEMORY as u64 / PAGE) as u32;
    let nonsense = [u32::MAX, end, 0x10_0000, u32::MAX - 1, PFN, end - 1, end + 1];
    driver.queues[0].request(&[pfns(nonsense)]);
    assert_eq!((byte(&driver.memory, 0), byte(&driver.memory, 1)), (0, 1));
    // No numbers, a ragged one, a buffer to be written, a page named over and over.
    driver.queues[0].request(&[Part::In(4096)]);
    driver.queues[0].request(&[Part::Out(vec![0xff; 3])]);
    driver.queues[0].request(&[pfns(vec![PFN + 1; 5000]), Part::In(1)]);
    assert_eq!(byte(&driver.memory, 1), 0);
    driver.queues[1].request(&[Part::Out(vec![1; 7])]);
    driver.queues[4].request(&[Part::Out(vec![1; 8192])]);
    assert!(!driver.signals.needs_reset());
}

#[test]
fn a_request_without_measure_breaks_the_queue_and_no_other() {
    let (mut driver, _) = driver(ALL);
    driver.queues[0].post(&[Part::Out(vec![0xff; 1 << 20])]);
    driver.queues[0].kick();
    driver.signals.wait_for_reset_request();
    driver.queues[1].request(&[pfns([PFN])]);
    assert_eq!(driver.device.quiesce().len(), 5);
}

#[test]
fn a_bogus_ring_breaks_the_queue() {
    for index in 0..5 {
        let (mut driver, _) = driver(ALL);
        driver.queues[index].set_avail_index(4000);
        driver.queues[index].kick();
        driver.signals.wait_for_reset_request();
        assert_eq!(driver.device.quiesce().len(), 5);
    }
}

#[test]
fn a_saved_state_that_is_none_is_refused() {
    let (mut balloon, _) = balloon(ALL);
    let error = balloon.restore(&[0xff; 3]).unwrap_err();
    assert!(error.to_string().contains("balloon"));
}

survives_pause_and_restore!(balloon(ALL).0, 0, [pfns([PFN])]);

#[test]
fn requests_survive_pause_and_restore() {
    let (mut driver, mut handle) = driver(ALL);
    handle.set_target_pages(9);
    driver.device.write_config(4, &3u32.to_le_bytes());
    let statistics = driver.queues[2].post(&[Part::Out(entry(4, 4))]);
    driver.queues[2].kick();
    for round in 0..20 {
        touch(&driver.memory, 1);
        let posted = driver.queues[0].post(&[pfns([PFN])]);
        if round % 2 == 0 {
            driver.queues[0].kick();
        }
        if round % 3 == 0 {
            let (fresh, new) = balloon(ALL);
            driver.save_and_restore(fresh);
            handle = new;
        } else {
            driver.pause_and_resume();
        }
        assert_eq!(driver.queues[0].wait_used().0, posted);
        assert_eq!(byte(&driver.memory, 0), 0);
        assert_eq!((handle.target_pages(), handle.actual_pages()), (9, 3));
    }
    // The statistics' buffer was held all along, and is returned once.
    wait("statistics", || handle.statistics().is_some());
    handle.poll_statistics();
    assert_eq!(driver.queues[2].wait_used().0, statistics);
    assert!(driver.queues[2].poll_used().is_none());
}
