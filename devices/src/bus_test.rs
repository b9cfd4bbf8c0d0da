//! The bus as the machine builder and the vCPUs use it.

use proptest::prelude::*;

use super::*;

/// Remembers its last access; reads give the low byte of the offset.
#[derive(Default)]
struct Probe {
    last: Option<(u64, usize)>,
}

impl BusDevice for Probe {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.last = Some((offset, data.len()));
        data.fill(offset.to_le_bytes()[0]);
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Option<Action> {
        self.last = Some((offset, data.len()));
        Some(Action::DebugExit(data[0]))
    }
}

fn probe() -> Arc<Mutex<Probe>> {
    Arc::default()
}

#[test]
fn an_access_reaches_the_device_with_the_offset_in_its_range() {
    let mut bus = Bus::new("test");
    let device = probe();
    bus.insert(0x100, 0x10, device.clone()).unwrap();
    let mut data = [0; 2];
    bus.read(0x10e, &mut data);
    assert_eq!(data, [0xe, 0xe]);
    assert_eq!(bus.write(0x103, &[7]), Some(Action::DebugExit(7)));
    assert_eq!(device.lock().unwrap().last, Some((3, 1)));
}

#[test]
fn absent_and_straddling_accesses_read_all_ones_and_write_nothing() {
    let mut bus = Bus::new("test");
    let device = probe();
    bus.insert(0x100, 0x10, device.clone()).unwrap();
    for address in [0, 0xff, 0x10d, 0x110, u64::MAX - 1, u64::MAX] {
        let mut data = [0; 4];
        bus.read(address, &mut data);
        assert_eq!(data, [0xff; 4], "{address:#x}");
        assert_eq!(bus.write(address, &data), None);
    }
    bus.read(0x100, &mut []);
    assert_eq!(bus.write(0x100, &[]), None);
    assert_eq!(device.lock().unwrap().last, None);
}

#[test]
fn an_overlap_names_both_ranges() {
    let mut bus = Bus::new("I/O port");
    bus.insert(0x3f8, 8, probe()).unwrap();
    let error = bus.insert(0x3ff, 2, probe()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "I/O port bus: 0x3ff..=0x400 overlaps the device at 0x3f8..=0x3ff"
    );
}

#[test]
fn empty_and_wrapping_ranges_are_refused() {
    let mut bus = Bus::new("test");
    assert!(matches!(bus.insert(0, 0, probe()), Err(Error::BadRange { .. })));
    assert!(matches!(bus.insert(u64::MAX, 2, probe()), Err(Error::BadRange { .. })));
    bus.insert(u64::MAX, 1, probe()).unwrap();
    assert_eq!(bus.write(u64::MAX, &[1]), Some(Action::DebugExit(1)));
}

#[test]
fn a_device_stays_reachable_after_a_thread_panicked_while_holding_it() {
    let mut bus = Bus::new("test");
    let device = probe();
    bus.insert(0, 1, device.clone()).unwrap();
    let _ = std::thread::spawn(move || {
        let _guard = device.lock().unwrap();
        panic!("poisons the lock");
    })
    .join();
    assert_eq!(bus.write(0, &[3]), Some(Action::DebugExit(3)));
}

proptest! {
    #[test]
    fn lookups_agree_with_a_linear_search(
        ranges in prop::collection::vec((0u64..200, 0u64..20), 0..20),
        accesses in prop::collection::vec((0u64..230, 1usize..9), 0..50),
    ) {
        let mut bus = Bus::new("test");
        let mut model: Vec<(u64, u64)> = Vec::new();
        for (base, len) in ranges {
            let fits = len > 0 && model.iter().all(|&(b, l)| base + len <= b || b + l <= base);
            prop_assert_eq!(bus.insert(base, len, probe()).is_ok(), fits);
            if fits {
                model.push((base, len));
            }
        }
        for (address, len) in accesses {
            let end = address + len as u64;
            let hit = model.iter().find(|&&(b, l)| b <= address && end <= b + l);
            let mut data = vec![0xaa; len];
            bus.read(address, &mut data);
            let expected = hit.map_or(0xff, |&(b, _)| (address - b).to_le_bytes()[0]);
            prop_assert!(data.iter().all(|&byte| byte == expected));
        }
    }
}
