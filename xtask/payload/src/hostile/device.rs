//! Devices as their drivers find them, on both transports: where their registers are, and the few steps that make
//! them work, so that what comes afterwards is taken seriously.

use super::access::{read, write};
use super::random::Random;

const ECAM: usize = 0xe000_0000;
/// Where base address registers are pointed at first, within reach of this program's page tables.
const BARS: usize = 0xc000_0000;
const MMIO: usize = 0xc000_0000;
const MMIO_STEP: usize = 0x1000;
/// On each transport.
pub const MOST: usize = 12;

const MAGIC: u64 = 0x7472_6976;
const VIRTIO: u64 = 0x1af4;
/// Types of capabilities (virtio 1.3, 4.1.4).
const COMMON: usize = 1;
const NOTIFY: usize = 2;

/// One device.
#[derive(Clone, Copy, Default)]
pub struct Device {
    /// What it is (virtio 1.3, 5).
    pub kind: u64,
    /// Registers: of the device on MMIO, or all that its base address register is of.
    pub base: usize,
    /// Their length.
    pub len: usize,
    /// Configuration space of the function; 0 on MMIO.
    pub config: usize,
    common: usize,
    notify: usize,
    multiplier: usize,
}

/// Finds up to [`MOST`] devices, and points those of PCI at addresses below 4 GiB.
pub fn find(found: &mut [Device; MOST]) -> usize {
    let mut count = 0;
    for slot in 0..MOST {
        let base = MMIO + slot * MMIO_STEP;
        if read(base, 4) == MAGIC && read(base + 8, 4) != 0 {
            found[count] =
                Device { kind: read(base + 8, 4), base, len: MMIO_STEP, ..Device::default() };
            count += 1;
        }
    }
    for slot in 0..32 {
        let config = ECAM + (slot << 15);
        if count < MOST && read(config, 2) == VIRTIO && read(config + 2, 2) >= 0x1040 {
            found[count] = Device::on_pci(config);
            count += 1;
        }
    }
    count
}

impl Device {
    fn on_pci(config: usize) -> Self {
        let mut device = Self { kind: read(config + 2, 2) - 0x1040, config, ..Self::default() };
        write(config + 4, 2, 0);
        write(config + 0x10, 4, u64::from(u32::MAX));
        device.len = (!(read(config + 0x10, 4) as u32 & !0xf)).wrapping_add(1) as usize;
        device.home();
        let mut at = read(config + 0x34, 1) as usize;
        for _ in 0..48 {
            if at == 0 {
                break;
            }
            if read(config + at, 1) == 9 {
                let offset = read(config + at + 8, 4) as usize;
                match read(config + at + 3, 1) as usize {
                    COMMON => device.common = offset,
                    NOTIFY => {
                        device.notify = offset;
                        device.multiplier = read(config + at + 16, 4) as usize;
                    }
                    _ => {}
                }
            }
            at = read(config + at + 1, 1) as usize;
        }
        device
    }

    /// Brings its registers back to where this program looks for them.
    pub fn home(&mut self) {
        if self.config == 0 {
            return;
        }
        let slot = (self.config - ECAM) >> 15;
        self.base = BARS + slot * self.len;
        write(self.config + 4, 2, 0);
        write(self.config + 0x10, 4, self.base as u64);
        write(self.config + 0x14, 4, 0);
        write(self.config + 4, 2, 6);
    }

    /// Asks it to begin anew.
    pub fn reset(&self) {
        self.set_status(0);
    }

    /// Whether it has given up on its driver.
    pub fn needs_reset(&self) -> bool {
        self.status() & 0x40 != 0
    }

    /// Whether it works for its driver.
    pub fn is_driven(&self) -> bool {
        self.status() == 15
    }

    fn status(&self) -> u64 {
        let register = if self.config == 0 { 0x70 } else { self.common + 0x14 };
        read(self.base + register, 1)
    }

    fn set_status(&self, status: u64) {
        match self.config {
            0 => write(self.base + 0x70, 4, status),
            _ => write(self.base + self.common + 0x14, 1, status),
        }
    }

    /// Takes most of its features, sets up to `queues` queues up with their rings in the arena, and starts it. `rings`
    /// learns where they are; the result is how many.
    pub fn start(&self, random: &mut Random, rings: &mut [Rings]) -> usize {
        self.reset();
        self.set_status(1);
        self.set_status(3);
        let refused = if random.once_in(2) { 0 } else { 1 << random.below(64) };
        for half in 0..2 {
            let offered = self.features(half);
            let wanted = offered & !(refused >> (32 * half)) as u32;
            self.accept(half, if random.once_in(200) { !wanted } else { wanted });
        }
        self.set_status(11);
        let mut count = 0;
        for index in 0..rings.len() as u64 {
            let most = self.select(index);
            if most == 0 {
                break;
            }
            let size = match random.below(40) {
                0 => random.value() & 0xffff,
                1 => 1,
                _ => most.min(1 << random.below(9)),
            };
            let mut place = || {
                let page =
                    super::ARENA as u64 + (random.below(super::ARENA_LEN as u64 - 0x2000) & !0xfff);
                if random.once_in(60) { random.address() } else { page }
            };
            let addresses = [place(), place(), place()];
            self.set_queue(size, addresses);
            rings[count] = Rings {
                index,
                size: size.clamp(1, 1024),
                desc: addresses[0],
                avail: addresses[1],
                next: 0,
            };
            count += 1;
        }
        self.set_status(15);
        count
    }

    fn features(&self, half: u64) -> u32 {
        let (select, register) =
            if self.config == 0 { (0x14, 0x10) } else { (self.common, self.common + 4) };
        write(self.base + select, 4, half);
        read(self.base + register, 4) as u32
    }

    fn accept(&self, half: u64, features: u32) {
        let (select, register) =
            if self.config == 0 { (0x24, 0x20) } else { (self.common + 8, self.common + 12) };
        write(self.base + select, 4, half);
        write(self.base + register, 4, features.into());
    }

    /// Its largest size.
    fn select(&self, index: u64) -> u64 {
        if self.config == 0 {
            write(self.base + 0x30, 4, index);
            return read(self.base + 0x34, 4) & 0xffff;
        }
        write(self.base + self.common + 0x16, 2, index);
        read(self.base + self.common + 0x18, 2)
    }

    fn set_queue(&self, size: u64, addresses: [u64; 3]) {
        let common = self.base + self.common;
        if self.config == 0 {
            write(self.base + 0x38, 4, size);
        } else {
            write(common + 0x18, 2, size);
            write(common + 0x1a, 2, 1);
        }
        for (at, address) in addresses.into_iter().enumerate() {
            let register =
                if self.config == 0 { self.base + 0x80 + 16 * at } else { common + 0x20 + 8 * at };
            write(register, 4, address & 0xffff_ffff);
            write(register + 4, 4, address >> 32);
        }
        match self.config {
            0 => write(self.base + 0x44, 4, 1),
            _ => write(common + 0x1c, 2, 1),
        }
    }

    /// Rings the doorbell of queue `index`.
    pub fn notify(&self, index: u64) {
        match self.config {
            0 => write(self.base + 0x50, 4, index),
            _ => write(self.base + self.notify + index as usize * self.multiplier, 2, index),
        }
    }

    /// Touches any of its registers.
    pub fn poke(&self, random: &mut Random) {
        let width = random.pick(&super::access::WIDTHS);
        let window = self.len as u64;
        let offset = match random.below(8) {
            // Configuration of the device, by both transports near the start.
            0 => random.below(0x200),
            1 => window - random.below(32),
            2 => random.below(window),
            // PCI: structures begin at multiples of a page or half of one.
            3 => (random.below(window) & !0x7ff) + random.below(0x40),
            _ => (random.below(0x100) & !3) + if self.config == 0 { 0 } else { self.common as u64 },
        };
        let address = self.base + offset as usize;
        if random.once_in(3) {
            read(address, width);
        } else {
            write(address, width, harmless(random.value()));
        }
    }

    /// Touches its configuration space; moves its registers, its interrupts, everything.
    pub fn poke_config(&self, random: &mut Random) {
        if self.config == 0 {
            return;
        }
        let width = random.pick(&[1, 2, 4, 8]);
        let offset = match random.below(4) {
            0 => 0x10 + random.below(24),
            1 => random.below(0x1000),
            2 => 4 + random.below(2),
            _ => random.below(0x100),
        };
        let value = match random.below(4) {
            0 => random.address(),
            1 => (BARS as u64) + (random.below(8) << 15),
            _ => random.value(),
        };
        let address = self.config + offset as usize;
        if random.once_in(3) {
            read(address, width);
        } else {
            write(address, width, harmless(value));
        }
    }
}

/// Without what would make a message-signalled interrupt an INIT, which stops a processor for good.
fn harmless(value: u64) -> u64 {
    value & !0x0000_0700_0000_0700
}

/// Where a queue's rings are, of which a driver would make sure.
#[derive(Clone, Copy, Default)]
pub struct Rings {
    pub index: u64,
    pub size: u64,
    pub desc: u64,
    pub avail: u64,
    /// Entries offered so far.
    pub next: u64,
}
