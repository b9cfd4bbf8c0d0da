//! Writers that are killed, late, and out of room.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::UNIX_EPOCH;

use tempfile::{TempDir, tempdir};

use super::*;

const RUN: u64 = 1_700_000_000_000;

fn at(milliseconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(milliseconds)
}

fn open(folder: &TempDir) -> Writer {
    Writer::open(folder.path(), LIMIT, RUN)
}

fn text(folder: &TempDir, file: &str) -> String {
    fs::read_to_string(folder.path().join(file)).unwrap()
}

fn log(folder: &TempDir) -> String {
    text(folder, "console.log")
}

/// Cuts the end of a file off.
fn cut(folder: &TempDir, file: &str, length: u64) {
    let file = OpenOptions::new().write(true).open(folder.path().join(file)).unwrap();
    file.set_len(length).unwrap();
}

#[test]
fn the_log_is_what_the_guest_wrote_and_private() {
    let folder = tempdir().unwrap();
    let mut writer = open(&folder);
    writer.append(0, b"hello\r\n\x1b[1mlogin: ", at(0));
    writer.append(18, b"root\n", at(1000));
    assert_eq!(log(&folder), "hello\r\n\x1b[1mlogin: root\n");
    for file in ["console.log", "console.times"] {
        let mode = fs::metadata(folder.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn another_writer_goes_on_without_gap_or_repetition_wherever_the_first_was_killed() {
    let whole: String = (0..200).map(|i| format!("line {i}\n")).collect();
    for killed_at in 0..whole.len() {
        let folder = tempdir().unwrap();
        let mut writer = open(&folder);
        for (offset, chunk) in (0..).step_by(100).zip(whole.as_bytes().chunks(100)) {
            writer.append(offset, chunk, at(offset * 7));
        }
        drop(writer);
        // As after the mark, and before or amid the bytes.
        cut(&folder, "console.log", killed_at as u64);
        let mut writer = open(&folder);
        assert_eq!(writer.offset(), killed_at as u64);
        writer.append(killed_at as u64, &whole.as_bytes()[killed_at..], at(0));
        assert_eq!(log(&folder), whole);
        if killed_at > 300 {
            break;
        }
    }
}

#[test]
fn a_mark_that_was_not_written_to_its_end_is_dropped() {
    let folder = tempdir().unwrap();
    open(&folder).append(0, b"abc", at(0));
    let times = text(&folder, "console.times");
    fs::write(folder.path().join("console.times"), format!("{times}17000 3 ")).unwrap();
    let mut writer = open(&folder);
    assert_eq!(writer.offset(), 3);
    writer.append(3, b"def", at(5000));
    assert_eq!(text(&folder, "console.times"), format!("{times}5000 3 3 0 {RUN}\n"));
}

#[test]
fn lost_bytes_have_a_line_and_repeated_ones_are_passed_over() {
    let folder = tempdir().unwrap();
    let mut writer = open(&folder);
    writer.append(0, b"one\n", at(0));
    writer.append(1000, b"two", at(0));
    writer.append(1001, b"wo!", at(0));
    writer.append(0, b"one", at(0));
    writer.append(2000, b"three\n", at(0));
    let note = |lost| format!("[carve: {lost} bytes of console output were lost here]\n");
    assert_eq!(log(&folder), format!("one\n{}two!\n{}three\n", note(996), note(996)));
    assert_eq!(open(&folder).offset(), 2006);
}

#[test]
fn a_note_that_was_not_written_to_its_end_is_written_again() {
    let folder = tempdir().unwrap();
    let mut writer = open(&folder);
    writer.append(0, b"one\n", at(0));
    writer.append(1000, b"two\n", at(0));
    let whole = log(&folder);
    for length in 4..whole.len() as u64 - 4 {
        cut(&folder, "console.log", length);
        let mut writer = open(&folder);
        assert_eq!(writer.offset(), 4);
        writer.append(1000, b"two\n", at(0));
        assert_eq!(log(&folder), whole);
    }
}

#[test]
fn another_run_begins_at_its_beginning() {
    let folder = tempdir().unwrap();
    open(&folder).append(0, b"first\n", at(0));
    let mut writer = Writer::open(folder.path(), LIMIT, RUN + 1);
    assert_eq!(writer.offset(), 0);
    writer.append(0, b"second\n", at(1));
    assert_eq!(log(&folder), "first\nsecond\n");
    assert_eq!(Writer::open(folder.path(), LIMIT, RUN + 1).offset(), 7);
}

#[test]
fn a_flood_fills_two_files_and_no_more() {
    let folder = tempdir().unwrap();
    let limit = 100_000;
    let mut writer = Writer::open(folder.path(), limit, RUN);
    for i in 0..1000 {
        writer.append(i * 1000, &[b'x'; 1000], at(i * 100));
    }
    // And byte by byte, as slowly as costs most.
    for i in 0..20_000 {
        writer.append(1_000_000 + i, b"y", at(200_000 + i * 10));
    }
    let size = |file: &str| fs::metadata(folder.path().join(file)).unwrap().len();
    for file in ["console.log", "console.log.1"] {
        assert!(size(file) <= limit);
    }
    for file in ["console.times", "console.times.1"] {
        assert!(size(file) <= limit / 4 + 100);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
    assert_eq!(Writer::open(folder.path(), limit, RUN).offset(), 1_020_000);
}

#[test]
fn setting_files_aside_can_be_interrupted_anywhere() {
    for killed_after in 0..3 {
        let folder = tempdir().unwrap();
        let mut writer = Writer::open(folder.path(), 1000, RUN);
        writer.append(0, &[b'a'; 900], at(0));
        writer.append(900, b"b", at(100));
        let path = |file| folder.path().join(file);
        if killed_after > 0 {
            fs::rename(path("console.log"), path("console.log.1")).unwrap();
        }
        if killed_after > 1 {
            fs::rename(path("console.times"), path("console.times.1")).unwrap();
        }
        drop(writer);
        let mut writer = Writer::open(folder.path(), 1000, RUN);
        assert_eq!(writer.offset(), 901);
        writer.append(901, &[b'c'; 900], at(200));
        assert_eq!(text(&folder, "console.log.1"), "a".repeat(900) + "b");
        assert_eq!(log(&folder), "c".repeat(900));
        assert_eq!(Writer::open(folder.path(), 1000, RUN).offset(), 1801);
    }
}

#[test]
fn a_full_disk_ends_nothing_and_is_told_of_once_there_is_room() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("console.log");
    symlink("/dev/full", &path).unwrap();
    let mut writer = open(&folder);
    for i in 0..100 {
        writer.append(i * 10, b"0123456789", at(i * 1000));
    }
    assert_eq!(writer.offset(), 0);
    assert_eq!(text(&folder, "console.times"), HEADER, "marks of nothing are left");
    fs::remove_file(path).unwrap();
    let mut writer = open(&folder);
    writer.append(1000, b"again\n", at(0));
    let note = "[carve: 1000 bytes of console output were lost here]\n";
    assert_eq!(log(&folder), format!("{note}again\n"));
}

#[test]
fn a_folder_that_comes_later_is_written_to_then() {
    let folder = tempdir().unwrap();
    let later = folder.path().join("later");
    let mut writer = Writer::open(&later, LIMIT, RUN);
    writer.append(0, b"lost", at(0));
    fs::create_dir(&later).unwrap();
    writer.tried -= RETRY;
    writer.append(4, b"kept\n", at(0));
    let log = fs::read_to_string(later.join("console.log")).unwrap();
    assert_eq!(log, "[carve: 4 bytes of console output were lost here]\nkept\n");
}

#[test]
fn a_log_that_the_user_deletes_or_empties_goes_on() {
    let folder = tempdir().unwrap();
    let mut writer = open(&folder);
    writer.append(0, b"one\n", at(0));
    fs::remove_file(folder.path().join("console.log")).unwrap();
    writer.append(4, b"two\n", at(0));
    assert_eq!(log(&folder), "two\n");
    cut(&folder, "console.log", 0);
    writer.append(8, b"three\n", at(0));
    assert!(log(&folder).ends_with("three\n"));
    assert_eq!(open(&folder).offset(), 14);
}
