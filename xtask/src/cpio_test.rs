//! Reads archives back as the kernel would: fixed header, padded name, padded contents.

use super::*;

struct Entry {
    name: String,
    mode: u32,
    contents: Vec<u8>,
    rdev: (u32, u32),
}

fn parse(archive: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut at = 0;
    loop {
        let header = &archive[at..at + 110];
        assert_eq!(&header[..6], b"070701");
        let field = |n: usize| {
            let text = std::str::from_utf8(&header[6 + 8 * n..14 + 8 * n]).unwrap();
            u32::from_str_radix(text, 16).unwrap()
        };
        let (size, name_size) = (field(6) as usize, field(11) as usize);
        let name = &archive[at + 110..at + 110 + name_size];
        assert_eq!(name.last(), Some(&0));
        let name = String::from_utf8(name[..name_size - 1].to_vec()).unwrap();
        if name == TRAILER {
            assert_eq!((at + 110 + name_size).next_multiple_of(4), archive.len());
            return entries;
        }
        let contents = (at + 110 + name_size).next_multiple_of(4);
        entries.push(Entry {
            name,
            mode: field(1),
            contents: archive[contents..contents + size].to_vec(),
            rdev: (field(9), field(10)),
        });
        at = (contents + size).next_multiple_of(4);
    }
}

#[test]
fn every_kind_of_entry_reads_back() {
    let mut archive = Archive::new(Vec::new());
    archive.directory("dev").unwrap();
    archive.character_device("dev/console", 5, 1).unwrap();
    archive.file("init", 0o755, b"#!/bin/sh\n").unwrap();
    archive.symlink("sh", "busybox").unwrap();
    let entries = parse(&archive.finish().unwrap());
    let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["dev", "dev/console", "init", "sh"]);
    assert_eq!(entries[0].mode, 0o040_755);
    assert_eq!((entries[1].mode, entries[1].rdev), (0o020_600, (5, 1)));
    assert_eq!((entries[2].mode, &entries[2].contents[..]), (0o100_755, &b"#!/bin/sh\n"[..]));
    assert_eq!((entries[3].mode, &entries[3].contents[..]), (0o120_777, &b"busybox"[..]));
}

proptest::proptest! {
    #[test]
    fn contents_of_any_length_stay_aligned(
        files in proptest::collection::vec(
            ("[a-z]{1,9}", proptest::collection::vec(proptest::num::u8::ANY, 0..20)), 0..6)
    ) {
        let mut archive = Archive::new(Vec::new());
        for (name, contents) in &files {
            archive.file(name, 0o644, contents).unwrap();
        }
        let bytes = archive.finish().unwrap();
        let read: Vec<_> = parse(&bytes).into_iter().map(|e| (e.name, e.contents)).collect();
        proptest::prop_assert_eq!(read, files);
    }
}
