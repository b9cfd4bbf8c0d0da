//! `carve serve`: all guests over HTTP, with guests of a few instructions on this host's own KVM.
#![allow(clippy::unwrap_used, unsafe_code, missing_docs)]

mod support;

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};
use support::conformance::check;
use support::host::{Host, until};
use support::{Running, payload};

const SOON: Duration = Duration::from_secs(60);

/// `carve serve` of a user's guests.
struct Served {
    host: Host,
    /// Behind a lock, so that tests with threads may share all of this.
    server: Mutex<Running>,
    socket: PathBuf,
}

impl Served {
    fn new() -> Self {
        let host = Host::new();
        let socket = host.root.path().join("run/host.sock");
        let server = Mutex::new(Running::start(&mut host.command("serve")));
        until(|| UnixStream::connect(&socket).is_ok());
        Self { host, server, socket }
    }

    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let (status, body) = ask(&self.socket, method, path, body);
        (status, serde_json::from_str(&body).unwrap_or(Value::Null))
    }

    /// Makes a guest of `code`, and starts it.
    #[track_caller]
    fn run(&self, name: &str, code: &[u8]) {
        self.boot(name, &payload::elf(code));
    }

    /// Makes a guest of this kernel, and starts it.
    #[track_caller]
    fn boot(&self, name: &str, kernel: &Path) {
        let config = json!({ "name": name, "kernel": kernel, "memory": "16MiB" });
        let (status, report) =
            self.ask("POST", "/v1/guests", json!({ "config": config, "start": true }));
        assert_eq!(status, 201, "{report}");
    }

    #[track_caller]
    fn state(&self, name: &str) -> Value {
        self.ask("GET", &format!("/v1/guests/{name}"), Value::Null).1["state"].clone()
    }

    #[track_caller]
    fn done(&self, method: &str, path: &str) {
        let (status, problem) = self.ask(method, path, Value::Null);
        assert_eq!(status, 204, "{method} {path}: {problem}");
    }
}

#[track_caller]
fn ask(socket: &Path, method: &str, path: &str, body: Value) -> (u16, String) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).unwrap();
    let (head, body) = heard.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

/// Starts `carve serve` as systemd does: with the listening socket as descriptor 3.
fn activated(host: &Host, listener: &UnixListener, arguments: &str) -> Child {
    let fd = listener.as_raw_fd();
    let mut command = Command::new("/bin/sh");
    // The process id is known only to the process itself.
    command.args(["-c", "export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\"", "sh"]);
    let carve = host.command(&format!("serve {arguments}"));
    command.arg(carve.get_program()).args(carve.get_args());
    command.envs(carve.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let pass = move || {
        let passed = match fd {
            // SAFETY: fcntl(2) is async-signal-safe; it is to stay open over exec.
            3 => unsafe { libc::fcntl(fd, libc::F_SETFD, 0) },
            // SAFETY: so is dup2(2), whose copy stays open over exec.
            _ => unsafe { libc::dup2(fd, 3) },
        };
        if passed < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: the closure does nothing else.
    unsafe { command.pre_exec(pass) };
    command.stderr(Stdio::piped()).spawn().unwrap()
}

support::kvm_tests! {
    fn a_guest_lives_its_whole_life_over_http() {
        let served = Served::new();
        served.run("web", payload::spin());
        assert_eq!(served.state("web"), "running");
        served.done("POST", "/v1/guests/web/pause");
        assert_eq!(served.host.state("web"), "paused", "commands see the same");
        let (status, problem) = served.ask("POST", "/v1/guests/web/pause", Value::Null);
        assert_eq!((status, &problem["type"]), (409, &json!("urn:carve:problem:state")));
        served.done("POST", "/v1/guests/web/resume");
        let (status, list) = served.ask("GET", "/v1/guests?state=running", Value::Null);
        assert_eq!((status, &list["guests"][0]["name"]), (200, &json!("web")));
        let (_, metrics) = ask(&served.socket, "GET", "/v1/metrics", Value::Null);
        assert!(metrics.contains("name=\"web\"} 1"), "{metrics}");
        let (status, problem) = served.ask("DELETE", "/v1/guests/web", Value::Null);
        assert_eq!(status, 409, "{problem}");
        served.done("POST", "/v1/guests/web/stop?timeout=0");
        assert_eq!(served.state("web"), "exited");
        served.done("DELETE", "/v1/guests/web");
        assert!(served.host.guests().is_empty());
        let (_, told) = ask(&served.socket, "GET", "/v1/events?since=0&follow=no", Value::Null);
        let told: Vec<_> = told.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["event"].clone()).collect();
        assert_eq!(told, ["created", "started", "paused", "resumed", "power-button", "exited", "removed"]);
    }

    fn what_a_guest_said_is_there_to_its_last_byte() {
        let served = Served::new();
        served.run("says", payload::hello());
        let (status, log) = ask(&served.socket, "GET", "/v1/guests/says/log?follow=yes", Value::Null);
        assert_eq!((status, log.as_str()), (200, "hello\n"));
        assert_eq!(served.state("says"), "exited");
    }

    fn a_guest_that_cannot_start_says_why_and_stays_to_be_looked_at() {
        let served = Served::new();
        let kernel = payload::elf(payload::spin());
        let config = json!({ "name": "web", "kernel": kernel.to_path_buf(), "memory": "16MiB" });
        let body = json!({ "config": config, "kvm_device": "/dev/null", "start": true });
        let (status, problem) = served.ask("POST", "/v1/guests", body);
        assert_eq!((status, &problem["type"]), (500, &json!("urn:carve:problem:start")));
        assert!(problem["detail"].as_str().unwrap().contains("/dev/null"), "{problem}");
        assert_eq!(served.state("web"), "exited");
    }

    fn guests_outlive_the_server_and_another_finds_them() {
        let served = Served::new();
        served.run("web", payload::spin());
        let Served { host, server, socket } = served;
        let server = server.into_inner().unwrap();
        server.signal(libc::SIGTERM);
        server.finish(SOON).expect(0);
        assert!(!socket.exists(), "its socket goes with it");
        assert_eq!(host.state("web"), "running");
        let served = Served { server: Mutex::new(Running::start(&mut host.command("serve"))), host, socket };
        until(|| UnixStream::connect(&served.socket).is_ok());
        served.done("POST", "/v1/guests/web/kill");
        assert_eq!(served.host.state("web"), "exited");
        // Monitors that ended leave nothing behind either.
        until(|| served.host.processes().len() == 1);
    }

    fn commands_and_requests_at_once_do_not_lose_anything() {
        let served = Served::new();
        served.run("web", payload::spin());
        std::thread::scope(|scope| {
            for number in 0..8 {
                let label = |by| format!("{by}{number}");
                let (served, over_http) = (&served, label("http"));
                scope.spawn(move || {
                    let body = json!({ "labels": { over_http: "1" } });
                    assert_eq!(served.ask("PATCH", "/v1/guests/web", body).0, 204);
                });
                let by_command = label("command");
                scope.spawn(move || served.host.carve(&format!("update --label {by_command}=1 web")).ok());
                let name = format!("made{number}");
                scope.spawn(move || served.run(&name, payload::power_off()));
            }
        });
        assert_eq!(served.host.inspect("web")["labels"].as_object().unwrap().len(), 16);
        assert_eq!(served.host.guests().len(), 9);
    }

    fn an_independent_tool_finds_the_interface_as_it_is_described() {
        let served = Served::new();
        let kernel = payload::elf(payload::spin());
        served.boot("described", &kernel);
        // The first two take as long as they are asked to, the others go on for ever.
        let one = |verb: &str| format!("/v1/guests/{{name}}/{verb}");
        check(&served.socket, &[&one("stop"), &one("restart"), &one("log"), "/v1/events"]);
        assert_eq!(served.ask("GET", "/v1/guests", Value::Null).0, 200);
    }

    fn the_description_served_is_the_one_printed() {
        let served = Served::new();
        let (status, described) = served.ask("GET", "/v1/openapi.json", Value::Null);
        let printed: Value = serde_json::from_str(&served.host.carve("api-spec --host").ok()).unwrap();
        assert_eq!((status, described), (200, printed));
    }
}

#[test]
fn a_socket_that_was_passed_is_served_until_nobody_comes_any_more() {
    let host = Host::new();
    let path = host.root.path().join("passed.sock");
    let listener = UnixListener::bind(&path).unwrap();
    for _ in 0..2 {
        let mut server = activated(&host, &listener, "--idle-exit 1");
        let (status, list) = ask(&path, "GET", "/v1/guests", Value::Null);
        assert_eq!((status, list.contains("\"guests\":[]")), (200, true), "{list}");
        assert_eq!(server.wait().unwrap().code(), Some(0));
        assert!(path.exists(), "it belongs to who passed it");
    }
}

#[test]
fn what_was_passed_and_cannot_be_served_is_refused() {
    let host = Host::new();
    let listener = UnixListener::bind(host.root.path().join("passed.sock")).unwrap();
    let refused = |server: Child, word: &str| {
        let output = server.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(125) && text.contains(word), "{output:?}");
    };
    refused(activated(&host, &listener, "--socket x.sock"), "--socket");
    let (one, _other) = UnixStream::pair().unwrap();
    let connected: std::os::fd::OwnedFd = one.into();
    refused(activated(&host, &connected.into(), ""), "ListenStream=");
}
