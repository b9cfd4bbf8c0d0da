//! Requests to devices: nearly right, so that they are read far into, and wrong in one place or another.

use super::access::write;
use super::device::Rings;
use super::random::Random;
use super::{ARENA, ARENA_LEN};

const NEXT: u64 = 1;
const WRITE: u64 = 2;
const INDIRECT: u64 = 4;
/// Most buffers of a chain.
const LONGEST: u64 = 9;

/// Puts a few chains into the rings of a device of type `kind`, and offers them.
pub fn offer(random: &mut Random, kind: u64, rings: &mut Rings) {
    let size = rings.size;
    for _ in 0..=random.below(4) {
        let head = random.below(size);
        let count = 1 + random.below(LONGEST.min(size));
        if random.once_in(8) {
            // A table of its own, sometimes of a length that is no multiple of an entry.
            let table = ARENA as u64 + (random.below(ARENA_LEN as u64 - 0x1000) & !0xf);
            chain(random, kind, table, 0, count, LONGEST);
            let len = if random.once_in(16) { random.value() } else { 16 * count };
            let more = if random.once_in(16) { NEXT } else { 0 };
            descriptor(rings.desc, head, [table, len, INDIRECT | more, random.below(size)]);
        } else {
            chain(random, kind, rings.desc, head, count, size);
        }
        let slot = rings.next % size;
        let entry = if random.once_in(64) { random.value() } else { head };
        put(rings.avail + 4 + 2 * slot, 2, entry);
        rings.next = rings.next.wrapping_add(1);
    }
    if random.once_in(200) {
        rings.next = rings.next.wrapping_add(random.value());
    }
    put(rings.avail, 2, random.below(2));
    put(rings.avail + 4 + 2 * size, 2, random.value());
    put(rings.avail + 2, 2, rings.next);
}

/// Writes `count` buffers one after another from `head` on.
fn chain(random: &mut Random, kind: u64, table: u64, head: u64, count: u64, size: u64) {
    // Most devices read the first buffers and fill the last.
    let filled = random.below(count + 1);
    for at in 0..count {
        let number = (head + at) % size;
        let address = if random.once_in(24) { random.address() } else { buffer(random) };
        let len = match (at, random.below(24)) {
            (_, 0) => random.value(),
            (_, 1) => 0,
            (0, 2..20) => header_len(kind),
            (_, 2..8) if at + 1 == count => 1,
            _ => 512 * random.below(16),
        };
        let mut flags = if at + 1 < count { NEXT } else { 0 };
        flags |= if at >= count - filled { WRITE } else { 0 };
        if random.once_in(64) {
            flags = random.value();
        }
        let next = if random.once_in(64) { random.value() } else { (number + 1) % size };
        descriptor(table, number, [address, len, flags, next]);
        if at == 0 {
            header(random, kind, address);
        }
    }
}

/// The length of what a request to a device of this type begins with (virtio 1.3, 5).
fn header_len(kind: u64) -> u64 {
    match kind {
        1 => 12,
        2 => 16,
        5 => 4,
        19 => 44,
        _ => 64,
    }
}

/// What such a request begins with.
fn header(random: &mut Random, kind: u64, at: u64) {
    let word = |offset: u64, width: u64, value: u64| put(at + offset, width, value);
    match kind {
        // Flags, offload, header length, segment size, checksum, buffers; or a class and a command.
        1 => {
            word(0, 1, random.below(4));
            word(1, 1, random.below(6));
            for offset in [2, 4, 6, 8] {
                word(offset, 2, random.value());
            }
        }
        // Type and sector.
        2 => {
            let kind =
                if random.once_in(8) { random.value() } else { random.pick(&[0, 1, 4, 8, 11, 13]) };
            word(0, 4, kind);
            let sector = if random.once_in(8) { random.value() } else { random.below(2048) };
            word(8, 8, sector);
        }
        // Pages.
        5 => {
            for slot in 0..16 {
                // Never those that this program is in.
                let page = if random.once_in(8) {
                    (1 << 31) | random.value()
                } else {
                    (buffer(random)) >> 12
                };
                word(4 * slot, 4, page);
            }
        }
        // Addresses, ports, length, type, operation, flags, credit.
        19 => {
            word(0, 8, random.pick(&[3, 3, 3, 2, u64::MAX]));
            word(8, 8, random.pick(&[2, 2, 2, 3, 77]));
            word(16, 4, 1000 + random.below(4));
            word(20, 4, 1024 + random.below(4));
            let len = if random.once_in(4) { random.value() } else { random.below(4096) };
            word(24, 4, len);
            word(28, 2, if random.once_in(16) { random.value() } else { 1 });
            word(30, 2, random.below(9));
            word(32, 4, random.below(4));
            word(36, 4, random.value());
            word(40, 4, random.value());
        }
        _ => {
            for slot in 0..4 {
                word(8 * slot, 8, random.value());
            }
        }
    }
}

fn buffer(random: &mut Random) -> u64 {
    ARENA as u64 + random.below(ARENA_LEN as u64 - 0x4000)
}

fn descriptor(table: u64, number: u64, [address, len, flags, next]: [u64; 4]) {
    let at = table.wrapping_add(16 * number);
    put(at, 8, address);
    put(at + 8, 4, len);
    put(at + 12, 2, flags);
    put(at + 14, 2, next);
}

/// Writes to the arena, and nowhere else: rings may be said to be anywhere.
fn put(address: u64, width: u64, value: u64) {
    let arena = ARENA as u64..(ARENA + ARENA_LEN) as u64;
    if arena.contains(&address) && arena.contains(&(address + width - 1)) {
        write(address as usize, width, value);
    }
}
