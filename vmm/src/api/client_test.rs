//! The client, against the real server and against ones that misbehave.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::thread;

use tempfile::TempDir;

use super::super::http::{Request, Response as Answer};
use super::super::problem::{Kind, Problem};
use super::super::server::{Handled, Limits, Server, Service};
use super::super::types::BalloonUpdate;
use super::*;

/// Says what it was asked, in JSON.
struct Echo;

impl Service for Echo {
    fn handle(
        &mut self,
        request: &Request,
        _: &std::sync::Arc<vmm_sys_util::eventfd::EventFd>,
    ) -> Result<Handled, Problem> {
        if request.path == "/no" {
            return Err(Problem::new(Kind::State, "not now"));
        }
        let body = String::from_utf8_lossy(&request.body).into_owned();
        Ok(Handled::Now(Answer::json(200, &(request.method.name(), &request.path, body))))
    }
}

fn serve(limits: Limits) -> (Server, PathBuf, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    (Server::start(socket::bind(&path).unwrap(), Echo, limits).unwrap(), path, dir)
}

/// A server that says `text` to whatever it is asked, and closes.
fn misbehaving(text: &'static [u8]) -> (Client, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(text);
    });
    (Client::connect(&path).unwrap(), dir)
}

#[test]
fn what_is_asked_arrives_and_so_does_the_answer() {
    let (_server, path, _dir) = serve(Limits::default());
    let mut client = Client::connect(&path).unwrap();
    let told: (String, String, String) = client.get("/v1/vm").unwrap();
    assert_eq!(told, ("GET".into(), "/v1/vm".into(), String::new()));
    client.post("/v1/pause").unwrap();
    client.patch("/v1/balloon", &BalloonUpdate { target: 1 }).unwrap();
    let error = client.post("/no").unwrap_err();
    assert!(matches!(&error, Error::Refused(problem) if problem.status == 409));
    assert_eq!(error.to_string(), "not now");
}

#[test]
fn a_connection_that_was_closed_meanwhile_is_made_again() {
    let limits = Limits { idle: Duration::from_millis(1), ..Limits::default() };
    let (_server, path, _dir) = serve(limits);
    let mut client = Client::connect(&path).unwrap();
    for _ in 0..3 {
        client.post("/v1/pause").unwrap();
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_guest_that_has_ended_is_told_from_one_that_fails() {
    let (server, path, _dir) = serve(Limits::default());
    drop(server);
    let error = Client::connect(&path).unwrap_err();
    assert!(error.is_gone() && error.to_string().contains("api.sock"), "{error}");
    assert!(Client::connect(Path::new("/nonexistent/api.sock")).unwrap_err().is_gone());
}

#[test]
fn answers_that_are_none_are_errors() {
    for text in [
        &b"SSH-2.0-x\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{",
        b"HTTP/1.1 500 \r\nContent-Length: 0\r\n\r\n",
    ] {
        let (mut client, _dir) = misbehaving(text);
        let error = client.get::<serde_json::Value>("/").unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
    }
    let (mut client, _dir) = misbehaving(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n");
    assert!(matches!(client.post("/").unwrap_err(), Error::Broken { .. }));
}

#[test]
fn what_follows_the_change_to_the_console_is_left_in_the_stream() {
    let (client, _dir) =
        misbehaving(b"HTTP/1.1 101 Switching Protocols\r\nCarve-Console-Offset: 7\r\n\r\nlogin: ");
    let mut console = client.console(ConsoleOptions::default()).unwrap();
    let mut heard = String::new();
    assert_eq!(console.offset, 7);
    console.stream.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "login: ");
}

#[test]
fn a_server_that_says_nothing_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let mut client = Client::connect_within(&path, Duration::from_millis(20)).unwrap();
    let error = client.post("/v1/pause").unwrap_err();
    assert!(matches!(&error, Error::Broken { source, .. } if source.kind() == ErrorKind::TimedOut));
}
