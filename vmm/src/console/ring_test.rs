//! Followers of a ring that is written faster than some of them read.

use std::thread;

use super::*;

/// Bytes that differ from place to place.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i ^ (i >> 8) ^ (i >> 16)).to_le_bytes()[0]).collect()
}

/// Everything there is now.
fn read(follower: &Follower) -> Vec<u8> {
    let (mut all, mut buffer) = (vec![], [0; 1000]);
    while let Found::Bytes(count) = follower.peek(&mut buffer) {
        all.extend_from_slice(&buffer[..count]);
        follower.advance(count);
    }
    all
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
        let follower = ring.follow(Some(from as u64), false).unwrap();
        assert_eq!(follower.position(), from as u64);
        assert!(read(&follower) == all[from..]);
    }
}

#[test]
fn what_is_gone_or_not_written_yet_is_passed_over() {
    let ring = Ring::default();
    ring.push(&pattern(100_000));
    let position = |from| ring.follow(from, false).unwrap().position();
    assert_eq!(position(Some(0)), (100_000 - CAPACITY) as u64);
    assert_eq!(position(Some(u64::MAX)), 100_000);
    assert_eq!(position(None), 100_000);
}

#[test]
fn a_slow_follower_is_told_what_it_lost_and_goes_on() {
    let ring = Ring::default();
    let follower = ring.follow(Some(0), false).unwrap();
    let all = pattern(100_000);
    ring.push(&all);
    let lost = 100_000 - CAPACITY;
    assert_eq!(follower.peek(&mut [0; 4]), Found::Lost(lost as u64));
    assert!(read(&follower) == all[lost..]);
}

#[test]
fn a_peek_moves_nothing() {
    let ring = Ring::default();
    ring.push(b"abcdef");
    let follower = ring.follow(Some(0), false).unwrap();
    let mut buffer = [0; 4];
    for _ in 0..2 {
        assert_eq!(follower.peek(&mut buffer), Found::Bytes(4));
        assert_eq!(&buffer, b"abcd");
    }
    follower.advance(3);
    assert_eq!(read(&follower), b"def");
    follower.advance(100);
    assert_eq!(follower.position(), 6);
}

#[test]
fn who_found_nothing_is_woken_once_by_bytes_and_by_the_end() {
    let ring = Ring::default();
    let follower = ring.follow(None, false).unwrap();
    ring.push(b"a");
    assert!(follower.event().read().is_err(), "nobody asked yet");
    assert_eq!(read(&follower), b"a");
    ring.push(b"b");
    ring.push(b"c");
    assert_eq!(follower.event().read().unwrap(), 1);
    assert_eq!(read(&follower), b"bc");
    assert_eq!(follower.peek(&mut [0]), Found::Nothing);
    ring.close();
    assert_eq!(follower.event().read().unwrap(), 1);
    assert_eq!(follower.peek(&mut [0]), Found::Ended);
}

#[test]
fn a_keeper_that_reads_loses_nothing_however_fast_the_guest_is() {
    let ring = Ring::default();
    let keeper = ring.follow(Some(0), true).unwrap();
    let all = pattern(2_000_000);
    let expected = all.clone();
    let guest = thread::spawn(move || {
        ring.push(&all);
        ring.close();
        assert!(ring.is_kept());
    });
    let (mut kept, mut buffer) = (vec![], [0; 5000]);
    loop {
        match keeper.peek(&mut buffer) {
            Found::Bytes(count) => {
                kept.extend_from_slice(&buffer[..count]);
                keeper.advance(count);
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
    let _slow = ring.follow(Some(0), false).unwrap();
    let began = Instant::now();
    ring.push(&pattern(1 << 20));
    ring.close();
    assert!(began.elapsed() < PATIENCE / 2);
}

#[test]
fn a_keeper_that_goes_away_holds_nobody_up() {
    let ring = Ring::default();
    let keeper = ring.follow(Some(0), true).unwrap();
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
    let keeper = ring.follow(Some(0), true).unwrap();
    let began = Instant::now();
    ring.push(&pattern(1 << 20));
    let waited = began.elapsed();
    assert!((PATIENCE..PATIENCE * 2).contains(&waited), "{waited:?}");
    ring.push(&pattern(1 << 20));
    assert!(began.elapsed() < PATIENCE * 2);
    assert!(matches!(keeper.peek(&mut [0]), Found::Lost(_)));
    read(&keeper);
    ring.push(b"x");
    assert!(!ring.is_kept(), "it is waited for again");
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
