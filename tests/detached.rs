//! Stock kernels that run detached: stopped by their power button, paused, and logged. Runs on a KVM host
//! (`cargo xtask host`).
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::ops::RangeInclusive;
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use support::guests::{BOOT, DEFAULT, Guest, assert_clean, root_image};
use support::networks::Interface;
use support::pty::Pty;
use support::{Running, carve};

/// Removes its guest in the end.
struct Detached(&'static str);

impl Detached {
    /// Starts `guest` detached.
    fn start(name: &'static str, guest: &Guest, script: Option<&str>) -> Self {
        let foreground = guest.command(script);
        let mut command = carve();
        command.args(foreground.get_args()).args(["-d", "--name", name]);
        succeed(&mut command);
        Self(name)
    }

    fn carve(&self, verb: &[&str]) -> String {
        succeed(carve().args(verb).arg(self.0))
    }

    fn inspect(&self) -> Value {
        let report: Value = serde_json::from_str(&self.carve(&["inspect"])).unwrap();
        report[0].clone()
    }

    /// Waits until the guest's log has what `found` looks for.
    #[track_caller]
    fn wait_for<T>(&self, found: impl Fn(&str) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            let log = self.carve(&["logs"]);
            if let Some(found) = found(&log) {
                return found;
            }
            assert!(start.elapsed() < BOOT, "it is not in the log:\n{log}");
            sleep(Duration::from_millis(300));
        }
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        let _ = carve().args(["rm", "-f", self.0]).output();
    }
}

#[track_caller]
fn succeed(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = String::from_utf8_lossy(&stdout).into_owned();
    assert!(status.success(), "{command:?}: {status}\n{text}{}", String::from_utf8_lossy(&stderr));
    text
}

#[test]
fn a_debian_is_stopped_by_its_power_button_and_starts_again() {
    let image = root_image("qcow2");
    let disk = format!("--disk path={},format=qcow2,overlay=discard", image.display());
    let guest = Guest::new(DEFAULT).with(&disk).with("--memory 768MiB").cmdline("root=/dev/vda");
    let debian = Detached::start("debian", &guest, None);
    let prompts = |log: &str| log.matches("carve-guest login:").count();
    debian.wait_for(|log| (prompts(log) == 1).then_some(()));
    debian.carve(&["stop", "-t", "300"]);
    let ended = debian.inspect()["last_run"]["ended"].clone();
    assert_eq!(
        (ended["kind"].as_str(), ended["exit_code"].as_u64()),
        (Some("powered-off"), Some(0)),
        "{ended}"
    );
    debian.carve(&["start"]);
    debian.wait_for(|log| (prompts(log) == 2).then_some(()));
    debian.carve(&["kill"]);
    let ended = debian.inspect()["last_run"]["ended"].clone();
    assert_eq!(
        (ended["kind"].as_str(), ended["exit_code"].as_u64()),
        (Some("killed"), Some(137)),
        "{ended}"
    );
    assert_clean(&debian.carve(&["logs"]));
}

#[test]
fn a_paused_guest_stands_still_and_has_the_right_time_afterwards() {
    // A CPU that does not answer for 8 seconds counts as stuck.
    let script = "dmesg -n 1; echo 4 > /proc/sys/kernel/watchdog_thresh; while sleep 0.5; do \
        echo now=$(date +%s.%N | cut -c1-14)=up=$(cut -d' ' -f1 /proc/uptime)=; \
        dmesg | grep -E 'locku[p]|stal[l]s'; done";
    let clock =
        Detached::start("clock", &Guest::debian(DEFAULT, "ext4").with("--cpus 2"), Some(script));
    let last = |log: &str| {
        let line =
            log.lines().rev().find(|line| line.starts_with("now=") && line.ends_with('='))?;
        let told: Vec<_> = line.split('=').collect();
        Some((told[1].parse::<f64>().ok()?, told[3].parse::<f64>().ok()?))
    };
    let host = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    // How far the guest is behind the host, as its log tells: emulation adds to that, now more, now less.
    let behind = || {
        let first = clock.wait_for(last);
        let (now, _) = clock.wait_for(|log| last(log).filter(|&(now, _)| now > first.0));
        host() - now
    };
    let before: f64 = (0..4).map(|_| behind()).fold(f64::MAX, f64::min);
    let (_, uptime) = clock.wait_for(last);
    clock.carve(&["pause"]);
    assert_eq!(clock.inspect()["state"], "paused");
    sleep(Duration::from_secs(1));
    let still = clock.carve(&["logs"]);
    sleep(Duration::from_secs(11));
    assert_eq!(clock.carve(&["logs"]), still, "a paused guest went on");
    clock.carve(&["unpause"]);
    let after: f64 = (0..4).map(|_| behind()).fold(f64::MAX, f64::min);
    assert!((after - before).abs() < 1.0, "the clock moved by {} s", after - before);
    let (_, later) = clock.wait_for(last);
    assert!(later > uptime + 12.0, "uptime went from {uptime} to {later}");
    let log = clock.carve(&["logs"]);
    assert!(!log.contains("lockup") && !log.contains("stalls"), "{log}");
    clock.carve(&["kill"]);
}

/// The host's clock, set back to what it was when this is dropped. Only where that is nobody's: in an emulated host.
struct Clock(Duration);

impl Clock {
    fn of_emulated_host() -> Option<Self> {
        let emulated = std::fs::read_to_string("/proc/cmdline").unwrap().contains("carve.agent=");
        if !emulated {
            eprintln!("skipped: the clock of a machine that others use is not set");
        }
        emulated.then(|| Self(wall() - uptime()))
    }

    /// Sets it to what it would be `by` later, or `by` earlier.
    fn jump(&self, by: Duration, back: bool) {
        let right = self.0 + uptime();
        let time = if back { right - by } else { right + by };
        let seconds = format!("@{}.{:09}", time.as_secs(), time.subsec_nanos());
        succeed(Command::new("date").args(["--set", &seconds]));
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.jump(Duration::ZERO, false);
    }
}

fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

fn uptime() -> Duration {
    let text = std::fs::read_to_string("/proc/uptime").unwrap();
    Duration::from_secs_f64(text.split(' ').next().unwrap().parse().unwrap())
}

#[test]
fn a_guest_goes_on_and_is_told_of_truly_when_the_clock_of_the_host_jumps() {
    let Some(clock) = Clock::of_emulated_host() else { return };
    let script = "while sleep 0.5; do echo up=$(cut -d' ' -f1 /proc/uptime)=; done";
    let guest = Detached::start("jumped", &Guest::debian(DEFAULT, "ext4"), Some(script));
    let last = |log: &str| {
        let line = log.lines().rev().find(|line| line.starts_with("up=") && line.ends_with('='))?;
        line.split('=').nth(1)?.parse::<f64>().ok()
    };
    let year = Duration::from_secs(365 * 86400);
    for back in [false, true] {
        let before = guest.wait_for(last);
        clock.jump(year, back);
        // Steadily, whatever the host takes the time to be.
        let after = guest.wait_for(|log| last(log).filter(|&up| up > before + 1.0));
        assert!(after < before + 600.0, "from {before} to {after}");
        guest.carve(&["pause"]);
        assert_eq!(guest.inspect()["state"], "paused");
        guest.carve(&["unpause"]);
        assert_eq!(guest.inspect()["state"], "running");
    }
    drop(clock);
    guest.carve(&["kill"]);
    let events = succeed(carve().args(["events", "--since", "800d", "--until", "0s"]));
    for event in ["paused", "resumed"] {
        let told = events.lines().filter(|line| line.contains(&format!("\"{event}\""))).count();
        assert!(told >= 1, "{event}: {events}");
    }
    assert_eq!(guest.inspect()["last_run"]["ended"]["kind"], "killed");
}

#[test]
fn who_attaches_to_a_virtio_console_types_there_and_the_guest_has_the_size_of_their_window() {
    let script = "echo listening; read line; size() { for i in $(seq 300); do [ \"$(stty size)\" != \"$1\" ] || break; sleep 0.1; done; \
        echo size=$(stty size)=; }; size '43 132'; echo typed=$line=; size '30 100'";
    let _remote =
        Detached::start("remote", &Guest::new(DEFAULT).with("--console stdio"), Some(script));
    let pty = Pty::open();
    pty.resize(132, 43);
    let mut attached = Running::start_on(carve().args(["attach", "remote"]), &pty);
    // What is typed before somebody reads may be thrown away by the guest.
    attached.wait_for("listening", BOOT);
    attached.send(b"by hand\n");
    attached.wait_for("size=43 132=", BOOT);
    attached.wait_for("typed=by hand=", BOOT);
    pty.resize(100, 30);
    attached.signal(libc::SIGWINCH);
    attached.wait_for("size=30 100=", BOOT);
    attached.finish(BOOT).expect(0);
}

#[test]
fn a_network_device_is_changed_while_its_guest_runs() {
    let tap = Interface::tap();
    let script = format!(
        "{}; while :; do echo carrier=$(cat /sys/class/net/eth0/carrier)=; ping -q -f -w 1 {} > /dev/null; sleep 0.2; done",
        tap.set_up(1),
        tap.host()
    );
    let guest = Guest::debian(DEFAULT, "ext4").with(&format!("--net tap={}", tap.name()));
    let changed = Detached::start("changed", &guest, Some(&script));
    let wait_for_carrier = |wanted: &str| {
        changed.wait_for(|log| {
            (log.lines().rfind(|line| line.ends_with('='))? == wanted).then_some(())
        });
    };
    // Of two seconds. What the guest would have answered says little: frames wait for long where few may go.
    let wait_for_frames = |wanted: RangeInclusive<u64>| {
        let start = Instant::now();
        loop {
            let before = tap.frames_from_guest();
            sleep(Duration::from_secs(2));
            let frames = tap.frames_from_guest() - before;
            if wanted.contains(&frames) {
                return;
            }
            assert!(start.elapsed() < BOOT, "{frames} frames in two seconds, not {wanted:?}");
        }
    };
    wait_for_carrier("carrier=1=");
    wait_for_frames(60..=u64::MAX);
    changed.carve(&["update", "--net", "net0,tx-packets=5"]);
    wait_for_frames(5..=16);
    changed.carve(&["update", "--net", "net0,link=down,tx-packets=0"]);
    wait_for_carrier("carrier=0=");
    wait_for_frames(0..=0);
    changed.carve(&["update", "--net", "net0,link=up"]);
    wait_for_carrier("carrier=1=");
    wait_for_frames(60..=u64::MAX);
}
