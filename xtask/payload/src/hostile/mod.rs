//! A malicious driver: registers written at random and against the rules, base addresses moved onto each other, rings
//! corrupted while devices work on them, by a second processor as well. Everything it does follows from one seed, as far as
//! two processors at once can.
//!
//! It says `hostile N` now and then, N being the operations so far, and stays alive: what would only end this guest
//! (power, reset) is left out.

mod access;
mod chains;
mod device;
mod random;

use core::fmt::Write;
use core::sync::atomic::{AtomicBool, Ordering};

use self::device::{Device, MOST, Rings};
use self::random::Random;
use crate::io::Serial;

/// Memory that is played with: everything else is this program's.
const ARENA: usize = 0x100_0000;
const ARENA_LEN: usize = 0x200_0000;
/// The machine has 64 MiB.
const RAM_END: usize = 0x400_0000;
/// Queues of a device that are used.
const QUEUES: usize = 6;
/// Lines that tell of progress.
const LINES: u64 = 20;
/// Operations between two times that everything is brought back to where it can be found.
const ROUND: u64 = 512;

static STARTED: AtomicBool = AtomicBool::new(false);

/// Does `operations` operations, while a second processor, where there is one, does as much as it can.
pub fn run(seed: u64, operations: u64, hypercalls: bool) {
    access::HYPERCALLS.store(hypercalls, Ordering::Relaxed);
    // Touched before anybody measures how much memory the monitor has.
    for page in (ARENA..RAM_END).step_by(4096) {
        access::write(page, 8, 0);
    }
    let mut devices = [Device::default(); MOST];
    let count = device::find(&mut devices);
    start_second(seed);
    let mut player = Player {
        random: Random::new(seed),
        devices,
        count,
        rings: [[Rings::default(); QUEUES]; MOST],
    };
    let _ = writeln!(Serial, "hostile seed {seed} devices {count}");
    let line = (operations / LINES).max(1);
    for done in 0..operations {
        if done % ROUND == 0 {
            player.gather();
        }
        player.play();
        if (done + 1) % line == 0 {
            access::mend_serial();
            let _ = writeln!(Serial, "hostile {}", done + 1);
        }
    }
}

/// Starts all devices and leaves them alone, for ever.
pub fn drive(seed: u64) -> ! {
    let mut devices = [Device::default(); MOST];
    let count = device::find(&mut devices);
    let mut random = Random::new(seed);
    for device in &devices[..count] {
        let mut rings = [Rings::default(); QUEUES];
        while device.start(&mut random, &mut rings) == 0 || !device.is_driven() {}
    }
    let _ = writeln!(Serial, "driving");
    loop {
        core::hint::spin_loop();
    }
}

/// Starts the second processor by INIT and start-up interrupts (Intel SDM volume 3, 10.4.4).
fn start_second(seed: u64) {
    unsafe extern "C" {
        static second_start: u8;
        static second_end: u8;
    }
    const PLACE: usize = 0x8000;
    const COMMAND: usize = 0xfee0_0300;
    let (from, end) = (&raw const second_start as usize, &raw const second_end as usize);
    for at in 0..end - from {
        access::write(PLACE + at, 1, access::read(from + at, 1));
    }
    access::write(PLACE + 0x800, 8, seed);
    access::write(COMMAND + 0x10, 4, 1 << 24);
    for command in [0x4500, 0x4600 | (PLACE as u64 >> 12), 0x4600 | (PLACE as u64 >> 12)] {
        access::write(COMMAND, 4, command);
        let start = crate::io::now();
        while crate::io::now() - start < 20_000_000 && !STARTED.load(Ordering::Acquire) {
            core::hint::spin_loop();
        }
    }
}

/// First instruction of the second processor in ring 3.
#[unsafe(no_mangle)]
extern "sysv64" fn second_main() -> ! {
    STARTED.store(true, Ordering::Release);
    let seed = access::read(0x8800, 8);
    let mut devices = [Device::default(); MOST];
    // While the first one plays: what is found may be nonsense.
    let count = device::find(&mut devices);
    let random = Random::new(seed ^ 0xaaaa_5555);
    let mut player = Player { random, devices, count, rings: [[Rings::default(); QUEUES]; MOST] };
    loop {
        player.gather();
        for _ in 0..ROUND {
            player.play();
        }
    }
}

struct Player {
    random: Random,
    devices: [Device; MOST],
    count: usize,
    rings: [[Rings; QUEUES]; MOST],
}

impl Player {
    /// Brings all devices to where they can be found, and makes them work.
    fn gather(&mut self) {
        for index in 0..self.count {
            self.devices[index].home();
            self.start(index);
        }
    }

    fn start(&mut self, index: usize) {
        self.rings[index] = [Rings::default(); QUEUES];
        self.devices[index].start(&mut self.random, &mut self.rings[index]);
    }

    /// One operation.
    fn play(&mut self) {
        let random = &mut self.random;
        let index = random.below(self.count as u64) as usize;
        let device = self.devices[index];
        match random.below(64) {
            0..20 => {
                let rings = &mut self.rings[index][random.below(QUEUES as u64) as usize];
                if rings.size > 0 {
                    chains::offer(random, device.kind, rings);
                    device.notify(rings.index);
                }
            }
            20..34 => device.poke(random),
            34..42 => device.poke_config(random),
            42..48 => scribble(random),
            48..52 => access::port(random),
            52 => interrupts(random),
            53 => access::copy(
                device.base + random.below(0x800) as usize,
                ARENA + ARENA_LEN,
                random.below(64) as usize,
            ),
            54 => device.notify(random.value() & 0x3f),
            55 => device.reset(),
            56..58 => access::privileged(random),
            58 => {
                // Somewhere in the windows of device memory, most of it nobody's.
                let address = 0xc000_0000 + random.below(0x3ec0_0000) as usize;
                access::read(address, random.pick(&access::WIDTHS));
            }
            59 => self.start(index),
            _ => {
                if device.needs_reset() {
                    self.start(index);
                }
            }
        }
    }
}

/// Overwrites what devices may be reading at this moment.
fn scribble(random: &mut Random) {
    let mut at = ARENA + random.below(ARENA_LEN as u64 - 0x1000) as usize;
    if random.once_in(2) {
        at &= !0xfff;
    }
    for _ in 0..random.below(32) {
        access::write(
            at + (random.below(0x100) as usize),
            random.pick(&[1, 2, 4, 8]),
            random.value(),
        );
    }
}

/// Registers of the I/O APIC: any entry, without delivery as INIT, which stops a processor for good.
fn interrupts(random: &mut Random) {
    const SELECT: usize = 0xfec0_0000;
    const WINDOW: usize = SELECT + 0x10;
    write_any(SELECT, random);
    match random.below(3) {
        0 => drop(access::read(WINDOW, random.pick(&[1, 2, 4, 8]))),
        _ => access::write(WINDOW, 4, random.value() & !0x700),
    }
}

fn write_any(address: usize, random: &mut Random) {
    access::write(address, random.pick(&[1, 4]), random.below(0x80));
}
