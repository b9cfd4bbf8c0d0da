//! What the host takes away from a guest that runs, or never lets it have: each ends in a stated way, and other guests go
//! on. Full disks and memory are in `full.rs`, killed processes in `lifecycle.rs`.
#![allow(clippy::unwrap_used, unsafe_code, missing_docs)]

mod support;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use support::host::{Host, clerk_of, spinning, thread, until};
use support::ptrace::fail_run;
use support::{Running, am_root, carve, kvm_tests, payload, run};

const LIMIT: Duration = Duration::from_secs(60);

/// Has `command` start with at most `limit` of `resource` (getrlimit(2)).
fn limited(command: &mut Command, resource: libc::__rlimit_resource_t, limit: u64) -> &mut Command {
    let set = move || {
        let limits = libc::rlimit { rlim_cur: limit, rlim_max: limit };
        // SAFETY: reads a value of ours.
        match unsafe { libc::setrlimit(resource, &raw const limits) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: setrlimit(2) is async-signal-safe, and the closure does nothing else.
    unsafe { command.pre_exec(set) }
}

/// A block device of the host whose data are in a file, until this is dropped.
struct Loop(String);

impl Loop {
    /// Nothing where there are none.
    fn of(file: &Path) -> Option<Self> {
        let made = Command::new("losetup").args(["--find", "--show"]).arg(file).output();
        let made = made.ok().filter(|made| made.status.success());
        let Some(made) = made else {
            eprintln!("skipped: a loop device cannot be had");
            return None;
        };
        Some(Self(String::from_utf8(made.stdout).unwrap().trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

kvm_tests! {
    fn a_guest_outlives_its_tap() {
        if !am_root() {
            return;
        }
        let host = Host::new();
        let tap = format!("cvf{}", std::process::id());
        let _kernel = spinning(&host, "web", &format!("--net tap={tap}"));
        let removed = Command::new("ip").args(["link", "delete", &tap]).output();
        if !removed.is_ok_and(|removed| removed.status.success()) {
            eprintln!("skipped: there is no program `ip`");
            return;
        }
        host.carve("pause web").ok();
        host.carve("unpause web").ok();
        assert_eq!(host.state("web"), "running");
        host.carve("stop -t 0 web").ok();
        assert_eq!(host.inspect("web")["last_run"]["ended"]["kind"], "ended");
    }

    fn a_guest_whose_socket_was_deleted_is_listed_and_can_be_ended() {
        let host = Host::new();
        let _kernel = spinning(&host, "web", "");
        let _other = spinning(&host, "other", "");
        let socket = PathBuf::from(host.inspect("web")["socket"].as_str().unwrap());
        fs::remove_file(&socket).unwrap();
        assert_eq!(host.state("web"), "running");
        host.carve("pause web").refused(&["web"]);
        host.carve("kill web").ok();
        until(|| host.state("web") == "exited");
        assert_eq!(host.state("other"), "running");
    }

    fn a_run_without_enough_descriptors_says_so() {
        let kernel = payload::elf(payload::power_off());
        let mut refused = 0;
        for limit in 3..48 {
            let mut command = run(&kernel);
            let done = Running::start(limited(&mut command, libc::RLIMIT_NOFILE, limit)).finish(LIMIT);
            match done.code() {
                // The loader of a program that is not static has none either.
                0 | 127 => {}
                125 => {
                    refused += 1;
                    // EMFILE by its number, whatever the C library calls it.
                    assert!(done.stderr.contains("os error 24"), "{limit}: {}", done.stderr);
                }
                _ => panic!("{limit}: {done:?}"),
            }
            assert!(!done.stderr.contains("panicked"), "{limit}: {}", done.stderr);
        }
        assert!(refused > 0, "a run takes fewer than three descriptors");
    }

    fn a_run_without_enough_threads_says_so() {
        let kernel = payload::elf(payload::power_off());
        // Where root starts it, it is a user of its own by then, whom the limit is for.
        let done = Running::start(limited(&mut run(&kernel), libc::RLIMIT_NPROC, 1)).finish(LIMIT);
        assert!(done.code() == 125 && done.stderr.contains("os error 11"), "{done:?}");
        assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
    }

    fn a_disk_that_was_cut_short_gives_errors_to_its_guest() {
        let Some(guest) = payload::bare_metal() else { return };
        let disk = tempfile::NamedTempFile::new().unwrap();
        disk.as_file().set_len(64 << 20).unwrap();
        let mut command = carve();
        command.args(["run", "--memory", "256MiB", "--debug-exit", "--transport", "mmio", "--disk"]);
        command.arg(disk.path()).args(["--cmdline", "bench=block run=randread-4k-4 cycles=30000000000"]);
        let mut running = Running::start(command.arg("--kernel").arg(guest));
        running.wait_for("begin randread", LIMIT);
        disk.as_file().set_len(0).unwrap();
        // The guest ends as it meets the first error.
        let done = running.finish(LIMIT);
        assert!(done.code() == 3 && done.text().contains("a request failed"), "{done:?}");
    }

    fn a_disk_that_cannot_be_read_any_more_gives_errors_to_its_guest_alone() {
        let Some(guest) = payload::bare_metal() else { return };
        let host = Host::new();
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 20).unwrap();
        let Some(disk) = Loop::of(file.path()) else { return };
        let _other = spinning(&host, "other", "");
        let mut command = host.command("run -d --name db --memory 256MiB --debug-exit --transport mmio");
        command.args(["--cmdline", "bench=block run=randread-4k-4 cycles=30000000000"]);
        // Not from the host's cache, in which all of it would soon be.
        let disk_flag = format!("path={},direct", disk.0);
        let started = command.args(["--disk", &disk_flag, "--kernel"]).arg(guest).output().unwrap();
        assert!(started.status.success(), "{started:?}");
        until(|| host.carve("logs db").out.contains("begin randread"));
        // From here on reading the device fails with EIO.
        file.as_file().set_len(0).unwrap();
        // The guest ends as it meets the first error.
        assert_eq!(host.carve("wait db").ok(), "3");
        assert!(host.carve("logs db").out.contains("a request failed"));
        assert_eq!(host.inspect("db")["last_run"]["ended"]["kind"], "debug-exit");
        assert_eq!(host.state("other"), "running");
    }

    fn a_vcpu_that_kvm_cannot_run_any_more_ends_its_guest_alone() {
        if !am_root() {
            return;
        }
        let host = Host::new();
        let _kernels = [spinning(&host, "web", ""), spinning(&host, "other", "")];
        fail_run(thread(host.pid("web"), "vcpu0").unwrap(), libc::EIO);
        until(|| host.state("web") == "exited");
        until(|| host.inspect("web")["last_run"]["ended"].is_object());
        let ended = host.inspect("web")["last_run"]["ended"].clone();
        assert_eq!((ended["kind"].as_str(), ended["exit_code"].as_u64()), (Some("error"), Some(125)), "{ended}");
        let message = ended["message"].as_str().unwrap();
        assert!(message.contains("KVM_RUN") && message.contains("os error 5"), "{message}");
        assert_eq!(host.state("other"), "running");
    }

    fn a_guest_whose_clerk_was_killed_is_paused_and_ends_as_others_do() {
        let host = Host::new();
        let _kernel = spinning(&host, "web", "");
        let clerk = clerk_of(host.pid("web"));
        // SAFETY: takes nothing that has to be valid.
        assert_eq!(unsafe { libc::kill(clerk, libc::SIGKILL) }, 0);
        host.carve("pause web").ok();
        assert_eq!(host.state("web"), "paused");
        host.carve("unpause web").ok();
        assert_eq!(host.state("web"), "running");
        host.carve("stop -t 0 web").ok();
        let ended = host.inspect("web")["last_run"]["ended"].clone();
        assert_eq!(ended["kind"], "ended", "{ended}");
        host.carve("start web").ok();
        assert_eq!(host.state("web"), "running");
    }

    fn a_run_whose_clerk_was_killed_has_the_exit_code_of_its_guest() {
        let host = Host::new();
        let kernel = payload::elf(payload::spin());
        let mut command = host.command("run --name web --memory 16MiB --kernel");
        let running = Running::start(command.arg(&*kernel));
        until(|| host.state("web") == "running");
        // SAFETY: takes nothing that has to be valid.
        assert_eq!(unsafe { libc::kill(clerk_of(running.pid()), libc::SIGKILL) }, 0);
        host.carve("stop -t 0 web").ok();
        let done = running.finish(LIMIT);
        let ended = host.inspect("web")["last_run"]["ended"].clone();
        assert_eq!((ended["kind"].as_str(), ended["exit_code"].as_i64()), (Some("ended"), Some(done.code().into())), "{ended}");
    }
}
