//! Processes of passt, where the host has it; says so and passes where it does not.

use std::net::TcpListener;
use std::thread;

use devices::virtio::net::Backend;

use super::*;

const MAC: MacAddress = [2, 0xca, 0x4e, 0, 0, 1];

fn options() -> Options {
    Options { name: "net.lan".to_owned(), mac: MAC, mtu: 65520, host: false }
}

fn start(forwards: &[&str]) -> Option<Result<Passt, Error>> {
    let forwards: Vec<_> = forwards.iter().map(|forward| forward.parse().unwrap()).collect();
    match Passt::start(options(), &forwards) {
        Err(Error::NotFound) => {
            eprintln!("skipped: no passt");
            None
        }
        result => Some(result),
    }
}

/// Processes called passt that are children of this one.
fn children() -> Vec<i32> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let lists =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok());
    let pids: Vec<i32> = lists
        .flat_map(|list| {
            list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()
        })
        .collect();
    let is_passt = |pid: &i32| {
        std::fs::read_to_string(format!("/proc/{pid}/comm"))
            .is_ok_and(|comm| comm.starts_with("passt"))
    };
    pids.into_iter().filter(is_passt).collect()
}

/// A port that is free at present.
fn free_port() -> u16 {
    TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port()
}

#[track_caller]
fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// One test: others of this process would see its children, too.
#[test]
fn a_process_serves_is_started_again_and_ends_with_its_owner() {
    let port = free_port();
    let forward = format!("127.0.0.1:{port}:80");
    let Some(passt) = start(&[&forward]) else { return };
    let passt = passt.unwrap();
    if let Err(error) = passt.check() {
        let error = error.to_string();
        assert!(error.contains("ended at once") && error.contains("use tap"), "{error}");
        eprintln!("skipped: passt does not work here: {error}");
        return;
    }
    passt.check().unwrap();
    TcpListener::bind(("127.0.0.1", port)).unwrap_err();
    let [first] = children()[..] else { panic!("{:?}", children()) };
    let group = std::fs::read_to_string(format!("/proc/{first}/stat")).unwrap();
    let group = group.rsplit(')').next().unwrap().split_whitespace().nth(2).unwrap().to_owned();
    assert_eq!(group, first.to_string(), "it gets the terminal's signals");

    rustix::process::kill_process(Pid::from_raw(first).unwrap(), Signal::KILL).unwrap();
    let mut again = 0;
    wait("another process", || {
        again = children().first().copied().unwrap_or(first);
        again != first
    });
    let socket = passt.socket().socket();
    wait("the other process answers on the socket in its place", || {
        recv(&*socket, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT).is_ok_and(|(n, _)| n == 1)
    });
    assert!(passt.socket().port(0).unwrap().is_connected());
    drop(passt);
    wait("no process is left", || children().is_empty());
}

#[test]
fn ports_that_are_taken_or_wrong_are_refused_by_name() {
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for (forward, part) in [
        (format!("{port}:80"), "is in use; end what uses it"),
        (format!("127.0.0.1:{port}:80"), "is in use; end what uses it"),
        ("203.0.113.77:8080:80".to_owned(), "is none of this host"),
    ] {
        let forward: Forward = forward.parse().unwrap();
        let error = Passt::start(options(), &[forward]).unwrap_err().to_string();
        assert!(error.contains(&forward.to_string()) && error.contains(part), "{error}");
    }
}

#[test]
fn options_say_addresses_ports_and_mtu() {
    let forwards = ["8080:80", "udp:127.0.0.1:53:5353"].map(|forward| forward.parse().unwrap());
    assert_eq!(
        arguments(&Options { mtu: 1400, ..options() }, &forwards)[2..],
        [
            "--mtu",
            "1400",
            "--no-map-gw",
            "--tcp-ports",
            "8080:80",
            "--udp-ports",
            "127.0.0.1/53:5353"
        ]
    );
}

#[test]
fn the_hosts_loopback_is_out_of_reach_unless_asked_for() {
    assert!(!arguments(&Options { host: true, ..options() }, &[]).contains(&"--no-map-gw".into()));
}

#[test]
fn messages_are_passed_on_in_bounded_lines() {
    let mut lines = Lines { stderr: None, text: Vec::new(), last: None };
    let mut seen = Vec::new();
    let long = "x".repeat(10 * LINE);
    for piece in ["one\ntw", "o\n\nFailed to send 47 bytes to syslog\n\x1b[2J\n", &long, "\n"] {
        lines.split(piece.as_bytes(), &mut |line: &str| seen.push(line.to_owned()));
    }
    assert_eq!(seen, ["one", "two", "\\u{1b}[2J", &long[..LINE]]);
    assert_eq!(lines.last.as_deref(), Some(&long[..LINE]));
}
