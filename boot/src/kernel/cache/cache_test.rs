use std::os::unix::fs::PermissionsExt;

use super::super::elf;
use super::super::fixture;
use super::*;

struct Fixture {
    directory: tempfile::TempDir,
    cache: Cache,
    bytes: Vec<u8>,
    header: Header,
    image: Image,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut cache = Cache::new(directory.path());
        cache.settled = Duration::ZERO;
        let bzimage = fixture::linux_bzimage();
        let header = Header::parse(&bzimage, bzimage.len() as u64).unwrap();
        let bytes = fixture::linux();
        let image = elf::parse(&bytes.as_slice(), bytes.len() as u64).unwrap().image;
        Self { directory, cache, bytes, header, image }
    }

    fn store(&self, content: &[u8], id: &FileId) -> Result<Entry, Error> {
        let hash = Hash::of(content);
        self.cache.store(&hash, id, &self.header, &self.image, &self.bytes)
    }

    fn names(&self) -> Vec<String> {
        let files = fs::read_dir(&self.cache.entries).unwrap().flatten();
        let mut names: Vec<_> = files.map(|f| f.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn age(&self, content: &[u8], hours: u64) {
        let file = File::open(self.cache.path_of(&Hash::of(content))).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(3600 * hours)).unwrap();
    }
}

/// A file of its own; the directory entry may go.
fn id() -> FileId {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), format!("{:?}", file.path())).unwrap();
    FileId {
        name: format!("{:?}", file.path()).replace('/', "_"),
        ..FileId::new(&file.as_file().metadata().unwrap())
    }
}

#[test]
fn a_stored_kernel_is_found_by_file_and_by_content() {
    let fixture = Fixture::new();
    let (first, second) = (id(), id());
    assert!(fixture.cache.find_file(&first).is_none());
    let stored = fixture.store(b"a", &first).unwrap();
    assert_eq!(fixture.cache.find_file(&first).unwrap().image, stored.image);
    assert!(fixture.cache.find_file(&second).is_none());
    assert!(fixture.cache.find_content(&Hash::of(b"a"), &second).is_some());
    assert!(fixture.cache.find_file(&second).is_some(), "remembered");
    assert!(fixture.cache.find_content(&Hash::of(b"b"), &second).is_none());
}

#[test]
fn a_file_that_has_just_changed_is_not_remembered() {
    let mut fixture = Fixture::new();
    fixture.cache.settled = SETTLED;
    let id = id();
    fixture.store(b"a", &id).unwrap();
    assert!(fixture.cache.find_file(&id).is_none());
    assert!(fixture.cache.find_content(&Hash::of(b"a"), &id).is_some());
}

#[test]
fn file_ids_differ_in_content_that_changed_in_place() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let id = || FileId::new(&file.as_file().metadata().unwrap());
    fs::write(file.path(), b"a").unwrap();
    let before = id();
    assert_eq!(before, id());
    std::thread::sleep(Duration::from_millis(20));
    fs::write(file.path(), b"b").unwrap();
    assert_ne!(before, id());
}

#[test]
fn entries_are_private_and_opened_for_reading_only() {
    let fixture = Fixture::new();
    let entry = fixture.store(b"a", &id()).unwrap();
    assert_eq!(entry.file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&fixture.cache.entries).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(io::Write::write(&mut &entry.file, b"x").is_err());
}

#[test]
fn entries_others_can_write_are_ignored() {
    let fixture = Fixture::new();
    let id = id();
    fixture.store(b"a", &id).unwrap();
    let path = fixture.cache.path_of(&Hash::of(b"a"));
    fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
    assert!(fixture.cache.find_file(&id).is_none());
}

#[test]
fn damaged_entries_are_removed() {
    let fixture = Fixture::new();
    let id = id();
    fixture.store(b"a", &id).unwrap();
    let path = fixture.cache.path_of(&Hash::of(b"a"));
    fs::write(&path, b"garbage").unwrap();
    assert!(fixture.cache.find_file(&id).is_none());
    assert!(!path.exists());
    fixture.store(b"a", &id).unwrap();
    assert!(fixture.cache.find_file(&id).is_some(), "the index is mended");
}

#[test]
fn the_entries_used_longest_ago_make_room() {
    let mut fixture = Fixture::new();
    fixture.cache.max_entries = 2;
    fixture.store(b"a", &id()).unwrap();
    let b = id();
    fixture.store(b"b", &b).unwrap();
    fixture.age(b"a", 2);
    fixture.age(b"b", 3);
    assert!(fixture.cache.find_file(&b).is_some(), "used just now");
    fixture.store(b"c", &id()).unwrap();
    let left: Vec<_> =
        [b"a", b"b", b"c"].map(|c| fixture.cache.path_of(&Hash::of(c)).exists()).into();
    assert_eq!(left, [false, true, true]);
}

#[test]
fn the_size_is_bounded_and_what_is_too_large_is_refused() {
    let mut fixture = Fixture::new();
    let size = fixture.store(b"a", &id()).unwrap().file.metadata().unwrap().len();
    fixture.cache.max_bytes = size;
    fixture.age(b"a", 1);
    fixture.store(b"b", &id()).unwrap();
    assert!(!fixture.cache.path_of(&Hash::of(b"a")).exists());
    fixture.cache.max_bytes = size - 1;
    assert!(matches!(fixture.store(b"c", &id()), Err(Error::TooLarge(_))));
}

#[test]
fn abandoned_temporary_files_are_removed_and_fresh_ones_kept() {
    let fixture = Fixture::new();
    fixture.store(b"a", &id()).unwrap();
    let old = fixture.cache.entries.join("x.1.tmp");
    let new = fixture.cache.entries.join("x.2.tmp");
    let file = File::create(&old).unwrap();
    file.set_modified(SystemTime::now() - 2 * ABANDONED).unwrap();
    File::create(&new).unwrap();
    fixture.store(b"b", &id()).unwrap();
    assert!(!old.exists() && new.exists());
}

#[test]
fn the_index_is_bounded() {
    let fixture = Fixture::new();
    for _ in 0..MAX_LINKS + 5 {
        fixture.store(b"a", &id()).unwrap();
    }
    assert!(fs::read_dir(&fixture.cache.index).unwrap().count() <= MAX_LINKS);
}

#[test]
fn concurrent_writers_and_readers_never_see_half_an_entry() {
    let fixture = Fixture::new();
    let id = id();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    fixture.store(b"a", &id).unwrap();
                    let entry = fixture.cache.find_content(&Hash::of(b"a"), &id).unwrap();
                    assert_eq!(entry.header, fixture.header);
                }
            });
        }
    });
    assert_eq!(fixture.names().len(), 2, "{:?}", fixture.names());
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error() {
    let mut fixture = Fixture::new();
    let file = fixture.directory.path().join("file");
    fs::write(&file, b"").unwrap();
    fixture.cache = Cache::new(&file);
    let error = fixture.store(b"a", &id()).unwrap_err();
    assert!(matches!(error, Error::Io { action: "create the directory", .. }));
}
