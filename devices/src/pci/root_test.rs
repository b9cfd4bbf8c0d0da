use std::ops::Range;

use proptest::prelude::*;

use super::*;

const WINDOW: Range<u64> = 0x10_0000..0x20_0000;
const LEN: u64 = 0x1000;

/// A function whose memory reads its number.
struct Fake {
    number: u8,
    config: ConfigSpace,
    bar: Arc<Bar>,
}

impl Function for Fake {
    fn read_config(&mut self, offset: u16, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: u16, data: &[u8]) {
        self.config.write(offset, data);
        self.bar.move_to(self.config.memory_base().and_then(|base| self.bar.answers_at(base)));
    }

    fn read_bar(&mut self, _: u64, data: &mut [u8]) {
        data.fill(self.number);
    }

    fn write_bar(&mut self, _: u64, _: &[u8]) -> Option<Action> {
        Some(Action::DebugExit(self.number))
    }
}

fn insert(root: &mut Root, number: u8) -> Result<u8, Full> {
    let identity = Identity { vendor: 0x1234, device: number.into(), ..HOST_BRIDGE };
    let mut config = ConfigSpace::new(identity);
    config.add_bar(LEN, WINDOW.start);
    let bar = Arc::new(Bar::new(LEN, vec![WINDOW].into()));
    let fake = Fake { number, config, bar: Arc::clone(&bar) };
    root.insert(Arc::new(Mutex::new(fake)), bar)
}

fn bus_of(count: u8) -> Arc<Root> {
    let mut root = Root::new();
    for number in 1..=count {
        assert_eq!(insert(&mut root, number), Ok(number));
    }
    Arc::new(root)
}

fn ecam(root: &Arc<Root>, device: u64, register: u64) -> [u8; 4] {
    let mut data = [0; 4];
    Ecam::new(Arc::clone(root)).read(device << 15 | register, &mut data);
    data
}

fn write_ecam(root: &Arc<Root>, device: u64, register: u64, data: &[u8]) {
    Ecam::new(Arc::clone(root)).write(device << 15 | register, data);
}

fn memory(root: &Arc<Root>, address: u64) -> u8 {
    let mut data = [0];
    MmioWindow::new(Arc::clone(root), WINDOW.start).read(address - WINDOW.start, &mut data);
    data[0]
}

#[test]
fn a_host_bridge_is_at_device_0() {
    let root = bus_of(0);
    assert_eq!(ecam(&root, 0, 0), [0x36, 0x1b, 8, 0]);
    assert_eq!(ecam(&root, 0, 8), [0, 0, 0, 6]);
}

#[test]
fn there_is_room_for_31_functions() {
    let mut root = Root::new();
    for number in 1..=31 {
        assert_eq!(insert(&mut root, number), Ok(number));
    }
    assert_eq!(insert(&mut root, 32), Err(Full));
}

#[test]
fn absent_functions_read_all_ones_and_take_writes() {
    let root = bus_of(1);
    let space = Ecam::new(Arc::clone(&root));
    // Device 2, function 1 of device 1, bus 1, and an access across the end of a function.
    for offset in [2 << 15, 1 << 15 | 1 << 12, 1 << 20 | 1 << 15, (1 << 15) + 0xffe, u64::MAX] {
        let mut data = [0; 4];
        space.read(offset, &mut data);
        assert_eq!(data, [0xff; 4], "{offset:#x}");
        assert_eq!(space.write(offset, &data), None);
    }
}

#[test]
fn the_ports_reach_the_same_registers() {
    let root = bus_of(2);
    let mut ports = ConfigPorts::new(Arc::clone(&root));
    let mut word = [0; 4];
    ports.write(0, &0x8000_1000u32.to_le_bytes());
    ports.read(4, &mut word);
    assert_eq!(word, ecam(&root, 2, 0));
    // Part of a register.
    ports.read(6, &mut word[..1]);
    assert_eq!(word[0], 2);
    ports.read(0, &mut word);
    assert_eq!(u32::from_le_bytes(word), 0x8000_1000);
    // The command register.
    ports.write(0, &0x8000_1004u32.to_le_bytes());
    ports.write(4, &[2, 0]);
    assert_eq!(ecam(&root, 2, 4), [2, 0, 0, 0]);
}

#[test]
fn the_ports_are_closed_until_enabled_and_narrow_writes_do_not_open_them() {
    let root = bus_of(1);
    let mut ports = ConfigPorts::new(root);
    let mut word = [0; 4];
    for address in [&0x0000_0800u32.to_le_bytes()[..], &[0x80], &[0, 0x80]] {
        ports.write(0, address);
        ports.write(3, &[0x80]);
        ports.read(4, &mut word);
        assert_eq!(word, [0xff; 4]);
    }
    // Function 1, bus 1, an absent device.
    for address in [0x8000_0900u32, 0x8001_0800, 0x8000_f800] {
        ports.write(0, &address.to_le_bytes());
        ports.read(4, &mut word);
        assert_eq!(word, [0xff; 4], "{address:#x}");
    }
}

#[test]
fn memory_answers_where_the_guest_puts_it() {
    let root = bus_of(1);
    assert_eq!(memory(&root, WINDOW.start), 0xff);
    write_ecam(&root, 1, 4, &[2, 0]);
    assert_eq!(memory(&root, WINDOW.start), 1);
    write_ecam(&root, 1, 0x10, &0x18_0000u32.to_le_bytes());
    assert_eq!((memory(&root, WINDOW.start), memory(&root, 0x18_0fff)), (0xff, 1));
    let window = MmioWindow::new(Arc::clone(&root), WINDOW.start);
    assert_eq!(window.write(0x8_0000, &[1]), Some(Action::DebugExit(1)));
    // Outside of the window, and half out of it.
    for address in [0x30_0000u32, 0x0f_f000, 0] {
        write_ecam(&root, 1, 0x10, &address.to_le_bytes());
        assert_eq!(memory(&root, WINDOW.start), 0xff);
    }
    write_ecam(&root, 1, 0x10, &0x18_0000u32.to_le_bytes());
    write_ecam(&root, 1, 4, &[0, 0]);
    assert_eq!(memory(&root, 0x18_0000), 0xff);
}

#[test]
fn where_memories_overlap_the_lowest_slot_answers() {
    let root = bus_of(3);
    for device in [3, 2, 1] {
        write_ecam(&root, device, 4, &[2, 0]);
        assert_eq!(u64::from(memory(&root, WINDOW.start)), device);
    }
}

proptest! {
    #[test]
    fn no_access_panics(
        accesses in prop::collection::vec((0u8..3, any::<bool>(), any::<u64>(), 0u64..0x40_0000, prop::collection::vec(any::<u8>(), 0..17)), 0..200)
    ) {
        let root = bus_of(31);
        let space = Ecam::new(Arc::clone(&root));
        let window = MmioWindow::new(Arc::clone(&root), WINDOW.start);
        let mut ports = ConfigPorts::new(root);
        for (way, wild, far, near, mut data) in accesses {
            let offset = if wild { far } else { near };
            match way {
                0 => { space.write(offset, &data); space.read(offset, &mut data); }
                1 => { ports.write(offset % 9, &data); ports.read(offset % 9, &mut data); }
                _ => { window.write(offset, &data); window.read(offset, &mut data); }
            }
        }
    }
}
