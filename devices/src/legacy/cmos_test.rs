//! The CMOS as a kernel's RTC driver uses it, with the host's clock in the test's hands.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// A host clock in nanoseconds since 1970.
#[derive(Clone, Default)]
struct HostClock(Arc<AtomicU64>);

impl HostClock {
    fn set(&self, seconds: u64, nanos: u64) {
        self.0.store(seconds * 1_000_000_000 + nanos, Ordering::Relaxed);
    }

    fn cmos(&self) -> Cmos {
        let nanos = self.0.clone();
        let clock = move || UNIX_EPOCH + Duration::from_nanos(nanos.load(Ordering::Relaxed));
        Cmos::new(Box::new(clock), 3 << 30, 2 << 30)
    }
}

fn read(cmos: &mut Cmos, register: u8) -> u8 {
    cmos.write_byte(0, register);
    cmos.read_byte(1)
}

fn write(cmos: &mut Cmos, register: u8, value: u8) {
    cmos.write_byte(0, register);
    cmos.write_byte(1, value);
}

fn date(cmos: &mut Cmos) -> TimeRegisters {
    TIME_REGISTERS.map(|register| read(cmos, register))
}

/// 2024-02-29 23:58:07, a Thursday.
const LEAP_DAY: u64 = 1_709_251_087;

#[test]
fn the_time_is_shown_in_bcd_and_24_hours() {
    let host = HostClock::default();
    host.set(LEAP_DAY, 0);
    let mut cmos = host.cmos();
    assert_eq!(date(&mut cmos), [0x07, 0x58, 0x23, 5, 0x29, 0x02, 0x24, 0x20]);
}

#[test]
fn binary_and_12_hour_formats_follow_register_b() {
    let host = HostClock::default();
    host.set(LEAP_DAY, 0);
    let mut cmos = host.cmos();
    write(&mut cmos, REGISTER_B, B_BINARY);
    assert_eq!(date(&mut cmos), [7, 58, 11 | 0x80, 5, 29, 2, 24, 20]);
    host.set(LEAP_DAY + 3600, 0);
    assert_eq!(read(&mut cmos, 0x04), 12);
    write(&mut cmos, REGISTER_B, 0);
    assert_eq!(read(&mut cmos, 0x04), 0x12);
}

#[test]
fn a_time_set_as_linux_sets_it_runs_on_from_there() {
    let host = HostClock::default();
    host.set(LEAP_DAY, 0);
    let mut cmos = host.cmos();
    let control = read(&mut cmos, REGISTER_B);
    let rate = read(&mut cmos, REGISTER_A);
    write(&mut cmos, REGISTER_B, control | B_SET);
    write(&mut cmos, REGISTER_A, rate | 0x70);
    let written = [0x59, 0x59, 0x23, 1, 0x31, 0x12, 0x99, 0x19];
    for (register, value) in TIME_REGISTERS.into_iter().zip(written) {
        write(&mut cmos, register, value);
    }
    assert_eq!(date(&mut cmos), written);
    write(&mut cmos, REGISTER_B, control);
    write(&mut cmos, REGISTER_A, rate);
    assert_eq!(date(&mut cmos), [0x59, 0x59, 0x23, 6, 0x31, 0x12, 0x99, 0x19]);
    host.set(LEAP_DAY + 1, 0);
    assert_eq!(date(&mut cmos), [0, 0, 0, 7, 1, 1, 0, 0x20]);
}

#[test]
fn a_single_register_can_be_set_while_the_clock_runs_and_nonsense_is_ignored() {
    let host = HostClock::default();
    host.set(LEAP_DAY, 0);
    let mut cmos = host.cmos();
    write(&mut cmos, 0x02, 0x30);
    assert_eq!(read(&mut cmos, 0x02), 0x30);
    for (register, nonsense) in [(0x00, 0x60), (0x04, 0x24), (0x07, 0x30), (0x08, 0x1f)] {
        let before = date(&mut cmos);
        write(&mut cmos, register, nonsense);
        assert_eq!(date(&mut cmos), before);
    }
}

#[test]
fn update_in_progress_shows_only_just_before_the_second_changes() {
    let host = HostClock::default();
    let mut cmos = host.cmos();
    for (nanos, in_progress) in [(0, 0), (999_755_999, 0), (999_756_000, 0x80), (999_999_999, 0x80)]
    {
        host.set(LEAP_DAY, nanos);
        assert_eq!(read(&mut cmos, REGISTER_A), 0x26 | in_progress, "{nanos}");
    }
    host.set(LEAP_DAY + 1, 0);
    assert_eq!(read(&mut cmos, REGISTER_A), 0x26);
}

#[test]
fn status_registers_report_a_valid_clock_without_interrupts() {
    let mut cmos = HostClock::default().cmos();
    assert_eq!(read(&mut cmos, REGISTER_B), 0x02);
    write(&mut cmos, REGISTER_C, 0xff);
    write(&mut cmos, REGISTER_D, 0);
    assert_eq!(read(&mut cmos, REGISTER_C), 0);
    assert_eq!(read(&mut cmos, REGISTER_D), 0x80);
}

#[test]
fn memory_sizes_are_where_firmware_leaves_them() {
    let mut cmos = HostClock::default().cmos();
    let mut word = |low| u16::from_le_bytes([read(&mut cmos, low), read(&mut cmos, low + 1)]);
    assert_eq!(word(0x15), 640);
    assert_eq!(word(0x17), 0xffff);
    assert_eq!(word(0x30), 0xffff);
    assert_eq!(u64::from(word(0x34)), ((3 << 30) - (16 << 20)) >> 16);
    let above = [0x5b, 0x5c, 0x5d].map(|register| read(&mut cmos, register));
    assert_eq!(above, [0x00, 0x80, 0x00]);
}

#[test]
fn ram_and_alarm_registers_store_and_the_nmi_bit_is_not_part_of_the_index() {
    let mut cmos = HostClock::default().cmos();
    for register in [0x01, 0x03, 0x05, 0x0f, 0x7f] {
        write(&mut cmos, register, 0x5a);
        assert_eq!(read(&mut cmos, register | 0x80), 0x5a);
    }
    assert_eq!(cmos.read_byte(0), 0xff);
}

#[test]
fn a_host_clock_before_1970_or_after_9999_shows_the_nearest_time() {
    let show = |time: SystemTime| date(&mut Cmos::new(Box::new(move || time), 0, 0));
    assert_eq!(show(UNIX_EPOCH - Duration::from_secs(5)), [0, 0, 0, 5, 1, 1, 0x70, 0x19]);
    let late = UNIX_EPOCH + Duration::from_secs(1 << 40);
    assert_eq!(show(late), [0x59, 0x59, 0x23, 6, 0x31, 0x12, 0x99, 0x99]);
}

proptest! {
    #[test]
    fn decoding_inverts_encoding(seconds in 0..=CivilTime::LAST, mode in any::<u8>()) {
        let time = CivilTime::from_seconds(seconds);
        prop_assert_eq!(time.seconds(), seconds);
        prop_assert_eq!(CivilTime::decode(&time.encode(mode), mode), Some(time));
    }

    #[test]
    fn days_follow_each_other(days in 0..CivilTime::LAST / CivilTime::DAY) {
        let today = CivilTime::from_seconds(days * CivilTime::DAY);
        let tomorrow = CivilTime::from_seconds((days + 1) * CivilTime::DAY);
        let same_month = (today.year, today.month, today.day + 1);
        let next_month = (today.year, today.month + 1, 1);
        let next_year = (today.year + 1, 1, 1);
        let date = (tomorrow.year, tomorrow.month, tomorrow.day);
        prop_assert!(date == same_month || date == next_month || date == next_year);
    }

    #[test]
    fn any_registers_decode_to_the_time_they_show_or_to_none(
        registers in any::<TimeRegisters>(), mode in any::<u8>(),
    ) {
        if let Some(time) = CivilTime::decode(&registers, mode) {
            let mut shown = time.encode(mode);
            shown[3] = registers[3];
            prop_assert_eq!(shown, registers);
        }
    }
}
