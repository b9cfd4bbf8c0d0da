//! Guest memory on the host.

use resources::config::VmConfig;
use vm_memory::{Bytes, GuestMemoryBackend};

use super::*;

fn config(text: &str) -> VmConfig {
    let spec: resources::config::VmSpec = toml::from_str(text).unwrap();
    spec.resolve().unwrap()
}

fn map_all(text: &str) -> GuestMemory {
    let config = config(&format!("kernel = 'k'\n{text}"));
    let memory = map(&RamLayout::new(config.memory.size.bytes()), &config).unwrap();
    settle(&memory, &config).unwrap();
    memory
}

#[test]
fn memory_across_the_hole_is_two_regions_at_huge_page_boundaries() {
    let memory = map_all("memory = '4GiB'");
    let regions: Vec<_> = memory.iter().map(|r| (r.start_addr().0, r.len())).collect();
    assert_eq!(regions, [(0, 3 << 30), (4 << 30, 1 << 30)]);
    for region in memory.iter() {
        let host = region.get_host_address(MemoryRegionAddress(0)).unwrap() as usize;
        assert_eq!(host % HUGE_PAGE, 0);
    }
    memory.write_obj(7u64, GuestAddress((5 << 30) - 8)).unwrap();
    assert!(memory.write_obj(7u64, GuestAddress((5 << 30) - 4)).is_err());
    assert!(memory.read_obj::<u8>(GuestAddress(3 << 30)).is_err());
}

#[test]
fn memory_is_populated_by_touch_unless_asked_for_in_advance() {
    for (prefault, populated) in [(false, 0), (true, 64)] {
        let memory = map_all(&format!(
            "memory = {{ size = '4MiB', prefault = {prefault}, transparent_hugepages = false }}\n"
        ));
        let host = memory.iter().next().unwrap().get_host_address(MemoryRegionAddress(0)).unwrap();
        let mut present = [0u8; 64];
        // SAFETY: asks about our own mapping; 64 pages have 64 answers.
        let asked = unsafe { libc::mincore(host.cast(), 64 * 4096, present.as_mut_ptr()) };
        assert_eq!(asked, 0);
        assert_eq!(present.iter().filter(|&&p| p & 1 != 0).count(), populated);
    }
}

#[test]
fn shared_memory_has_a_file_and_private_memory_has_none() {
    for (backing, has_file) in [("memfd", true), ("anonymous", false)] {
        let memory = map_all(&format!("memory = {{ size = '4MiB', backing = '{backing}' }}"));
        let region = memory.iter().next().unwrap();
        assert_eq!(region.file_offset().is_some(), has_file);
    }
}

#[test]
fn a_lack_of_huge_pages_is_an_error_with_the_remedy_and_not_a_signal() {
    let config = config("kernel = 'k'\nmemory = '64GiB'\nhugepages = '1GiB'");
    let error = map(&RamLayout::new(64 << 30), &config).unwrap_err().to_string();
    assert!(error.contains("hugepages-1048576kB/nr_hugepages"), "{error}");
}

#[test]
fn the_mapping_goes_with_its_last_user() {
    let memory = map_all("memory = '4MiB'");
    let host = memory.iter().next().unwrap().get_host_address(MemoryRegionAddress(0)).unwrap();
    let clone = memory.clone();
    drop(memory);
    clone.write_obj(1u8, GuestAddress(0)).unwrap();
    drop(clone);
    let mut present = 0u8;
    // SAFETY: asks only; the kernel answers ENOMEM where nothing is mapped.
    let asked = unsafe { libc::mincore(host.cast(), 4096, &raw mut present) };
    assert_eq!(asked, -1);
}

#[test]
fn guest_memory_is_in_no_core_dump_and_no_child() {
    let memory = map_all("memory = '4MiB'");
    let host = memory.iter().next().unwrap().get_host_address(MemoryRegionAddress(0)).unwrap();
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    // A mapping's first line begins with its addresses; "dc" and "dd" are its advice (proc_pid_smaps(5)).
    let of_guest = maps.split("\nVmFlags: ").zip(maps.split("\nVmFlags: ").skip(1));
    let (_, flags) = of_guest
        .filter(|(mapping, _)| mapping.contains(&format!("{:x}-", host.addr())))
        .last()
        .unwrap();
    let flags: Vec<_> = flags.lines().next().unwrap().split_whitespace().collect();
    assert!(flags.contains(&"dc") && flags.contains(&"dd"), "{flags:?}");
}
