//! The control interface of guests and the journal of all of them, with guests of a few instructions on this
//! host's own KVM.
#![allow(clippy::unwrap_used, unsafe_code, missing_docs)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use support::conformance::check;
use support::payload::{self, elf};
use support::{Finished, Running, carve, store};

const SOON: Duration = Duration::from_secs(60);

const MIB: u64 = 1 << 20;

/// `carve` with arguments, to its end.
#[track_caller]
fn done(arguments: &[&str]) -> Finished {
    Running::start(carve().args(arguments)).finish(SOON).expect(0)
}

/// `carve` with arguments, which it refuses in these words.
#[track_caller]
fn refused(arguments: &[&str], words: &[&str]) {
    let finished = Running::start(carve().args(arguments)).finish(SOON);
    assert!(!finished.status.success(), "{arguments:?} was done");
    for word in words {
        assert!(finished.stderr.contains(word), "no {word:?} in {:?}", finished.stderr);
    }
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

support::kvm_tests! {
    fn a_guest_answers_over_its_socket() {
        let guest = Guest::start("asked", payload::spin(), &[]);
        let (status, body) = guest.ask("GET", "/v1/vm", "");
        let vm: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &vm["name"], &vm["state"]), (200, &"asked".into(), &"running".into()));
        assert_eq!(guest.ask("GET", "/v1/events?follow=perhaps", "").0, 400);
        let (status, told) = guest.ask("GET", "/v1/events?follow=no", "");
        assert_eq!((status, names(&told)), (200, vec!["started".to_owned()]));
    }

    fn metrics_are_there_for_one_guest_and_for_all() {
        let guest = Guest::start("measured", payload::spin(), &[]);
        let (status, own) = guest.ask("GET", "/v1/metrics", "");
        assert_eq!(status, 200);
        let up = format!("carve_guest_up{{id=\"{}\",name=\"measured\"}}", guest.id);
        assert!(own.contains(&format!("{up} 1")) && own.contains("carve_guest_vcpu_exits_total"), "{own}");
        let all = done(&["metrics"]).text();
        assert!(all.contains(&format!("{up} 1")) && all.contains("state=\"running\""), "{all}");

        // One that hangs is told apart within the second, and the others do not suffer.
        let other = Guest::start("answers", payload::spin(), &[]);
        let inspected: Value = serde_json::from_str(&done(&["inspect", "measured"]).text()).unwrap();
        let pid = i32::try_from(inspected[0]["pid"].as_i64().unwrap()).unwrap();
        // SAFETY: signals to a process of this test's own guest, which lives until the end of the test.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGSTOP) }, 0);
        let finished = done(&["metrics"]);
        // SAFETY: as above.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGCONT) }, 0);
        let all = finished.text();
        assert!(all.contains(&format!("{up} 0")), "{all}");
        let other = format!("carve_guest_up{{id=\"{}\",name=\"answers\"}} 1", other.id);
        assert!(all.contains(&other) && finished.took < Duration::from_secs(10), "{all}");
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
        thread::sleep(Duration::from_millis(500));
        let guest = Guest::start("follow", payload::spin(), &[]);
        assert_eq!(names(&lines.next().unwrap()), ["created"]);
        assert_eq!(names(&lines.next().unwrap()), ["started"]);
        drop(lines);
        assert_eq!(events.wait().unwrap().code(), Some(0), "the reader has had enough");
        drop(guest);
    }

    fn an_independent_tool_finds_the_interface_as_it_is_described() {
        let guest = Guest::start("described", payload::spin(), &["--balloon"]);
        // These end the guest, or go on for ever.
        check(&guest.socket(), &["/v1/end", "/v1/reset", "/v1/events", "/v1/console"]);
        assert_eq!(guest.ask("GET", "/v1/vm", "").0, 200);
    }

    fn what_is_updated_holds_at_once_and_at_the_next_start() {
        let disk = tempfile::NamedTempFile::new().unwrap();
        disk.as_file().set_len(MIB).unwrap();
        let path = disk.path().to_str().unwrap();
        let kernel = elf(payload::disk_pci());
        let kernel = kernel.to_str().unwrap();
        let all = ["run", "-d", "--name", "changed", "--memory", "128MiB", "--balloon", "--kernel", kernel, "--disk", path];
        let guest = Guest { id: done(&all).text().trim().to_owned() };
        let changes = ["--disk", "disk0,size=2MiB,iops=200", "--balloon", "16MiB", "--restart", "on-failure", "--label", "tier=front"];
        done(&[&["update", "changed"], &changes[..]].concat());
        assert_eq!(disk.as_file().metadata().unwrap().len(), 2 * MIB);
        let statistics = || serde_json::from_str::<Value>(&guest.ask("GET", "/v1/stats", "").1).unwrap();
        assert_eq!(statistics()["memory"]["balloon_target"], 16 * MIB);
        assert_eq!(statistics()["disks"]["disk0"]["size"], 2 * MIB);
        let inspect = || serde_json::from_str::<Value>(&done(&["inspect", "changed"]).text()).unwrap()[0].clone();
        let kept = inspect();
        assert_eq!((&kept["config"]["disk"]["disk0"]["iops"], &kept["config"]["balloon"]["target"]), (&200.into(), &"16MiB".into()));
        assert_eq!((&kept["restart"], &kept["labels"]["tier"]), (&"on-failure".into(), &"front".into()));
        refused(&["update", "--disk", "root,iops=1", "changed"], &["`root`", "`disk0`"]);
        refused(&["update", "--disk", "disk0,size=1MiB", "changed"], &["disk0", "2097152"]);
        assert_eq!(inspect()["config"], kept["config"], "what was refused is not kept");

        done(&["kill", "changed"]);
        refused(&["update", "--disk", "disk0,size=4MiB", "changed"], &["exited", "carve start changed", "truncate", path]);
        done(&["update", "--disk", "disk0,iops=300", "--balloon", "8MiB", "changed"]);
        done(&["start", "changed"]);
        assert_eq!(statistics()["memory"]["balloon_target"], 8 * MIB);
        let told = done(&["events", "--since", "10m", "--until", "0s", "-f", "guest=changed", "-f", "event=updated"]).text();
        assert_eq!(told.lines().count(), 6, "{told}");
        refused(&["update", "changed"], &["nothing is to change", "--disk"]);
    }

    fn statistics_are_of_the_last_second_and_come_every_second() {
        let disk = tempfile::NamedTempFile::new().unwrap();
        disk.as_file().set_len(MIB).unwrap();
        let path = format!("path={},iops=400", disk.path().display());
        let guest = Guest::start("busy", payload::disk_pci(), &["--disk", &path]);
        let list: Value = serde_json::from_str(&done(&["stats", "--no-stream", "--format", "json", "busy"]).text()).unwrap();
        let (one, none) = (&list["guests"][0], &list["guests"][1]);
        assert_eq!((&list["version"], &one["name"], &one["memory"], none), (&1.into(), &"busy".into(), &(128 * MIB).into(), &Value::Null));
        let written = one["disk_written"].as_u64().unwrap();
        assert!(written > 100 * 512 && written < 500 * 512, "{one}");
        assert!(one["cpu_percent"].as_f64().unwrap() > 0.0 && one["memory_held"].as_u64().unwrap() > 0, "{one}");

        let (_, metrics) = guest.ask("GET", "/v1/metrics", "");
        // Its driver polls, and wants none.
        let interrupts = format!("carve_guest_interrupts_total{{id=\"{}\",name=\"busy\",kind=\"disk\",device=\"disk0\",queue=\"0\"}} 0", guest.id);
        assert!(metrics.lines().any(|line| line == interrupts), "{metrics}");

        let mut command = carve();
        let mut stats = command.args(["stats", "--format", "json", "busy"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(stats.stdout.take().unwrap()).lines().map(Result::unwrap);
        for _ in 0..2 {
            let list: Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
            assert!(list["guests"][0]["disk_written"].is_u64(), "{list}");
        }
        drop(lines);
        assert_eq!(stats.wait().unwrap().code(), Some(0), "the reader has had enough");
        done(&["kill", "busy"]);
        let table = done(&["stats", "--no-stream", "busy"]).text();
        assert!(table.contains("exited") && table.contains("- / 128MiB"), "{table}");
        refused(&["stats", "--no-stream", "nobody-at-all"], &["no guest nobody-at-all"]);
    }

    fn interrupting_events_ends_them() {
        let mut events = Running::start(carve().args(["events", "--since", "1h"]));
        thread::sleep(Duration::from_millis(500));
        assert!(!events.exited());
        events.signal(libc::SIGINT);
        let finished = events.finish(SOON);
        assert!(finished.stderr.is_empty(), "{}", finished.stderr);
    }
}
