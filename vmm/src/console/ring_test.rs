//! Followers of a ring that is written faster than some of them read.

use std::thread;

use super::*;

/// Bytes that differ from place to place.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i ^ (i >> 8) ^ (i >> 16)).to_le_bytes()[0]).collect()
}

/// Everything there is now, kept.
fn read(follower: &mut Follower) -> Vec<u8> {
    let (mut all, mut buffer) = (vec![], [0; 1000]);
    while let Found::Bytes(count) = follower.read(&mut buffer) {
        all.extend_from_slice(&buffer[..count]);
        follower.confirm(follower.position());
    }
    all
}

fn wake() -> Arc<EventFd> {
    Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap())
}

#[test]
fn the_last_bytes_can_be_read_from_any_offset() {
    let ring = Ring::default();
    let all = pattern(200_000);
    for chunk in all.chunks(777) {
        ring.push(chunk);
    }
    assert_eq!(ring.end(), 200_000);
    for from in [200_000 - CAPACITY, 150_000, 199_999, 200_000] {
        let mut follower = ring.follow(Some(from as u64), false, wake());
        assert_eq!(follower.position(), from as u64);
        assert!(read(&mut follower) == all[from..]);
    }
}

#[test]
fn what_is_gone_or_not_written_yet_is_passed_over() {
    let ring = Ring::default();
    ring.push(&pattern(100_000));
    let position = |from| ring.follow(from, false, wake()).position();
    assert_eq!(position(Some(0)), (100_000 - CAPACITY) as u64);
    assert_eq!(position(Some(u64::MAX)), 100_000);
    assert_eq!(position(None), 100_000);
}

#[test]
fn a_slow_follower_is_told_what_it_lost_and_goes_on() {
    let ring = Ring::default();
    let mut follower = ring.follow(Some(0), false, wake());
    let all = pattern(100_000);
    ring.push(&all);
    let lost = 100_000 - CAPACITY;
    assert_eq!(follower.read(&mut [0; 4]), Found::Lost(lost as u64));
    assert!(read(&mut follower) == all[lost..]);
}

#[test]
fn who_found_nothing_is_woken_once_by_bytes_and_by_the_end() {
    let (ring, wake) = (Ring::default(), wake());
    let mut follower = ring.follow(None, false, Arc::clone(&wake));
    ring.push(b"a");
    assert!(wake.read().is_err(), "nobody asked yet");
    assert_eq!(read(&mut follower), b"a");
    ring.push(b"b");
    ring.push(b"c");
    assert_eq!(wake.read().unwrap(), 1);
    assert_eq!(read(&mut follower), b"bc");
    assert_eq!(follower.read(&mut [0]), Found::Nothing);
    ring.close();
    assert_eq!(wake.read().unwrap(), 1);
    assert_eq!(follower.read(&mut [0]), Found::Ended);
}

#[test]
fn a_keeper_that_reads_loses_nothing_however_fast_the_guest_is() {
    let ring = Ring::default();
    let mut keeper = ring.follow(Some(0), true, wake());
    let all = pattern(2_000_000);
    let expected = all.clone();
    let guest = thread::spawn(move || {
        ring.push(&all);
        ring.close();
        assert!(ring.is_kept());
    });
    let (mut kept, mut buffer) = (vec![], [0; 5000]);
    loop {
        match keeper.read(&mut buffer) {
            Found::Bytes(count) => {
                kept.extend_from_slice(&buffer[..count]);
                keeper.confirm(keeper.position());
            }
            Found::Nothing => thread::yield_now(),
            Found::Lost(bytes) => panic!("{bytes} bytes lost"),
            Found::Ended => break,
        }
    }
    assert!(kept == expected);
    guest.join().unwrap();
}

#[test]
fn nobody_waits_for_a_follower_that_is_no_keeper() {
    let ring = Ring::default();
    let _slow = ring.follow(Some(0), false, wake());
    let began = Instant::now();
    ring.push(&pattern(1 << 20));
    ring.close();
    assert!(began.elapsed() < PATIENCE / 2);
}

#[test]
fn a_keeper_that_goes_away_holds_nobody_up() {
    let ring = Ring::default();
    let keeper = ring.follow(Some(0), true, wake());
    let guest = thread::spawn(move || {
        let began = Instant::now();
        ring.push(&pattern(1 << 20));
        began.elapsed()
    });
    thread::sleep(Duration::from_millis(50));
    assert!(!guest.is_finished());
    drop(keeper);
    assert!(guest.join().unwrap() < PATIENCE / 2);
}

#[test]
fn a_keeper_that_reads_nothing_is_left_behind_once_until_it_has_caught_up() {
    let ring = Ring::default();
    let mut keeper = ring.follow(Some(0), true, wake());
    let began = Instant::now();
    ring.push(&pattern(1 << 20));
    let waited = began.elapsed();
    assert!((PATIENCE..PATIENCE * 2).contains(&waited), "{waited:?}");
    ring.push(&pattern(1 << 20));
    assert!(began.elapsed() < PATIENCE * 2);
    assert!(matches!(keeper.read(&mut [0]), Found::Lost(_)));
    read(&mut keeper);
    ring.push(b"x");
    assert!(!ring.is_kept(), "it is waited for again");
}

#[test]
fn what_a_keeper_has_read_but_not_kept_is_there_for_the_next() {
    let ring = Ring::default();
    let mut first = ring.follow(Some(0), true, wake());
    ring.push(b"abcdef");
    assert_eq!(first.read(&mut [0; 6]), Found::Bytes(6));
    first.confirm(2);
    assert!(!ring.is_kept());
    let mut second = ring.follow(Some(2), true, wake());
    assert_eq!(first.read(&mut [0]), Found::Ended, "there is one keeper");
    drop(first);
    assert!(ring.has_keeper());
    assert_eq!(read(&mut second), b"cdef");
    assert!(ring.is_kept());
}

#[test]
fn a_keeper_that_is_expected_misses_nothing() {
    let ring = Ring::default();
    ring.expect_keeper();
    assert!(ring.is_kept());
    let all = pattern(200_000);
    let (guest, expected) = (ring.clone(), all.clone());
    let guest = thread::spawn(move || {
        guest.push(&all);
        guest.close();
    });
    thread::sleep(Duration::from_millis(20));
    let mut keeper = ring.follow(Some(0), true, wake());
    let mut kept = vec![];
    while kept.len() < expected.len() {
        kept.extend(read(&mut keeper));
    }
    assert!(kept == expected);
    guest.join().unwrap();
}

#[test]
fn the_tail_is_of_whole_lines() {
    let ring = Ring::default();
    assert_eq!(ring.tail(10), b"");
    ring.push(b"first\nsecond\nthird");
    assert_eq!(ring.tail(100), b"first\nsecond\nthird");
    assert_eq!(ring.tail(10), b"third");
    assert_eq!(ring.tail(12), b"second\nthird");
    assert_eq!(ring.tail(3), b"ird");
}
