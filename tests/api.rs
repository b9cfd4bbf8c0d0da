//! The control interface of guests and the journal of all of them, with guests of a few instructions on this
//! host's own KVM.
#![allow(clippy::unwrap_used, unsafe_code, missing_docs)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use support::payload::{self, elf};
use support::{Finished, Running, carve, have_kvm, store};

const SOON: Duration = Duration::from_secs(60);

/// `carve` with arguments, to its end.
#[track_caller]
fn done(arguments: &[&str]) -> Finished {
    Running::start(carve().args(arguments)).finish(SOON).expect(0)
}

/// A detached guest, removed at the end.
struct Guest {
    id: String,
}

impl Guest {
    /// Runs `code` under `name`, with more arguments.
    #[track_caller]
    fn start(name: &str, code: &[u8], arguments: &[&str]) -> Self {
        let kernel = elf(code);
        let kernel = kernel.to_str().unwrap();
        let all = ["run", "-d", "--name", name, "--memory", "128MiB", "--kernel", kernel];
        let id = done(&[&all[..], arguments].concat()).text().trim().to_owned();
        Self { id }
    }

    fn socket(&self) -> PathBuf {
        store().join("run").join(&self.id).join("api.sock")
    }

    /// Sends a request that is the connection's last, and reads all that comes.
    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        let (head, body) = heard.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = Running::start(carve().args(["rm", "-f", &self.id])).finish(SOON);
    }
}

/// What happened, of lines of JSON.
fn names(lines: &str) -> Vec<String> {
    let event =
        |line| serde_json::from_str::<Value>(line).unwrap()["event"].as_str().unwrap().to_owned();
    lines.lines().map(event).collect()
}

macro_rules! kvm_tests {
    ($($(#[$attribute:meta])* fn $name:ident() $body:block)+) => {
        $($(#[$attribute])* #[test] fn $name() { if have_kvm() { $body } })+
    };
}

kvm_tests! {
    fn a_guest_answers_over_its_socket() {
        let guest = Guest::start("asked", payload::spin(), &[]);
        let (status, body) = guest.ask("GET", "/v1/vm", "");
        let vm: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &vm["name"], &vm["state"]), (200, &"asked".into(), &"running".into()));
        assert_eq!(guest.ask("GET", "/v1/events?follow=perhaps", "").0, 400);
        let (status, told) = guest.ask("GET", "/v1/events?follow=no", "");
        assert_eq!((status, names(&told)), (200, vec!["started".to_owned()]));
    }

    fn a_guest_tells_of_its_life_up_to_its_end() {
        let guest = Guest::start("told", payload::spin(), &[]);
        let mut stream = UnixStream::connect(guest.socket()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
        lines.find(String::is_empty).unwrap();
        done(&["pause", "told"]);
        done(&["unpause", "told"]);
        done(&["kill", "--signal", "TERM", "told"]);
        let told: Vec<_> = lines.collect();
        assert_eq!(names(&told.join("\n")), ["started", "paused", "resumed", "exited"]);
        let last: Value = serde_json::from_str(&told[3]).unwrap();
        assert_eq!((&last["name"], &last["details"]["exit_code"]), (&"told".into(), &"143".into()));
    }

    fn the_journal_tells_of_all_guests_by_time_and_filter() {
        let one = Guest::start("one", payload::power_off(), &["--label", "team=red"]);
        done(&["wait", "one"]);
        let _two = Guest::start("two", payload::spin(), &[]);
        let told = |arguments: &[&str]| {
            let all = [&["events", "--since", "10m", "--until", "0s"], arguments].concat();
            done(&all).text()
        };
        let of_one = ["created", "started", "exited"];
        assert_eq!(names(&told(&["--filter", "guest=one"])), of_one);
        assert_eq!(names(&told(&["-f", &format!("guest={}", one.id)])), of_one);
        assert_eq!(names(&told(&["-f", "label=team=red", "-f", "event=exited"])), ["exited"]);
        assert_eq!(told(&["-f", "label=team=blue"]), "");
        let table = told(&["--format", "table", "-f", "guest=one", "-f", "event=exited"]);
        assert!(table.contains(&one.id) && table.contains("exit_code=0"), "{table}");
    }

    fn events_are_followed_until_nobody_reads_any_more() {
        let mut command = carve();
        let mut events = command.args(["events", "-f", "guest=follow"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(events.stdout.take().unwrap()).lines().map(Result::unwrap);
        // Only what comes is shown, so it has to be there by then.
        std::thread::sleep(Duration::from_millis(500));
        let guest = Guest::start("follow", payload::spin(), &[]);
        assert_eq!(names(&lines.next().unwrap()), ["created"]);
        assert_eq!(names(&lines.next().unwrap()), ["started"]);
        drop(lines);
        assert_eq!(events.wait().unwrap().code(), Some(0), "the reader has had enough");
        drop(guest);
    }

    fn interrupting_events_ends_them() {
        let mut events = Running::start(carve().args(["events", "--since", "1h"]));
        std::thread::sleep(Duration::from_millis(500));
        assert!(!events.exited());
        events.signal(libc::SIGINT);
        let finished = events.finish(SOON);
        assert!(finished.stderr.is_empty(), "{}", finished.stderr);
    }
}
