//! Readers of logs that are long, set aside, and broken.

use std::sync::mpsc::channel;
use std::time::{Instant, UNIX_EPOCH};

use proptest::prelude::*;
use tempfile::{TempDir, tempdir};

use super::super::{LIMIT, Writer};
use super::*;

fn at(milliseconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(milliseconds)
}

/// A log of lines `0` to `lines`, one a second, in files of at most `limit` bytes.
fn lines(lines: u64, limit: u64) -> TempDir {
    let folder = tempdir().unwrap();
    let mut writer = Writer::open(folder.path(), limit, 1);
    for line in 0..lines {
        writer.append(writer.offset(), format!("{line}\n").as_bytes(), at(line * 1000));
    }
    folder
}

fn read_all(reader: &mut Reader) -> String {
    let mut all = vec![];
    while let Some(piece) = reader.read().unwrap() {
        all.extend(piece.bytes);
    }
    String::from_utf8(all).unwrap()
}

fn read(folder: &TempDir, query: Query) -> String {
    read_all(&mut Reader::open(folder.path(), &query).unwrap())
}

fn expected(lines: impl Iterator<Item = u64>) -> String {
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn both_files_are_read_in_order() {
    // The first file is set aside after 200 lines or so, for its marks.
    let folder = lines(400, 20_000);
    assert!(folder.path().join("console.log.1").exists());
    assert_eq!(read(&folder, Query::default()), expected(0..400));
}

#[test]
fn no_log_is_an_empty_one() {
    let folder = tempdir().unwrap();
    assert_eq!(read(&folder, Query { tail: Some(3), ..Query::default() }), "");
    assert_eq!(read(&folder, Query { since: Some(at(1)), ..Query::default() }), "");
}

#[test]
fn the_last_lines_are_found_in_both_files() {
    for limit in [LIMIT, 20_000] {
        let folder = lines(400, limit);
        for count in [0, 1, 5, 50, 150, 399, 400, 1000u32] {
            let tail = Query { tail: usize::try_from(count).ok(), ..Query::default() };
            assert_eq!(read(&folder, tail), expected(400u64.saturating_sub(count.into())..400));
        }
    }
}

#[test]
fn a_last_line_without_end_is_a_line_and_long_ones_are_whole() {
    let folder = tempdir().unwrap();
    let mut writer = Writer::open(folder.path(), LIMIT, 1);
    let long = "x".repeat(200_000);
    writer.append(0, format!("first\n{long}\nlogin: ").as_bytes(), at(0));
    let tail = |lines| read(&folder, Query { tail: Some(lines), ..Query::default() });
    assert_eq!(tail(1), "login: ");
    assert!(tail(2) == format!("{long}\nlogin: "));
    assert!(tail(3).starts_with("first\n"));
}

#[test]
fn times_bound_what_is_read() {
    for limit in [LIMIT, 20_000] {
        let folder = lines(400, limit);
        for (from, to) in [(0, 399), (0, 10), (250, 350), (399, 1000), (500, 600)] {
            let (since, until) = (Some(at(from * 1000)), Some(at(to * 1000)));
            let all = read(&folder, Query { since, until, tail: None });
            assert_eq!(all, expected(from..400.min(to + 1)));
            let last = read(&folder, Query { since, until, tail: Some(2) });
            let end = 400.min(to + 1);
            assert_eq!(last, expected(from.max(end.saturating_sub(2))..end));
        }
    }
}

#[test]
fn pieces_say_when_they_were_written() {
    let folder = lines(3, LIMIT);
    Writer::open(folder.path(), LIMIT, 1).append(1000, b"later\n", at(9000));
    let mut reader = Reader::open(folder.path(), &Query::default()).unwrap();
    let mut pieces = vec![];
    while let Some(piece) = reader.read().unwrap() {
        pieces.push((millis(piece.time), String::from_utf8(piece.bytes).unwrap()));
    }
    let line = |line: u64| (line * 1000, format!("{line}\n"));
    let note = "[carve: 994 bytes of console output were lost here]\nlater\n";
    assert_eq!(pieces, [line(0), line(1), line(2), (9000, note.to_owned())]);
}

#[test]
fn who_follows_gets_everything_though_files_are_set_aside() {
    let folder = tempdir().unwrap();
    let path = folder.path().to_owned();
    let mut reader = Reader::open(folder.path(), &Query::default()).unwrap();
    let (go_on, may_go_on) = channel();
    let writer = thread::spawn(move || {
        let mut writer = Writer::open(&path, 20_000, 1);
        for i in 0..200 {
            writer.append(writer.offset(), format!("{i:>999}\n").as_bytes(), at(i * 10));
            // At most ten ahead: less than half a file.
            if i >= 10 {
                may_go_on.recv().unwrap();
            }
        }
    });
    let expected: String = (0..200).map(|i| format!("{i:>999}\n")).collect();
    let (mut all, mut told) = (String::new(), 0);
    let began = Instant::now();
    while all.len() < expected.len() {
        all += &read_all(&mut reader);
        while told < all.len() / 1000 {
            let _ = go_on.send(());
            told += 1;
        }
        reader.wait(Duration::from_millis(100));
        assert!(began.elapsed() < Duration::from_secs(60));
    }
    assert!(all == expected);
    writer.join().unwrap();
}

#[test]
fn who_is_too_slow_goes_on_with_what_is_there() {
    let folder = tempdir().unwrap();
    let mut writer = Writer::open(folder.path(), 5000, 1);
    let mut write = |i: u64| writer.append(i * 1000, format!("{i:>999}\n").as_bytes(), at(i * 100));
    write(0);
    let mut reader = Reader::open(folder.path(), &Query::default()).unwrap();
    (1..50).for_each(&mut write);
    let all = read_all(&mut reader);
    let numbers: Vec<u64> = all.lines().map(|line| line.trim().parse().unwrap()).collect();
    assert!(numbers.starts_with(&[0]) && numbers.ends_with(&[48, 49]), "{numbers:?}");
    assert!(numbers.is_sorted());
    write(50);
    assert!(read_all(&mut reader).trim() == "50");
}

#[test]
fn a_wait_ends_with_a_change() {
    let folder = lines(1, LIMIT);
    let mut reader = Reader::open(folder.path(), &Query::default()).unwrap();
    read_all(&mut reader);
    let path = folder.path().to_owned();
    let writer = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        Writer::open(&path, LIMIT, 1).append(2, b"news\n", at(0));
    });
    let began = Instant::now();
    while read_all(&mut reader) != "news\n" {
        reader.wait(Duration::from_secs(30));
    }
    assert!(began.elapsed() < Duration::from_secs(15));
    writer.join().unwrap();
}

proptest! {
    #[test]
    fn marks_that_make_no_sense_hide_nothing(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        lines in prop::collection::vec(prop::array::uniform5(0..40u64), 0..10),
        whole in any::<bool>(),
    ) {
        let folder = tempdir().unwrap();
        let text = "some\nlines\nof output\n";
        std::fs::write(folder.path().join("console.log"), text).unwrap();
        let lines = lines.iter().map(|[a, b, c, d, e]| format!("{a} {b} {c} {d} {e}\n"));
        let mut times: Vec<u8> = lines.collect::<String>().into();
        if !whole {
            times.extend(bytes);
        }
        std::fs::write(folder.path().join("console.times"), times).unwrap();
        prop_assert_eq!(read(&folder, Query::default()), text);
        let tail = Query { tail: Some(1), ..Query::default() };
        prop_assert_eq!(read(&folder, tail), "of output\n");
        let _ = read(&folder, Query { since: Some(at(20)), until: Some(at(30)), tail: Some(2) });
        let mut writer = Writer::open(folder.path(), LIMIT, 3);
        writer.append(writer.offset(), b"more\n", at(0));
        let log = std::fs::read(folder.path().join("console.log")).unwrap();
        prop_assert!(log.ends_with(b"more\n"));
    }
}
