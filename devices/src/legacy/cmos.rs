//! The PC's CMOS: an MC146818 real-time clock and the battery-backed RAM behind it, reached
//! through an index and a data port. It is where a kernel without other source learns the date.
//!
//! Timekeeping only: no periodic, alarm or update interrupts (the alarm registers merely store),
//! and the NMI mask bit of the index port has no effect. How dates become register contents is in
//! `CivilTime`, at the end of this file.

use std::time::{SystemTime, UNIX_EPOCH};

use super::ByteRegisters;
use crate::bus::Action;

/// The index port; the data port follows.
pub const PORT: u16 = 0x70;
/// Number of ports.
pub const LEN: u16 = 2;
/// CMOS offset of the century, for the FADT (ACPI 6.5, 5.2.9).
pub const CENTURY: u8 = 0x32;

const INDEX_PORT: u64 = 0;
const DATA_PORT: u64 = 1;
const INDEX_MASK: u8 = 0x7f;

/// Seconds, minutes, hours, day of week, day of month, month, year, century.
const TIME_REGISTERS: [u8; 8] = [0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09, CENTURY];
type TimeRegisters = [u8; TIME_REGISTERS.len()];

const REGISTER_A: u8 = 0x0a;
const REGISTER_B: u8 = 0x0b;
const REGISTER_C: u8 = 0x0c;
const REGISTER_D: u8 = 0x0d;

/// Register A: an update of the time registers is less than 244 µs away.
const A_UPDATE_IN_PROGRESS: u8 = 1 << 7;
const A_DIVIDER_MASK: u8 = 0x70;
/// 32.768 kHz time base: the clock runs.
const A_DIVIDER_RUNNING: u8 = 0x20;
const A_RATE_1024_HZ: u8 = 0x06;
/// Register B: the guest sets the clock, updates are held.
const B_SET: u8 = 1 << 7;
const B_BINARY: u8 = 1 << 2;
const B_24_HOURS: u8 = 1 << 1;
/// Register D: RAM and time are valid.
const D_VALID: u8 = 1 << 7;

/// How long before the second changes register A announces it, in nanoseconds.
const UPDATE_WINDOW: u32 = 244_000;

/// The clock and 128 bytes of CMOS RAM.
pub struct Cmos {
    clock: Box<dyn Fn() -> SystemTime + Send>,
    index: u8,
    ram: [u8; 128],
    /// Guest's clock minus host's, in seconds. Both lie within the years [`CivilTime`] covers, which
    /// bounds it.
    offset: i64,
    /// The time registers while the guest holds the SET bit.
    held: Option<TimeRegisters>,
}

impl Cmos {
    /// A clock that shows `clock` in UTC (times before 1970 as 1970) until the guest sets it, BCD
    /// and 24 hours, and RAM that tells of `below_4g` bytes of memory below the MMIO hole (counted
    /// from 0) and `above_4g` bytes from 4 GiB up.
    pub fn new(clock: Box<dyn Fn() -> SystemTime + Send>, below_4g: u64, above_4g: u64) -> Self {
        let mut cmos = Self { clock, index: 0, ram: [0; 128], offset: 0, held: None };
        cmos.ram[usize::from(REGISTER_A)] = A_DIVIDER_RUNNING | A_RATE_1024_HZ;
        cmos.ram[usize::from(REGISTER_B)] = B_24_HOURS;

        // Sizes where PC firmware leaves them, each saturating at what its registers hold:
        // conventional memory in KiB, from 1 MiB in KiB (twice), from 16 MiB in 64 KiB, from 4 GiB
        // in 64 KiB.
        let from_1m = below_4g.saturating_sub(1 << 20) >> 10;
        let from_16m = below_4g.saturating_sub(16 << 20) >> 16;
        let conventional = (below_4g >> 10).min(640);
        cmos.store::<2>(0x15, conventional);
        cmos.store::<2>(0x17, from_1m);
        cmos.store::<2>(0x30, from_1m);
        cmos.store::<2>(0x34, from_16m);
        cmos.store::<3>(0x5b, above_4g >> 16);
        cmos
    }

    /// Stores the low `N` bytes of `value` from register `at` on, or all ones if it has more.
    fn store<const N: usize>(&mut self, at: usize, value: u64) {
        let bytes = value.min((1 << (8 * N)) - 1).to_le_bytes();
        self.ram[at..at + N].copy_from_slice(&bytes[..N]);
    }

    /// Host time in whole seconds since 1970 and the nanoseconds since.
    fn host_time(&self) -> (i64, u32) {
        let since = (self.clock)().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX).min(CivilTime::LAST);
        (seconds, since.subsec_nanos())
    }

    fn mode(&self) -> u8 {
        self.ram[usize::from(REGISTER_B)]
    }

    fn time_registers(&self) -> TimeRegisters {
        let now = self.host_time().0 + self.offset;
        self.held.unwrap_or_else(|| CivilTime::from_seconds(now).encode(self.mode()))
    }

    /// Makes the guest's clock show `registers` now. Nonsense leaves the clock as it is.
    fn set_time(&mut self, registers: &TimeRegisters) {
        if let Some(time) = CivilTime::decode(registers, self.mode()) {
            self.offset = time.seconds() - self.host_time().0;
        }
    }

    fn update_in_progress(&self) -> bool {
        let divider = self.ram[usize::from(REGISTER_A)] & A_DIVIDER_MASK;
        self.held.is_none()
            && divider == A_DIVIDER_RUNNING
            && self.host_time().1 >= 1_000_000_000 - UPDATE_WINDOW
    }

    fn read_register(&self, register: u8) -> u8 {
        if let Some(at) = TIME_REGISTERS.iter().position(|&r| r == register) {
            return self.time_registers()[at];
        }
        match register {
            REGISTER_A if self.update_in_progress() => {
                self.ram[usize::from(REGISTER_A)] | A_UPDATE_IN_PROGRESS
            }
            REGISTER_C => 0,
            REGISTER_D => D_VALID,
            _ => self.ram[usize::from(register & INDEX_MASK)],
        }
    }

    fn write_register(&mut self, register: u8, value: u8) {
        if let Some(at) = TIME_REGISTERS.iter().position(|&r| r == register) {
            let mut registers = self.time_registers();
            registers[at] = value;
            match &mut self.held {
                Some(held) => *held = registers,
                None => self.set_time(&registers),
            }
            return;
        }
        match register {
            REGISTER_A => {
                self.ram[usize::from(REGISTER_A)] = value & !A_UPDATE_IN_PROGRESS;
            }
            REGISTER_B => {
                let registers = self.time_registers();
                self.ram[usize::from(REGISTER_B)] = value;
                if value & B_SET != 0 {
                    self.held = Some(registers);
                } else if self.held.take().is_some() {
                    self.set_time(&registers);
                }
            }
            REGISTER_C | REGISTER_D => {}
            _ => self.ram[usize::from(register & INDEX_MASK)] = value,
        }
    }
}

impl ByteRegisters for Cmos {
    fn read_byte(&mut self, offset: u64) -> u8 {
        // The index port is write only.
        if offset == DATA_PORT { self.read_register(self.index) } else { 0xff }
    }

    fn write_byte(&mut self, offset: u64, value: u8) -> Option<Action> {
        match offset {
            INDEX_PORT => self.index = value & INDEX_MASK,
            DATA_PORT => self.write_register(self.index, value),
            _ => {}
        }
        None
    }
}

/// A date and time of the proleptic Gregorian calendar, from 1970 to 9999: what a two-digit year
/// and a two-digit century can express.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CivilTime {
    /// Days since 1970-01-01.
    days: i64,
    year: i64,
    /// 1 to 12.
    month: i64,
    /// 1 to 31.
    day: i64,
    /// Second of the day.
    second: i64,
}

impl CivilTime {
    /// 9999-12-31 23:59:59, in seconds since 1970.
    const LAST: i64 = 253_402_300_799;
    const DAY: i64 = 86_400;

    /// The time `seconds` after 1970-01-01 00:00, or the nearest within the years covered.
    fn from_seconds(seconds: i64) -> Self {
        let seconds = seconds.clamp(0, Self::LAST);
        let days = seconds / Self::DAY;
        let mut year = 1970 + days / 366;
        while days_to_year(year + 1) <= days {
            year += 1;
        }
        let mut day = days - days_to_year(year);
        let mut month = 1;
        while day >= days_in_month(year, month) {
            day -= days_in_month(year, month);
            month += 1;
        }
        Self { days, year, month, day: day + 1, second: seconds % Self::DAY }
    }

    /// Seconds since 1970-01-01 00:00.
    fn seconds(&self) -> i64 {
        self.days * Self::DAY + self.second
    }

    /// The time registers in the format that register B's `mode` asks for.
    fn encode(&self, mode: u8) -> TimeRegisters {
        let hour = self.second / 3600;
        let (shown_hour, afternoon) = if mode & B_24_HOURS != 0 {
            (hour, 0)
        } else {
            // 12 am, 1 am, … 11 am, 12 pm, 1 pm, …
            ((hour + 11) % 12 + 1, if hour >= 12 { 0x80 } else { 0 })
        };
        let weekday = (self.days + 4) % 7 + 1;
        let mut registers = [
            self.second % 60,
            self.second / 60 % 60,
            shown_hour,
            weekday,
            self.day,
            self.month,
            self.year % 100,
            self.year / 100,
        ]
        .map(|value| to_register(value, mode));
        registers[2] |= afternoon;
        registers
    }

    /// The time that `registers` show in `mode`; `None` if they show none of the years covered.
    fn decode(registers: &TimeRegisters, mode: u8) -> Option<Self> {
        let [second, minute, hour, _weekday, day, month, year, century] = *registers;
        let field = |register| from_register(register, mode);
        let hour = if mode & B_24_HOURS != 0 {
            within(field(hour)?, 0, 23)?
        } else {
            let afternoon = i64::from(hour >> 7) * 12;
            within(field(hour & 0x7f)?, 1, 12)? % 12 + afternoon
        };
        let second = within(field(second)?, 0, 59)?;
        let minute = within(field(minute)?, 0, 59)?;
        let year = within(field(century)?, 0, 99)? * 100 + within(field(year)?, 0, 99)?;
        let year = within(year, 1970, 9999)?;
        let month = within(field(month)?, 1, 12)?;
        let day = within(field(day)?, 1, days_in_month(year, month))?;
        let days = days_to_year(year) + (1..month).map(|m| days_in_month(year, m)).sum::<i64>();
        let second = (hour * 60 + minute) * 60 + second;
        Some(Self { days: days + day - 1, year, month, day, second })
    }
}

fn within(value: i64, least: i64, most: i64) -> Option<i64> {
    (least..=most).contains(&value).then_some(value)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to the first of January of `year`.
fn days_to_year(year: i64) -> i64 {
    let leap_days = |before: i64| (before - 1) / 4 - (before - 1) / 100 + (before - 1) / 400;
    (year - 1970) * 365 + leap_days(year) - leap_days(1970)
}

/// `value` is between 0 and 99.
fn to_register(value: i64, mode: u8) -> u8 {
    let value = u8::try_from(value).unwrap_or(u8::MAX);
    if mode & B_BINARY != 0 { value } else { value / 10 % 10 * 16 + value % 10 }
}

fn from_register(register: u8, mode: u8) -> Option<i64> {
    let (tens, ones) = (register >> 4, register & 0xf);
    if mode & B_BINARY != 0 {
        Some(register.into())
    } else {
        (tens < 10 && ones < 10).then(|| i64::from(tens * 10 + ones))
    }
}

#[cfg(test)]
#[path = "cmos_test.rs"]
mod cmos_test;
