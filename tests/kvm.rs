//! The machine a guest sees, tested with guests of a few instructions on this host's own KVM.
#![allow(clippy::unwrap_used, unsafe_code, missing_docs)]

mod support;

use std::process::Command;
use std::time::Duration;

use support::payload::{self, elf};
use support::{Finished, Running, on_ending_signals, run};

const SOON: Duration = Duration::from_secs(60);

/// Runs a payload with extra arguments until it ends.
#[track_caller]
fn guest(code: &[u8], arguments: &[&str]) -> Finished {
    let kernel = elf(code);
    Running::start(run(&kernel).args(["--memory", "128MiB"]).args(arguments)).finish(SOON)
}

support::kvm_tests! {
    fn power_off_exits_with_0_and_prints_nothing() {
        let finished = guest(payload::power_off(), &[]).expect(0);
        assert_eq!((finished.text(), finished.stderr), (String::new(), String::new()));
    }

    fn a_string_instruction_reaches_the_port_byte_by_byte() {
        assert_eq!(guest(payload::hello(), &[]).expect(0).text(), "hello\n");
    }

    fn a_reset_ends_the_run_when_asked_to() {
        assert_eq!(guest(payload::reset(), &["--no-reboot"]).expect(0).text(), ".");
    }

    fn the_keyboard_controller_resets_too() {
        guest(payload::reset_i8042(), &["--no-reboot"]).expect(0);
    }

    fn the_real_mode_reset_vector_resets_too() {
        assert_eq!(guest(payload::reset_vector(), &["--no-reboot"]).expect(0).text(), ".");
    }

    fn a_guest_that_only_resets_is_ended_after_the_eleventh() {
        let finished = guest(payload::reset(), &[]).expect(1);
        assert_eq!(finished.text(), ".".repeat(11));
        assert!(finished.stderr.contains("11") && finished.stderr.contains("10 s"), "{}", finished.stderr);
    }

    fn a_triple_fault_is_reported_with_registers_or_why_there_are_none() {
        let finished = guest(payload::triple_fault(), &[]).expect(1);
        assert!(finished.stderr.contains("triple fault on vCPU 0"), "{}", finished.stderr);
        let registers = finished.stderr.contains("rbx 0x1122334455667788");
        assert!(registers || finished.stderr.contains("KVM resets them"), "{}", finished.stderr);
    }

    fn code_outside_memory_is_a_crash_with_the_address() {
        let finished = guest(payload::run_into_nowhere(), &[]).expect(1);
        assert!(finished.stderr.contains("0x00000000d0000000"), "{}", finished.stderr);
    }

    fn the_debug_exit_port_is_absent_unless_asked_for() {
        guest(payload::debug_exit(), &[]).expect(0);
        guest(payload::debug_exit(), &["--debug-exit"]).expect(42 << 1 | 1);
    }

    fn a_reset_after_a_panic_event_is_a_panic() {
        let finished = guest(payload::panic(), &[]).expect(1);
        assert!(finished.stderr.contains("panic"), "{}", finished.stderr);
    }

    fn absent_ports_and_addresses_read_all_ones_at_every_width() {
        assert_eq!(guest(payload::absent(), &[]).expect(0).text(), "YYYYYYYY");
    }

    fn an_interrupt_reaches_its_handler_through_the_io_apic() {
        assert_eq!(guest(payload::interrupt(), &[]).expect(0).text(), ".I");
    }

    fn the_entropy_device_answers_over_pci() {
        assert_eq!(guest(payload::virtio_pci(), &[]).expect(0).text(), "RI");
        // RAM up to and above the hole: the window lies higher.
        let kernel = elf(payload::virtio_pci());
        let finished = Running::start(run(&kernel).args(["--memory", "5GiB"])).finish(SOON);
        assert_eq!(finished.expect(0).text(), "RI");
    }

    fn the_entropy_device_answers_over_mmio() {
        assert_eq!(guest(payload::virtio_mmio(), &["--transport", "mmio"]).expect(0).text(), "RI");
    }

    fn devices_are_where_the_configuration_puts_them_only() {
        for arguments in [&["--no-rng"][..], &["--transport", "mmio"]] {
            assert_eq!(guest(payload::virtio_pci(), arguments).expect(0).text(), "N");
        }
        for arguments in [&["--no-rng", "--transport", "mmio"][..], &[]] {
            assert_eq!(guest(payload::virtio_mmio(), arguments).expect(0).text(), "N");
        }
    }

    fn output_larger_than_every_buffer_arrives_whole() {
        let line = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+\n";
        assert!(guest(payload::flood(), &[]).expect(0).text() == line.repeat(4096));
    }

    fn input_larger_than_every_buffer_arrives_whole() {
        let kernel = elf(payload::echo());
        let mut guest = Running::start(&mut run(&kernel));
        let sent: Vec<u8> = (0..30_000u32).map(|i| b'A' + (i % 26) as u8).chain([b'q']).collect();
        guest.send(&sent);
        assert!(guest.finish(SOON).expect(0).stdout == sent);
    }

    fn input_from_a_file_arrives_whole() {
        let kernel = elf(payload::echo());
        let sent: Vec<u8> = (0..30_000u32).map(|i| b'A' + (i % 26) as u8).chain([b'q']).collect();
        let input = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(input.path(), &sent).unwrap();
        let output = run(&kernel).stdin(input.reopen().unwrap()).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(output.stdout == sent);
    }

    fn signals_end_a_guest_that_never_leaves_kvm() {
        for code in [payload::spin(), payload::halt()] {
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
                let kernel = elf(code);
                let mut guest = Running::start(&mut run(&kernel));
                guest.wait_for(".", SOON);
                guest.signal(signal);
                guest.finish(SOON).expect(128 + signal);
            }
        }
    }

    fn signals_the_caller_ignores_stay_ignored() {
        let kernel = elf(payload::echo());
        let mut command = run(&kernel);
        on_ending_signals(&mut command, libc::SIG_IGN);
        let mut guest = Running::start(&mut command);
        guest.send(b"a");
        guest.wait_for("a", SOON);
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
            guest.signal(signal);
        }
        guest.send(b"bq");
        assert_eq!(guest.finish(SOON).expect(0).text(), "abq");
    }

    fn a_stop_is_told_to_the_guest_wherever_it_hits() {
        // Leaves KVM all the time.
        let kernel = elf(payload::clock());
        let mut guest = Running::start(&mut run(&kernel));
        guest.send(b"t");
        guest.wait_for("\n", SOON);
        for round in 1..=8 {
            guest.signal(libc::SIGSTOP);
            std::thread::sleep(Duration::from_millis(700));
            guest.signal(libc::SIGCONT);
            guest.wait_for_count("S", round, SOON);
        }
        guest.send(b"q");
        assert!(!guest.finish(SOON).expect(0).text().contains('B'));
    }

    fn kicks_are_not_lost_however_early_they_come() {
        let kernel = elf(payload::spin());
        for delay in 0..40 {
            let guest = Running::start(&mut run(&kernel));
            std::thread::sleep(Duration::from_micros(delay * 150));
            guest.signal(libc::SIGTERM);
            let finished = guest.finish(SOON);
            // Before Carve has taken signals over, the default action ends it.
            use std::os::unix::process::ExitStatusExt;
            let by_signal = finished.status.signal() == Some(libc::SIGTERM);
            assert!(by_signal || finished.code() == 143, "{finished:?}");
        }
    }

    fn a_reader_that_goes_away_ends_the_run() {
        let kernel = elf(payload::flood());
        let program = run(&kernel).get_program().to_string_lossy().into_owned();
        let script = format!("({program} run --kernel {}; echo $? >&2) | head -c 10", kernel.display());
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(output.stdout.len(), 10);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(stderr.lines().last(), Some("141"), "{stderr}");
    }

    fn every_vcpu_starts_on_one_and_on_many() {
        for vcpus in [2, 8, 64] {
            let line = format!("a={:04x}", vcpus - 1);
            guest(payload::start_others(), &["--cpus", &vcpus.to_string(), "--cmdline", &line]).expect(0);
        }
    }

    fn vcpus_whose_apic_ids_pass_254_start_too() {
        // Cores take seven bits, threads two of a third: ids with gaps, up to 0x2c2.
        for (topology, vcpus) in [("sockets=1,cores=254,threads=1", 254), ("sockets=3,cores=65,threads=3", 585)] {
            let line = format!("a={:04x}", vcpus - 1);
            guest(payload::start_others(), &["--topology", topology, "--cmdline", &line]).expect(0);
        }
    }

    fn two_guests_at_once_do_not_disturb_each_other() {
        let kernel = elf(payload::flood());
        let guests: Vec<_> = (0..2).map(|_| Running::start(&mut run(&kernel))).collect();
        for guest in guests {
            assert_eq!(guest.finish(SOON).expect(0).stdout.len(), 256 << 10);
        }
    }
}
