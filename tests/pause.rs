//! Pausing guests and letting them go on, with guests of a few instructions on this host's own KVM.
#![allow(clippy::unwrap_used, unsafe_code, missing_docs)]

mod support;

use std::os::unix::fs::FileExt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use support::inside::Guest;
use support::payload;
use vmm::api::types::{RunState, Vm};
use vmm::{End, Notice};

const A_WHILE: Duration = Duration::from_millis(300);

fn state(guest: &mut Guest) -> RunState {
    guest.get::<Vm>("vm").state
}

/// The guest's time, by its kvm-clock, at a moment between two of the host's.
fn time(guest: &mut Guest) -> (Duration, [Instant; 2]) {
    guest.take_output();
    let before = Instant::now();
    guest.send(b"t");
    let digits = guest.wait_for(|output| {
        let line = output.lines().find(|line| line.len() >= 16)?;
        output.ends_with('\n').then(|| line[line.len() - 16..].to_owned())
    });
    (Duration::from_nanos(u64::from_str_radix(&digits, 16).unwrap()), [before, Instant::now()])
}

/// A guest that writes to a disk of 1 MiB runs meanwhile; what it wrote is there afterwards.
#[track_caller]
fn disk_survives(code: &[u8], transport: &str, limit: &str, meanwhile: impl FnOnce(&mut Guest)) {
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(1 << 20).unwrap();
    let devices = format!("[devices]\ntransport = {transport:?}");
    let config = format!("{devices}\n[disk.data]\n{limit}\npath = {:?}\n", disk.path());
    let mut guest = Guest::start(code, &config);
    guest.wait_for(|output| output.contains('.').then_some(()));
    meanwhile(&mut guest);
    guest.send(b"q");
    let (end, output) = guest.finish();
    assert_eq!(end, End::PoweredOff, "{output}");
    let writes = output.trim_start_matches('.').trim();
    let writes = u64::from_str_radix(writes, 16).unwrap_or_else(|_| panic!("{output}"));
    for sector in 0..writes.min(2048) {
        let mut last = [0; 8];
        disk.as_file().read_exact_at(&mut last, sector * 512).unwrap();
        let expected = writes - 1 - (writes - 1 - sector) % 2048;
        assert_eq!(u64::from_le_bytes(last), expected, "in sector {sector} of {writes} writes");
    }
}

/// Pauses and resumes again and again. How quick that is on a machine with nothing else to do is a
/// benchmark's business; here it must not wait for anything.
fn pause_often(guest: &mut Guest) {
    let (mut pauses, mut resumes): (Vec<_>, Vec<_>) = (0..200)
        .map(|round| {
            let pause = guest.order("pause");
            sleep(Duration::from_micros(round % 7 * 300));
            let resume = guest.order("resume");
            sleep(Duration::from_micros(round % 5 * 700));
            (pause, resume)
        })
        .unzip();
    pauses.sort_unstable();
    resumes.sort_unstable();
    eprintln!(
        "pause {:?} (worst {:?}), resume {:?} (worst {:?})",
        pauses[100], pauses[199], resumes[100], resumes[199]
    );
    let quick = Duration::from_millis(50);
    assert!(pauses[100] < quick && resumes[100] < quick);
}

support::kvm_tests! {
    fn a_paused_guest_stands_still_and_a_resumed_one_goes_on() {
        let mut guest = Guest::start(payload::echo(), "vcpus = 4");
        guest.send(b"a");
        guest.wait_for(|output| output.contains('a').then_some(()));
        assert_eq!(state(&mut guest), RunState::Running);
        guest.order("pause");
        assert_eq!(state(&mut guest), RunState::Paused);
        guest.take_output();
        guest.send(b"b");
        sleep(A_WHILE);
        assert_eq!(guest.take_output(), "");
        guest.order("resume");
        guest.wait_for(|output| output.contains('b').then_some(()));
        assert_eq!(guest.notices(), [Notice::Started, Notice::Paused, Notice::Resumed]);
        guest.send(b"q");
        assert_eq!(guest.finish().0, End::PoweredOff);
    }

    fn what_makes_no_sense_is_refused_with_the_state() {
        let mut guest = Guest::start(payload::spin(), "");
        assert_eq!(guest.refuses("resume").status, 409);
        guest.order("pause");
        assert_eq!(guest.refuses("pause").status, 409);
        let problem = guest.refuses("power-button");
        assert!(problem.status == 409 && problem.detail.contains("resume"), "{problem:?}");
        guest.order("resume");
        guest.order("end");
        assert_eq!(guest.finish().0, End::Ended);
    }

    fn guests_that_never_leave_kvm_pause_too() {
        for code in [payload::spin(), payload::halt()] {
            let mut guest = Guest::start(code, "vcpus = 2");
            guest.wait_for(|output| output.contains('.').then_some(()));
            pause_often(&mut guest);
        }
    }

    fn a_paused_guest_can_be_ended_and_dropped() {
        let mut guest = Guest::start(payload::spin(), "vcpus = 3");
        guest.order("pause");
        guest.order("end");
        assert_eq!(guest.finish().0, End::Ended);
    }

    fn a_paused_guest_that_is_reset_starts_afresh_and_runs() {
        let mut guest = Guest::start(payload::spin(), "");
        guest.wait_for(|output| output.contains('.').then_some(()));
        guest.order("pause");
        guest.order("reset");
        guest.wait_for(|output| (output.matches('.').count() == 2).then_some(()));
        assert_eq!(state(&mut guest), RunState::Running);
        assert_eq!(guest.notices(), [Notice::Started, Notice::Paused, Notice::Reset]);
    }

    fn a_guest_that_nobody_listens_to_pauses() {
        // Its vCPU waits for room in the console's buffer.
        let mut guest = Guest::start(payload::flood(), "");
        guest.read(false);
        sleep(A_WHILE);
        guest.order("pause");
        guest.order("resume");
        guest.order("pause");
        guest.order("resume");
        guest.read(true);
        let (end, output) = guest.finish();
        assert_eq!((end, output.len()), (End::PoweredOff, 256 << 10));
    }

    fn a_write_in_flight_is_neither_lost_nor_torn_by_a_pause() {
        disk_survives(payload::disk_pci(), "pci", "", pause_often);
        disk_survives(payload::disk_mmio(), "mmio", "", pause_often);
    }

    fn a_disk_that_is_limited_pauses_at_once() {
        disk_survives(payload::disk_mmio(), "mmio", "iops = 1000", |guest| {
            assert!(guest.order("pause") < Duration::from_secs(2));
            guest.order("resume");
        });
    }

    fn the_guests_clock_counts_the_pause_and_never_goes_back() {
        let mut guest = Guest::start(payload::clock(), "");
        time(&mut guest);
        let (before, then) = time(&mut guest);
        assert!(!guest.take_output().contains('S'));
        for round in 1..=3 {
            guest.order("pause");
            sleep(A_WHILE);
            guest.order("resume");
            guest.wait_for(|output| (output.matches('S').count() == round).then_some(()));
        }
        assert!(!guest.take_output().contains('B'));
        let (after, now) = time(&mut guest);
        let [least, most] = [now[0] - then[1], now[1] - then[0]];
        let (passed, off) = (after - before, Duration::from_millis(100));
        assert!(passed + off > least && passed < most + off, "{passed:?} of {least:?} to {most:?}");
        guest.send(b"q");
        let (end, output) = guest.finish();
        assert!(end == End::PoweredOff && !output.contains('B'), "{output}");
    }
}
