//! Consoles, entropy and the balloon of stock kernels, and how many devices there can be. Runs on a KVM host
//! (`cargo xtask host`).
#![allow(clippy::unwrap_used, unsafe_code, missing_docs)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use support::disks::Scratch;
use support::guests::{BOOT, DEFAULT, Guest, assert_clean, root_image, value};
use support::networks::Interface;
use support::pty::Pty;
use support::{Running, md5sum, pattern};
use tempfile::tempdir;

const MIB: usize = 1 << 20;

/// Finds the virtio console's port called `agent.0`, as `$port`.
const FIND_PORT: &str = "for p in /sys/class/virtio-ports/*; do \
    [ \"$(cat $p/name)\" != agent.0 ] || port=/dev/${p##*/}; done";

#[track_caller]
fn entropy(transport: &str) {
    let script = "echo source=$(cat /sys/class/misc/hw_random/rng_current); \
        echo bytes=$(dd if=/dev/hwrng bs=4096 count=16 iflag=fullblock 2>/dev/null | wc -c); \
        echo zeros=$(dd if=/dev/hwrng bs=4096 count=16 iflag=fullblock 2>/dev/null | tr -dc '\\000' | wc -c)";
    let guest = Guest::new(DEFAULT).with(&format!("--transport {transport}"));
    let log = guest.run(script).expect(0).text();
    assert!(value(&log, "source").starts_with("virtio_rng"), "{log}");
    assert_eq!(value(&log, "bytes"), "65536");
    // 256 of them are expected; a hundred more or less happens once in a billion runs.
    let zeros: i32 = value(&log, "zeros").parse().unwrap();
    assert!((zeros - 256).abs() < 100, "{zeros} of 65536 random bytes are zero");
}

#[test]
fn entropy_of_the_host_reaches_the_guest_on_pci() {
    entropy("pci");
}

#[test]
fn entropy_of_the_host_reaches_the_guest_on_mmio() {
    entropy("mmio");
}

#[test]
fn a_terminal_can_be_on_the_virtio_console() {
    let mut guest = Guest::new(DEFAULT).with("--console stdio").start(Some(
        "tty; cat /sys/class/tty/console/active | sed 's/^/active=/'; echo type; read line; echo typed=$line; \
         seq -s ' ' 100000 110000",
    ));
    guest.wait_for("type", BOOT);
    guest.send(b"by hand\n");
    let log = guest.finish(BOOT).expect(0).text();
    assert_clean(&log);
    assert_eq!(value(&log, "active"), "hvc0");
    assert_eq!(value(&log, "typed"), "by hand");
    let numbers = (100_000..=110_000).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
    assert!(log.contains(&numbers), "output is missing");
}

#[test]
fn after_a_storm_of_window_sizes_the_guest_has_the_last_one() {
    let pty = Pty::open();
    pty.resize(80, 25);
    let script = "echo first=$(stty size); echo resize; read line; \
        for i in $(seq 300); do [ \"$(stty size)\" != '43 132' ] || break; sleep 0.1; done; \
        echo last=$(stty size); echo typed=$line";
    let mut command = Guest::new(DEFAULT).with("--console stdio").command(Some(script));
    let mut guest = Running::start_on(&mut command, &pty);
    let resize = |guest: &Running, columns, rows| {
        pty.resize(columns, rows);
        guest.signal(libc::SIGWINCH);
    };
    // Of the first ones the guest cannot be told yet.
    (1..=500).for_each(|size| resize(&guest, size, 1 + size % 100));
    resize(&guest, 100, 30);
    guest.wait_for("resize", BOOT);
    (1..=3000).for_each(|size| resize(&guest, size, 1 + size % 100));
    resize(&guest, 132, 43);
    guest.send(b"by hand\n");
    let log = guest.finish(BOOT).expect(0).text();
    assert_clean(&log);
    let found = ["first", "last", "typed"].map(|key| value(&log, key));
    assert_eq!(found, ["30 100", "43 132", "by hand"]);
}

#[track_caller]
fn port_on_a_socket(transport: &str) {
    let folder = tempdir().unwrap();
    let socket = folder.path().join("agent");
    let console =
        format!("--console socket={},name=agent.0 --transport {transport}", socket.display());
    let script = format!(
        "{FIND_PORT}; echo open; exec 3<>$port; until read line <&3; do sleep 0.1; done; echo heard=$line; \
         echo \"you said $line\" >&3; head -c 262144 <&3 | md5sum | sed 's/^/sum=/'; \
         seq 1 20000 >&3; sleep 1"
    );
    let mut guest = Guest::new(DEFAULT).with(&console).start(Some(&script));
    guest.wait_for("open", BOOT);
    let mut agent = BufReader::new(UnixStream::connect(&socket).unwrap());
    agent.get_ref().set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    agent.get_mut().write_all(b"hello\n").unwrap();
    let mut answer = String::new();
    agent.read_line(&mut answer).unwrap();
    assert_eq!(answer, "you said hello\n");
    let sent = pattern(256 << 10);
    agent.get_mut().write_all(&sent).unwrap();
    let expected: String = (1..=20_000).map(|n| format!("{n}\n")).collect();
    let mut received = vec![0; expected.len()];
    agent.read_exact(&mut received).unwrap();
    assert!(received == expected.as_bytes(), "what the guest sent arrived changed");
    let log = guest.finish(BOOT).expect(0).text();
    assert_clean(&log);
    assert_eq!(value(&log, "heard"), "hello");
    assert!(value(&log, "sum").starts_with(&md5sum(&sent)), "what was sent arrived changed");
    assert!(!socket.exists(), "the socket is left behind");
}

#[test]
fn a_port_of_the_console_is_a_socket_of_the_host_on_pci() {
    port_on_a_socket("pci");
}

#[test]
fn a_port_of_the_console_is_a_socket_of_the_host_on_mmio() {
    port_on_a_socket("mmio");
}

#[test]
fn a_console_in_a_file_has_every_byte() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("out.log");
    let guest = Guest::new(DEFAULT).with(&format!("--console file={}", file.display()));
    // In one piece: each line by itself would mostly measure an emulated guest's system calls.
    let script = "seq 1 30000 > /tmp/numbers; exec 4<>/dev/hvc0; stty raw <&4; dd if=/tmp/numbers bs=4k >&4; sleep 0.5";
    guest.run(script).expect(0);
    let expected: String = (1..=30_000).map(|n| format!("{n}\n")).collect();
    let found = fs::read_to_string(&file).unwrap();
    assert!(found.contains(&expected), "{} of {} bytes", found.len(), expected.len());
}

/// Bytes of anonymous memory the process holds.
fn resident(pid: i32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

#[track_caller]
fn falls_below(pid: i32, limit: usize) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while resident(pid) >= limit {
        let held = resident(pid) / MIB;
        assert!(Instant::now() < deadline, "{held} MiB are held, not less than {}", limit / MIB);
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn memory_freed_in_the_guest_goes_back_to_the_host() {
    let script = "dd if=/dev/zero of=/tmp/big bs=1M count=150 2>/dev/null; echo full; read line; \
        rm /tmp/big; echo empty; read line";
    let mut guest = Guest::new(DEFAULT)
        .with("--memory 384MiB --balloon --transport mmio")
        .start(Some(&format!("mount -t tmpfs tmpfs /tmp; {script}")));
    guest.wait_for("full", BOOT);
    let full = resident(guest.pid());
    assert!(full > 150 * MIB, "{} MiB", full / MIB);
    guest.send(b"\n");
    guest.wait_for("empty", BOOT);
    falls_below(guest.pid(), full - 100 * MIB);
    guest.send(b"\n");
    assert_clean(&guest.finish(BOOT).expect(0).text());
}

#[test]
fn a_balloon_takes_what_it_is_told_and_gives_it_back_before_the_guest_runs_out() {
    // 128 of 256 MiB are in the balloon; a program that needs 150 gets them.
    let script = "for i in $(seq 600); do free=$(grep MemFree /proc/meminfo | tr -dc 0-9); \
        [ $free -gt 90000 ] || break; sleep 0.1; done; echo before=$free; \
        mount -t tmpfs -o size=100% tmpfs /tmp; dd if=/dev/zero of=/tmp/big bs=1M count=150 2>/dev/null; \
        echo written=$(wc -c < /tmp/big)";
    let guest = Guest::new(DEFAULT).with("--memory 256MiB --balloon target=128MiB");
    let log = guest.run(script).expect(0).text();
    let before: usize = value(&log, "before").parse().unwrap();
    assert!(before <= 90_000, "{before} KiB are free, so the balloon is not inflated");
    assert_eq!(value(&log, "written"), (150 * MIB).to_string());
}

/// How many devices a guest with `count` found, whose disks all work.
#[track_caller]
fn with_devices(transport: &str, count: usize) -> usize {
    let folder = tempdir().unwrap();
    let mut arguments = format!("--transport {transport} --balloon");
    for number in 0..count - 2 {
        let path = folder.path().join(format!("d{number}"));
        fs::write(&path, vec![u8::try_from(number).unwrap(); 4096]).unwrap();
        arguments += &format!(" --disk path={},format=raw", path.display());
    }
    let script = "set -- /sys/bus/virtio/devices/*; echo devices=$#; for d in /sys/block/vd*; do \
        echo size=$(cat $d/size),$(head -c 1 /dev/${d##*/} | od -An -tu1 | tr -d ' '); done";
    let log = Guest::new(DEFAULT).with(&arguments).run(script).expect(0).text();
    for number in 0..count - 2 {
        assert!(log.contains(&format!("size=8,{number}")), "disk {number} is missing:\n{log}");
    }
    value(&log, "devices").parse().unwrap()
}

#[test]
fn thirty_devices_work_at_once_on_pci() {
    assert_eq!(with_devices("pci", 30), 30);
}

#[test]
fn as_many_devices_as_the_io_apic_has_pins_for_work_at_once_on_mmio() {
    assert_eq!(with_devices("mmio", 41), 41);
}

#[test]
fn one_device_too_many_is_refused_with_the_number_there_can_be() {
    let folder = tempdir().unwrap();
    for (transport, limit) in [("pci", 31), ("mmio", 41)] {
        let mut arguments = format!("--transport {transport} --no-rng");
        for number in 0..=limit {
            let path = folder.path().join(format!("{transport}{number}"));
            fs::write(&path, [0; 4096]).unwrap();
            arguments += &format!(" --disk path={},format=raw", path.display());
        }
        let finished = Guest::new(DEFAULT).with(&arguments).start(None).finish(BOOT).expect(125);
        let told = format!("has {} virtio devices", limit + 1);
        assert!(finished.stderr.contains(&told), "{}", finished.stderr);
        assert!(finished.stderr.contains(&format!("room for {limit}")), "{}", finished.stderr);
    }
}

/// The guest's clock: how far it is ahead of the host's in seconds, within which bounds, and its uptime.
#[track_caller]
fn clocks(guest: &mut Running, asked: &mut usize) -> (f64, f64, f64) {
    let host = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    // What takes the least time says the most: a question may have to wait in an emulated guest.
    let ask = |_| {
        *asked += 1;
        let before = host();
        guest.send(b"\n");
        let log = guest.wait_for_count("=\r\n", *asked, BOOT);
        let after = host();
        let told: Vec<_> = log.rsplit("now=").next().unwrap().split('=').collect();
        let (now, uptime): (f64, f64) = (told[0].parse().unwrap(), told[2].parse().unwrap());
        (now - (before + after) / 2.0, (after - before) / 2.0, uptime)
    };
    let answers: Vec<_> = (0..5).map(ask).collect();
    answers.into_iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap()
}

#[test]
fn a_guest_that_was_stopped_or_paused_has_the_right_time_and_sees_no_lockup() {
    // A CPU that does not answer for 8 seconds counts as stuck. What the kernel has to say waits for
    // the end, lest it comes in the middle of an answer.
    let script = "dmesg -n 1; echo 4 > /proc/sys/kernel/watchdog_thresh; sleep 3; echo started; \
        while read line && [ \"$line\" != end ]; do echo now=$(date +%s.%N | cut -c1-14)=up=$(cut -d' ' -f1 /proc/uptime)=; done; \
        dmesg | grep -vE 'ACPI|PCI|pci' | tail -n 40";
    let guest = Guest::debian(DEFAULT, "ext4").with("--cpus 2 --name stopped-clock");
    let mut guest = guest.start(Some(script));
    guest.wait_for("started\r\n", BOOT);
    let mut asked = 0;
    // A guest's clock starts as its RTC tells it, which has whole seconds.
    let (ahead, within, mut uptime) = clocks(&mut guest, &mut asked);
    assert!(ahead.abs() < 1.0 + within, "{ahead} s ahead of the host at first");
    let carve = |verb: &str| {
        assert!(support::carve().args([verb, "stopped-clock"]).output().unwrap().status.success());
    };
    for by_signal in [true, false] {
        if by_signal {
            guest.signal(libc::SIGSTOP)
        } else {
            carve("pause")
        }
        thread::sleep(Duration::from_secs(12));
        if by_signal {
            guest.signal(libc::SIGCONT)
        } else {
            carve("unpause")
        }
        thread::sleep(Duration::from_secs(3));
        let (now_ahead, now_within, now_uptime) = clocks(&mut guest, &mut asked);
        let moved = (now_ahead - ahead).abs();
        assert!(moved < 0.1 + within + now_within, "the clock moved by {moved} s");
        assert!(now_uptime > uptime + 12.0, "uptime went from {uptime} to {now_uptime}");
        uptime = now_uptime;
    }
    guest.send(b"end\n");
    assert_clean(&guest.finish(BOOT).expect(0).text());
}

/// A stock kernel and an ordinary user space, with one of everything.
#[track_caller]
fn comes_to_its_login_prompt(transport: &str) {
    let (scratch, tap) = (Scratch::raw(8 << 20), Interface::tap());
    let uplink = Interface::bridge();
    // passt carries on what leaves the host, for which the host needs a way out.
    support::tool(&format!("ip route add default via {}", uplink.guest(1)));
    let folder = tempdir().unwrap();
    let arguments = format!(
        "--transport {transport} --disk path={},format=qcow2,overlay=discard {} --net tap={} --net user \
         --console pty --vsock cid=42,socket={}/v --balloon --memory 768MiB",
        root_image("qcow2").display(),
        scratch.argument(""),
        tap.name(),
        folder.path().display()
    );
    let mut guest = Guest::new(DEFAULT).with(&arguments).cmdline("root=/dev/vda").start(None);
    guest.wait_for("carve-guest login: root (automatic login)", BOOT);
    guest.wait_for(":~#", BOOT);
    guest.send(
        b"for d in /sys/bus/virtio/devices/*; do d=$(readlink $d/driver); echo driver:${d##*/}; done; \
          systemctl is-system-running --wait | sed 's/^/state:/'; systemctl poweroff\n",
    );
    let log = guest.finish(BOOT).expect(0).text();
    assert_clean(&log);
    assert!(log.contains("state:running"), "{log}");
    let drivers = [
        ("virtio_blk", 2),
        ("virtio_net", 2),
        ("virtio_console", 1),
        ("vmw_vsock_virtio_transport", 1),
        ("virtio_balloon", 1),
        ("virtio_rng", 1),
    ];
    for (driver, count) in drivers {
        let found = log.matches(&format!("driver:{driver}")).count();
        assert_eq!(found, count, "devices with the driver {driver}:\n{log}");
    }
}

#[test]
fn a_debian_with_every_device_comes_to_its_login_prompt_on_pci() {
    comes_to_its_login_prompt("pci");
}

#[test]
fn a_debian_with_every_device_comes_to_its_login_prompt_on_mmio() {
    comes_to_its_login_prompt("mmio");
}
