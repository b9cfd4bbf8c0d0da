//! Clients of the console over a socket.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::super::client::{self, ConsoleOptions, ConsoleStream};
use super::super::events::Events;
use super::super::routes::Guest;
use super::super::server::{Limits, Server};
use super::super::socket;
use super::*;
use crate::command::{Inbox, Mailbox};
use crate::console::output::Output;
use crate::console::ring::Ring;

/// A guest that only talks.
struct Fixture {
    output: Output,
    console: ConsoleHandle,
    path: PathBuf,
    _server: Server,
    _inbox: Inbox,
    _dir: TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let (mailbox, inbox) = Mailbox::new().unwrap();
        let console = ConsoleHandle { ring: Ring::default(), input: RemoteInput::new().unwrap() };
        let guest = Guest::new(mailbox, Events::default(), console.clone());
        let server = Server::start(socket::bind(&path).unwrap(), guest, limits).unwrap();
        let output = Output::new(None, console.ring.clone()).unwrap();
        Self { output, console, path, _server: server, _inbox: inbox, _dir: dir }
    }

    fn say(&mut self, text: &[u8]) {
        let end = self.console.ring.end() + text.len() as u64;
        self.output.write_all(text).unwrap();
        until(|| self.console.ring.end() == end);
    }

    fn attach(&self, from: Option<u64>, input: bool, log: bool) -> ConsoleStream {
        let client = client::Client::connect(&self.path).unwrap();
        let console = client.console(ConsoleOptions { from, input, log }).unwrap();
        console.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        console
    }
}

fn until(mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(20), "it did not come to that");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn hear(console: &mut ConsoleStream, count: usize) -> String {
    let mut bytes = vec![0; count];
    console.stream.read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn clients_get_what_was_said_and_what_comes_each_from_where_it_asked() {
    let mut guest = Fixture::new();
    guest.say(b"hello world\n");
    let (mut whole, mut part) =
        (guest.attach(Some(0), true, false), guest.attach(Some(6), false, false));
    let mut new = guest.attach(None, true, false);
    assert_eq!([&whole, &part, &new].map(|console| console.offset), [0, 6, 12]);
    guest.say(b"more");
    assert_eq!(hear(&mut whole, 16), "hello world\nmore");
    assert_eq!(hear(&mut part, 10), "world\nmore");
    assert_eq!(hear(&mut new, 4), "more");
    guest.output.finish();
    for mut console in [whole, part, new] {
        assert_eq!(
            console.stream.read(&mut [0]).unwrap(),
            0,
            "the end of the run is that of the stream"
        );
    }
}

#[test]
fn what_clients_type_is_for_the_guest_though_it_reads_late() {
    let guest = Fixture::new();
    let (mut first, mut second) =
        (guest.attach(None, true, false), guest.attach(None, true, false));
    let typed = vec![b'x'; 50_000];
    let typing = std::thread::spawn(move || {
        first.stream.write_all(&typed).unwrap();
        first
    });
    let mut taken = 0;
    until(|| {
        taken += guest.console.input.take().len();
        taken == 50_000
    });
    second.stream.write_all(b"me, too").unwrap();
    until(|| {
        taken += guest.console.input.take().len();
        taken == 50_007
    });
    typing.join().unwrap();
}

#[test]
fn who_does_not_go_over_is_told_how() {
    let guest = Fixture::new();
    let error =
        client::Client::connect(&guest.path).unwrap().get::<String>("/v1/console").unwrap_err();
    assert!(error.to_string().contains("Upgrade: carve-console"), "{error}");
    let mut stream = socket::connect(&guest.path, Duration::from_secs(5)).unwrap();
    let request = "GET /v1/console?from=x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("from"), "{answer}");
}

#[test]
fn nothing_is_lost_of_what_a_keeper_has_not_confirmed() {
    let guest = Fixture::new();
    guest.console.ring.expect_keeper();
    let said: Vec<u8> = (0..1_000_000u32).map(|i| b'a' + (i % 26) as u8).collect();
    let mut output = guest.output.clone();
    let all = said.clone();
    let saying = std::thread::spawn(move || {
        output.write_all(&all).unwrap();
        output.finish()
    });
    let (mut kept, mut buffer) = (Vec::new(), vec![0; 10_000]);
    // Each comes in the place of the one before, which had read more than it kept.
    let mut connections = Vec::new();
    while kept.len() < said.len() {
        let mut console = guest.attach(Some(kept.len() as u64), false, true);
        assert_eq!(console.offset, kept.len() as u64);
        for _ in 0..20 {
            let count = console.stream.read(&mut buffer).unwrap();
            kept.extend_from_slice(&buffer[..count]);
            writeln!(console.stream, "{}", kept.len()).unwrap();
        }
        let _ = console.stream.read(&mut buffer).unwrap();
        connections.push(console);
    }
    assert!(kept == said);
    until(|| guest.output.is_drained());
    saying.join().unwrap();
}

#[test]
fn a_client_that_reads_nothing_holds_nobody_up_and_is_told_what_it_lost() {
    let limits = Limits { request: Duration::from_secs(2), ..Limits::default() };
    let mut guest = Fixture::with(limits);
    let mut deaf = guest.attach(Some(0), true, false);
    for _ in 0..100 {
        guest.output.write_all(&[b'x'; 10_000]).unwrap();
    }
    until(|| guest.output.is_drained());
    let mut other = guest.attach(Some(guest.console.ring.end() - 3), true, false);
    assert_eq!(hear(&mut other, 3), "xxx");
    // Longer than anybody has for a response.
    std::thread::sleep(limits.request * 3 / 2);
    guest.output.finish();
    let mut heard = String::new();
    deaf.stream.read_to_string(&mut heard).unwrap();
    let mut parts = heard.split("\r\n[carve: ");
    let mut total = parts.next().unwrap().len();
    for part in parts {
        let (lost, after) =
            part.split_once(" bytes of console output were lost here]\r\n").unwrap();
        total += lost.parse::<usize>().unwrap() + after.len();
    }
    assert_eq!(total, 1_000_000);
}
