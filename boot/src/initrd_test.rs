use std::io::Write;

use proptest::prelude::*;
use vm_memory::GuestMemoryMmap;

use super::*;

fn initrd(content: &[u8]) -> Initrd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    Initrd::open(file, Path::new("/boot/initrd")).unwrap()
}

#[test]
fn is_loaded_again_and_again() {
    let initrd = initrd(b"070701 archive");
    for _ in 0..2 {
        let memory: GuestMemoryMmap =
            GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x4000)]).unwrap();
        initrd.load(&memory, 0x1000).unwrap();
        let mut found = [0; 14];
        memory.read_slice(&mut found, GuestAddress(0x1000)).unwrap();
        assert_eq!(&found, b"070701 archive");
    }
}

#[test]
fn a_file_that_shrank_is_an_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(100).unwrap();
    let initrd = Initrd::open(file.reopen().unwrap(), file.path()).unwrap();
    file.as_file().set_len(10).unwrap();
    let memory: GuestMemoryMmap =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
    assert!(matches!(initrd.load(&memory, 0), Err(Error::Load { size: 100, .. })));
}

#[test]
fn pipes_directories_and_empty_files_are_refused() {
    let path = Path::new("x");
    let directory = File::open("/").unwrap();
    assert!(matches!(Initrd::open(directory, path), Err(Error::NotRegular(_))));
    let empty = tempfile::tempfile().unwrap();
    assert!(matches!(Initrd::open(empty, path), Err(Error::Empty(_))));
}

proptest! {
    #[test]
    fn place_is_page_aligned_and_within_bounds(size in 1u64..1 << 40, floor: u32, ceiling: u64) {
        let initrd = Initrd { size, ..initrd(b"x") };
        if let Some(place) = initrd.place(floor.into(), ceiling) {
            prop_assert_eq!(place.start % PAGE_SIZE, 0);
            prop_assert_eq!(place.end - place.start, size);
            prop_assert!(place.start >= floor.into() && place.end <= ceiling);
            prop_assert!(ceiling - place.end < PAGE_SIZE);
        } else {
            prop_assert!(ceiling < u64::from(floor) + size + PAGE_SIZE);
        }
    }
}
