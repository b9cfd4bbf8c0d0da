//! The small devices as their drivers use them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;
use crate::interrupt::InterruptLine;
use crate::legacy::ged::POWER_BUTTON;

/// Counts edges.
#[derive(Default)]
pub struct CountingLine(AtomicUsize);

impl CountingLine {
    pub fn edges(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl InterruptLine for CountingLine {
    fn trigger(&self) -> std::io::Result<()> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn an_i8042_reads_ready_and_resets_on_the_pulse_commands_of_line_0() {
    let mut i8042 = I8042;
    assert_eq!(i8042.read_byte(4), 0);
    assert_eq!(i8042.read_byte(0), 0);
    assert_eq!(i8042.write_byte(4, 0xfe), Some(Action::Reset));
    assert_eq!(i8042.write_byte(4, 0xff), None);
    assert_eq!(i8042.write_byte(4, 0xd1), None);
    assert_eq!(i8042.write_byte(0, 0xfe), None);
}

#[test]
fn system_control_port_b_shows_timer_2_expired_and_no_nmi_reason() {
    assert_eq!(I8042.read_byte(1) & 0xe0, 0x20);
}

#[test]
fn only_s5_with_sleep_enable_turns_the_machine_off() {
    let offs: Vec<u8> =
        (0..=255).filter(|&v| PowerRegisters.write_byte(0, v) == Some(Action::PowerOff)).collect();
    assert_eq!(offs.iter().map(|v| v & 0x3c).collect::<Vec<_>>(), vec![0x34; offs.len()]);
    assert!(offs.contains(&0x34));
    assert_eq!(PowerRegisters.read_byte(1), 0);
}

#[test]
fn the_reset_register_wants_its_value() {
    assert_eq!(PowerRegisters.write_byte(2, 1), Some(Action::Reset));
    assert_eq!(PowerRegisters.write_byte(2, 2), None);
    assert_eq!(PowerRegisters.write_byte(1, 0x80), None);
}

#[test]
fn pvpanic_tells_its_events_and_reports_the_final_one() {
    assert_eq!(Pvpanic.read_byte(0), 3);
    assert_eq!(Pvpanic.write_byte(0, 1), Some(Action::GuestPanicked { crash_loaded: false }));
    assert_eq!(Pvpanic.write_byte(0, 2), Some(Action::GuestPanicked { crash_loaded: true }));
    assert_eq!(Pvpanic.write_byte(0, 3), Some(Action::GuestPanicked { crash_loaded: false }));
    assert_eq!(Pvpanic.write_byte(0, 0xfc), None);
}

#[test]
fn a_power_button_press_interrupts_and_is_read_once() {
    let line = Arc::new(CountingLine::default());
    let mut ged = Ged::new(line.clone());
    assert_eq!(ged.read_byte(0), 0);
    ged.press_power_button().unwrap();
    ged.press_power_button().unwrap();
    assert_eq!(line.edges(), 2);
    assert_eq!(ged.read_byte(0), POWER_BUTTON);
    assert_eq!(ged.read_byte(0), 0);
}

#[test]
fn a_wide_access_covers_the_registers_behind_it() {
    assert_eq!(PowerRegisters.write(0, &[0, 0, 1, 0]), Some(Action::Reset));
    let mut data = [0xaa; 5];
    I8042.read(0, &mut data);
    assert_eq!(data, [0, 0x20, 0, 0, 0]);
}

#[test]
fn the_first_action_of_a_wide_access_wins() {
    assert_eq!(DebugExit.write(0, &[7, 8]), Some(Action::DebugExit(7)));
}

proptest! {
    #[test]
    fn no_access_of_any_width_panics(
        accesses in prop::collection::vec(
            (prop_oneof![0u64..10, Just(u64::MAX)], prop::collection::vec(any::<u8>(), 0..17), any::<bool>()), 0..200),
    ) {
        let line = Arc::new(CountingLine::default());
        let mut devices: Vec<Box<dyn BusDevice>> = vec![
            Box::new(Cmos::new(Box::new(std::time::SystemTime::now), 1 << 30, 1 << 40)),
            Box::new(DebugExit),
            Box::new(Ged::new(line.clone())),
            Box::new(I8042),
            Box::new(PowerRegisters),
            Box::new(Pvpanic),
            Box::new(Serial::new(line, Box::new(std::io::sink()), Box::new(|| ()))),
        ];
        for (offset, mut data, write) in accesses {
            for device in &mut devices {
                if write {
                    device.write(offset, &data);
                } else {
                    device.read(offset, &mut data);
                }
            }
        }
    }
}
