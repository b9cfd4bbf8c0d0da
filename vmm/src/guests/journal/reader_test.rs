//! Reading the journal beside its writers.

use std::fs;
use std::io::Write;
use std::path::Path;

use super::*;

fn line(number: u64) -> String {
    let event = Event { time: number, event: "reset".into(), ..Event::default() };
    format!("{}\n", serde_json::to_string(&event).unwrap())
}

fn append(path: &Path, text: &str) {
    let mut file = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// The times of all events there are now.
fn times(reader: &mut Reader) -> Vec<u64> {
    std::iter::from_fn(|| reader.read().unwrap()).map(|event| event.time).collect()
}

#[test]
fn events_are_read_from_the_oldest_on_across_files() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::new(folder.path());
    let (path, before) = (journal.path().to_owned(), Journal::before(journal.path()));
    let mut early = journal.read();
    assert_eq!(times(&mut early), [0u64; 0]);
    append(&before, &line(1));
    append(&path, &line(2));
    let mut reader = journal.read();
    assert_eq!(times(&mut reader), [1, 2]);
    assert_eq!(times(&mut early), [1, 2]);

    append(&path, &line(3));
    fs::rename(&path, &before).unwrap();
    assert_eq!(times(&mut reader), [3], "what came before the file was put aside");
    append(&path, &line(4));
    assert_eq!(times(&mut reader), [4]);

    fs::rename(&path, &before).unwrap();
    append(&path, &line(5));
    fs::rename(&path, &before).unwrap();
    append(&path, &line(6));
    assert_eq!(times(&mut reader), [5, 6], "two files since the last look");
    assert_eq!(times(&mut reader), [0u64; 0]);
}

#[test]
fn lines_come_whole_and_what_is_no_event_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::new(folder.path());
    let mut reader = journal.read();
    let whole = line(1);
    append(journal.path(), &whole[..10]);
    assert_eq!(times(&mut reader), [0u64; 0]);
    append(journal.path(), &whole[10..]);
    assert_eq!(times(&mut reader), [1]);
    append(journal.path(), "{\"time\":\n\n\0\0\n");
    append(journal.path(), &"x".repeat(3 * LONGEST));
    append(journal.path(), &format!("\n{}", line(2)));
    assert_eq!(times(&mut reader), [2]);
    assert!(reader.bytes.capacity() <= 2 * LONGEST, "{}", reader.bytes.capacity());
}

#[test]
fn a_writer_that_turns_the_file_over_loses_no_reader() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::new(folder.path());
    let mut reader = journal.read();
    let mut read = 0;
    let long = "x".repeat(64 << 10);
    for number in 0..300 {
        let event = Event { time: number, event: long.clone(), ..Event::default() };
        journal.append(&event).unwrap();
        if number % 40 == 0 {
            read += times(&mut reader).len();
        }
    }
    read += times(&mut reader).len();
    assert_eq!(read, 300);
}
