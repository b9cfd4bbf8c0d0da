//! The server over its socket, with a main loop that is a few lines.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::thread;

use tempfile::TempDir;

use super::super::events::Events;
use super::super::routes::Guest;
use super::super::socket;
use super::super::types::{Event, ProblemDocument, RunState, Vm};
use super::*;
use crate::command::{Answer, Command, Inbox, Mailbox, Refusal, Reply};
use crate::console::ConsoleHandle;
use crate::console::remote::RemoteInput;
use crate::console::ring::Ring;

/// A served guest.
struct Fixture {
    // In this order: the main loop ends before the server, as in a run.
    main: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    server: Option<Server>,
    path: PathBuf,
    events: Events,
    _dir: TempDir,
}

impl Fixture {
    fn new(limits: Limits) -> Self {
        Self::with_main(limits, |inbox, stop| {
            while !stop.load(Ordering::Acquire) {
                match inbox.take() {
                    Some(asked) => {
                        let reply = obey(&asked.command);
                        asked.answer(reply);
                    }
                    None => thread::sleep(Duration::from_micros(200)),
                }
            }
        })
    }

    fn with_main(limits: Limits, main: impl FnOnce(Inbox, &AtomicBool) + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let (mailbox, inbox) = Mailbox::new().unwrap();
        let listener = socket::bind(&path).unwrap();
        let events = Events::default();
        let console = ConsoleHandle { ring: Ring::default(), input: RemoteInput::new().unwrap() };
        let server =
            Server::start(listener, Guest::new(mailbox, events.clone(), console.clone()), limits)
                .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let main = thread::spawn(move || main(inbox, &until));
        Self { main: Some(main), stop, server: Some(server), path, events, _dir: dir }
    }

    fn connect(&self) -> UnixStream {
        let stream = socket::connect(&self.path, Duration::from_secs(20)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Everything that comes after `text` was sent, until the server closes.
    fn say(&self, text: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(text.as_bytes()).unwrap();
        hear(&mut stream)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.main.take().unwrap().join().unwrap();
        self.server.take();
    }
}

fn obey(command: &Command) -> Reply {
    match command {
        Command::Status => Ok(Answer::Status(Box::new(Vm {
            id: "1234".into(),
            name: "web".into(),
            state: RunState::Running,
            pid: 1,
            carve_version: "0".into(),
            vcpus: 1,
            memory: 1,
            resets: 0,
            started_at: 0,
        }))),
        Command::Pause => Err(Refusal::State("the guest is paused already".into())),
        Command::Disk(name, _) => Err(Refusal::NotFound(format!("there is no disk {name}"))),
        Command::Balloon(_) => Err(Refusal::Invalid("the guest has less".into())),
        Command::Net(..) => Err(Refusal::Failed("the host has no memory".into())),
        _ => Ok(Answer::Done),
    }
}

fn short() -> Limits {
    Limits {
        request: Duration::from_millis(100),
        idle: Duration::from_millis(200),
        answer: Duration::from_millis(100),
        farewell: Duration::from_millis(200),
        ..Limits::default()
    }
}

fn hear(stream: &mut UnixStream) -> String {
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    String::from_utf8(heard).unwrap()
}

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n")
}

fn send(method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// Status and body of the only response.
fn response(text: &str) -> (u16, &str) {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
    (head[9..12].parse().unwrap(), body)
}

fn problem(text: &str) -> (u16, ProblemDocument) {
    assert!(text.contains("Content-Type: application/problem+json\r\n"), "{text}");
    let (status, body) = response(text);
    let document: ProblemDocument = serde_json::from_str(body).unwrap();
    assert_eq!(document.status, status);
    (status, document)
}

#[test]
fn a_guest_is_shown_and_obeys() {
    let guest = Fixture::new(Limits::default());
    let heard = guest.say(&get("/v1/vm", "Connection: close\r\n"));
    let (status, body) = response(&heard);
    let vm: Vm = serde_json::from_str(body).unwrap();
    assert_eq!((status, vm.name.as_str()), (200, "web"));
    assert_eq!(response(&guest.say(&send("POST", "/v1/resume", ""))), (204, ""));
}

#[test]
fn refusals_of_the_main_loop_are_problems() {
    let guest = Fixture::new(Limits::default());
    let case = |method, path, body, status, word: &str| {
        let (got, document) = problem(&guest.say(&send(method, path, body)));
        assert_eq!(got, status, "{document:?}");
        assert!(document.detail.contains(word), "{document:?}");
    };
    case("POST", "/v1/pause", "", 409, "paused already");
    case("PATCH", "/v1/disks/swap", "{}", 404, "swap");
    case("PATCH", "/v1/balloon", r#"{"target":1}"#, 422, "less");
    case("PATCH", "/v1/nets/lan", "{}", 500, "memory");
    case("PATCH", "/v1/balloon", r#"{"target":1,"aim":1}"#, 400, "`aim`");
    case("GET", "/v1/cpus", "", 404, "/v1/cpus");
    case("GET", "/v1/pause", "", 405, "POST");
    assert!(guest.say(&send("DELETE", "/v1/vm", "")).contains("\r\nAllow: GET, HEAD\r\n"));
}

#[test]
fn a_connection_serves_one_request_after_the_other() {
    let guest = Fixture::new(Limits::default());
    let mut stream = guest.connect();
    let mut buffer = [0; 4096];
    for _ in 0..3 {
        stream.write_all(get("/v1/vm", "").as_bytes()).unwrap();
        let count = stream.read(&mut buffer).unwrap();
        assert!(buffer[..count].starts_with(b"HTTP/1.1 200 OK"));
    }
}

#[test]
fn requests_sent_together_are_answered_in_their_order() {
    let guest = Fixture::new(Limits::default());
    let mut all = String::new();
    for _ in 0..200 {
        all += &get("/v1/vm", "");
        all += &get("/v1/nowhere", "");
    }
    all += &get("/v1/vm", "Connection: close\r\n");
    let mut stream = guest.connect();
    let mut writer = stream.try_clone().unwrap();
    let writing = thread::spawn(move || writer.write_all(all.as_bytes()));
    let heard = hear(&mut stream);
    writing.join().unwrap().unwrap();
    let statuses: Vec<_> =
        heard.matches("HTTP/1.1 ").zip(heard.split("HTTP/1.1 ").skip(1)).collect();
    assert_eq!(statuses.len(), 401);
    for (index, (_, response)) in statuses.iter().enumerate() {
        assert!(response.starts_with(["200", "404"][index % 2]), "{index}: {response}");
    }
}

#[test]
fn what_is_too_long_or_has_no_length_is_refused_and_the_refusal_arrives() {
    let guest = Fixture::new(short());
    let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(100_000));
    assert_eq!(problem(&guest.say(&long)).0, 431);
    let body = "x".repeat(100_000);
    assert_eq!(problem(&guest.say(&send("PATCH", "/v1/balloon", &body))).0, 413);
    let chunked = get("/v1/vm", "Transfer-Encoding: chunked\r\n") + "0\r\n\r\n";
    assert_eq!(problem(&guest.say(&chunked)).0, 411);
    assert_eq!(problem(&guest.say("\0\r\n\r\n")).0, 400);
}

#[test]
fn a_client_may_ask_whether_to_send_its_body() {
    let guest = Fixture::new(Limits::default());
    let mut stream = guest.connect();
    let head = "PUT /v1/console/size HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                Expect: 100-continue\r\nContent-Length: 24\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut leave = [0; 25];
    stream.read_exact(&mut leave).unwrap();
    assert_eq!(&leave, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(br#"{"columns":80,"rows":24}"#).unwrap();
    assert_eq!(response(&hear(&mut stream)).0, 204);
}

#[test]
fn slow_clients_are_told_and_idle_ones_closed() {
    let guest = Fixture::new(short());
    assert_eq!(problem(&guest.say("GET /v1/vm HT")).0, 408);
    assert_eq!(hear(&mut guest.connect()), "", "who says nothing hears nothing");
    let mut trickling = guest.connect();
    let answered = (0..100).any(|_| {
        thread::sleep(Duration::from_millis(10));
        trickling.write_all(b"x").is_err()
    });
    assert!(answered, "sending bit by bit buys no time");
    let served = guest.say(&get("/v1/vm", ""));
    assert_eq!(response(&served).0, 200, "and is closed when nothing follows");
}

#[test]
fn a_client_that_takes_no_response_is_given_up() {
    let guest = Fixture::new(Limits { idle: Duration::from_secs(600), ..short() });
    let mut deaf = guest.connect();
    deaf.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    let request = get("/v1/nowhere", "");
    // Until its responses fill the socket, nobody reads any more of its requests, and it is closed.
    let error = (0..1_000_000).find_map(|_| deaf.write_all(request.as_bytes()).err()).unwrap();
    assert!(
        [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset].contains(&error.kind()),
        "{error}"
    );
    assert_eq!(response(&guest.say(&send("POST", "/v1/end", ""))).0, 204);
}

#[test]
fn a_main_loop_that_does_not_answer_is_not_waited_for() {
    let guest = Fixture::with_main(short(), |_inbox, stop| {
        while !stop.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(1));
        }
    });
    let heard = guest.say(&send("POST", "/v1/pause", ""));
    assert_eq!(problem(&heard).0, 504);
}

#[test]
fn while_one_waits_for_the_main_loop_others_are_served() {
    let guest = Fixture::with_main(Limits::default(), |inbox, stop| {
        while !stop.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(1));
        }
        drop(inbox);
    });
    let mut waiting = guest.connect();
    waiting.write_all(send("POST", "/v1/pause", "").as_bytes()).unwrap();
    assert_eq!(problem(&guest.say(&send("GET", "/v1/nowhere", ""))).0, 404);
    drop(guest);
    assert_eq!(problem(&hear(&mut waiting)).0, 503, "the end of the run answers it");
}

#[test]
fn an_answer_given_with_the_last_breath_arrives() {
    for _ in 0..20 {
        let guest = Fixture::with_main(Limits::default(), |inbox, _| {
            let asked = std::iter::repeat_with(|| inbox.take()).flatten().next().unwrap();
            asked.answer(Ok(Answer::Done));
        });
        let mut stream = guest.connect();
        stream.write_all(send("POST", "/v1/end", "").as_bytes()).unwrap();
        drop(guest);
        assert_eq!(response(&hear(&mut stream)).0, 204);
    }
}

#[test]
fn more_clients_than_are_served_at_once_are_all_served() {
    let guest = Fixture::new(Limits::default());
    thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| {
                // Connections stay open: those that idle make room.
                let mut stream = guest.connect();
                thread::sleep(Duration::from_millis(20));
                stream.write_all(get("/v1/vm", "").as_bytes()).unwrap();
                let mut status = [0; 12];
                stream.read_exact(&mut status).unwrap();
                assert_eq!(&status, b"HTTP/1.1 200");
                thread::sleep(Duration::from_millis(200));
            });
        }
    });
}

#[test]
fn silent_clients_that_take_every_place_lose_it() {
    let guest = Fixture::new(Limits { connections: 4, ..short() });
    let _silent: Vec<_> = (0..8).map(|_| guest.connect()).collect();
    assert_eq!(response(&guest.say(&send("POST", "/v1/end", ""))).0, 204);
}

#[test]
fn clients_that_vanish_leave_nothing_behind() {
    let guest = Fixture::new(Limits { connections: 4, ..Limits::default() });
    for text in ["", "GET /v1/vm HT", &get("/v1/vm", ""), &send("POST", "/v1/pause", "")] {
        for _ in 0..20 {
            drop(guest.connect().write_all(text.as_bytes()));
        }
    }
    assert_eq!(response(&guest.say(&send("POST", "/v1/end", ""))).0, 204);
}

fn event(name: &str) -> Event {
    Event { time: 1, event: name.into(), id: "1234".into(), name: "web".into(), ..Event::default() }
}

/// Reads until `text` has come.
fn hear_until(stream: &mut UnixStream, text: &str) -> String {
    let mut heard = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&heard).contains(text) {
        let count = stream.read(&mut buffer).unwrap();
        assert_ne!(count, 0, "{:?}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8(heard).unwrap()
}

#[test]
fn events_are_streamed_as_they_happen_up_to_the_end_of_the_guest() {
    let guest = Fixture::new(short());
    guest.events.publish(&event("started"));
    let mut stream = guest.connect();
    stream.write_all(get("/v1/events", "").as_bytes()).unwrap();
    let head = hear_until(&mut stream, "started");
    assert!(head.contains("Content-Type: application/x-ndjson\r\n"), "{head}");
    assert!(head.contains("Connection: close\r\n") && !head.contains("Content-Length"), "{head}");
    // Longer than any limit of a client that is to do something.
    thread::sleep(Duration::from_millis(400));
    guest.events.publish(&event("paused"));
    assert!(hear_until(&mut stream, "\n").contains("paused"));
    // Others are served meanwhile.
    assert_eq!(response(&guest.say(&send("POST", "/v1/resume", ""))).0, 204);
    guest.events.publish(&event("exited"));
    guest.events.close();
    assert!(hear(&mut stream).contains("exited"));
}

#[test]
fn events_that_were_are_there_without_waiting() {
    let guest = Fixture::new(Limits::default());
    guest.events.publish(&event("started"));
    let heard = guest.say(&get("/v1/events?follow=no", ""));
    let lines: Vec<_> = response(&heard).1.lines().collect();
    assert_eq!(serde_json::from_str::<Event>(lines[0]).unwrap(), event("started"));
    assert_eq!(lines.len(), 1);
    let head = guest.say(&get("/v1/events", "").replace("GET", "HEAD"));
    assert!(head.ends_with("\r\n\r\n") && head.contains("ndjson"), "{head}");
}

#[test]
fn a_listener_that_does_not_read_is_dropped() {
    let guest = Fixture::new(short());
    let mut stream = guest.connect();
    stream.write_all(get("/v1/events", "").as_bytes()).unwrap();
    hear_until(&mut stream, "\r\n\r\n");
    let long = Event { name: "x".repeat(16 << 10), ..event("reset") };
    // More than any socket holds, and no more at once than the list keeps.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(20) {
        guest.events.publish(&long);
        let mut buffer = [0; 1];
        use std::os::fd::AsFd;
        let mut fds = [PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::empty())];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 1_000_000 })).unwrap();
        if fds[0].revents().contains(PollFlags::HUP) {
            assert_eq!(stream.read(&mut buffer).unwrap(), 1, "what was sent is still there");
            return;
        }
    }
    panic!("the listener was kept");
}

#[test]
fn the_interface_describes_itself() {
    let guest = Fixture::new(Limits::default());
    let heard = guest.say(&get("/v1/openapi.json", "Connection: close\r\n"));
    let (status, body) = response(&heard);
    let document: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!((status, &document["openapi"]), (200, &"3.1.0".into()));
}
