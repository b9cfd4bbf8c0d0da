//! The host's interface from a client's side, as far as no guest has to run.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::api::server::Server;
use crate::api::socket;
use crate::guests::Folders;

struct Fixture {
    folder: TempDir,
    server: Server,
}

impl Fixture {
    fn new() -> Self {
        Self::with(limits(None))
    }

    fn with(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name| folder.path().join(name);
        let folders =
            Folders { state: path("state"), runtime: path("run"), tenants: path("tenants") };
        let listener = socket::bind(&path("host.sock")).unwrap();
        let host = Host::new(Store::new(folders));
        let server = Server::start(listener, host, limits).unwrap();
        fs::write(path("kernel"), "").unwrap();
        Self { folder, server }
    }

    fn connect(&self) -> UnixStream {
        let path = self.folder.path().join("host.sock");
        let stream = socket::connect(&path, Duration::from_secs(20)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let (head, body) = self.say(method, path, body);
        (head[9..12].parse().unwrap(), serde_json::from_str(&body).unwrap_or(Value::Null))
    }

    fn say(&self, method: &str, path: &str, body: Value) -> (String, String) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut stream = self.connect();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        let (head, body) = heard.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    fn create(&self, name: &str) -> Value {
        let folder = self.folder.path();
        let config = json!({ "name": name, "kernel": "kernel", "memory": "16MiB" });
        let body = json!({ "config": config, "folder": folder, "labels": { "team": name } });
        let (status, report) = self.ask("POST", "/v1/guests", body);
        assert_eq!(status, 201, "{report}");
        report
    }

    fn names(&self, query: &str) -> Vec<String> {
        let (status, list) = self.ask("GET", &format!("/v1/guests{query}"), Value::Null);
        assert_eq!((status, &list["version"]), (200, &json!(1)), "{list}");
        let guests = list["guests"].as_array().unwrap().iter();
        guests.map(|guest| guest["name"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn a_guest_is_made_found_changed_and_removed() {
    let host = Fixture::new();
    let made = host.create("web");
    host.create("db");
    let kernel = host.folder.path().join("kernel");
    assert_eq!(made["config"]["kernel"], json!(kernel), "relative to the folder");
    assert_eq!(host.names(""), ["web", "db"]);
    assert_eq!(host.names("?label=team=web"), ["web"]);
    assert_eq!(host.names("?state=running"), [""; 0]);
    let id = made["id"].as_str().unwrap();
    let (status, found) = host.ask("GET", &format!("/v1/guests/{}", &id[..6]), Value::Null);
    assert_eq!((status, found), (200, made.clone()));
    let change = json!({ "name": "front", "restart": "always", "labels": { "tier": "1" } });
    assert_eq!(host.ask("PATCH", "/v1/guests/web", change).0, 204);
    let (_, found) = host.ask("GET", "/v1/guests/front", Value::Null);
    assert_eq!((&found["restart"], &found["labels"]["tier"]), (&json!("always"), &json!("1")));
    assert_eq!(host.ask("DELETE", "/v1/guests/front", Value::Null).0, 204);
    assert_eq!(host.names(""), ["db"]);
}

#[test]
fn where_a_new_guest_is_stands_in_the_answer() {
    let host = Fixture::new();
    let folder = host.folder.path();
    let body = json!({ "config": { "kernel": folder.join("kernel") } });
    let (head, report) = host.say("POST", "/v1/guests", body);
    let report: Value = serde_json::from_str(&report).unwrap();
    let place = format!("\r\nLocation: /v1/guests/{}", report["id"].as_str().unwrap());
    assert!(head.contains(&place), "{head}");
}

#[test]
fn refusals_name_their_kind_and_what_is_wrong() {
    let host = Fixture::new();
    host.create("web");
    host.create("west");
    let kernel = host.folder.path().join("kernel");
    let case = |method, path: &str, body, status: u16, kind: &str, word: &str| {
        let (got, problem) = host.ask(method, path, body);
        assert_eq!((got, &problem["status"]), (status, &json!(status)), "{problem}");
        assert_eq!(problem["type"], format!("urn:carve:problem:{kind}"), "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(word), "{problem}");
    };
    let none = Value::Null;
    case("GET", "/v1/guests/nobody", none.clone(), 404, "not-found", "nobody");
    case("POST", "/v1/guests/we/start", none.clone(), 409, "ambiguous", "we");
    case("POST", "/v1/guests/web/pause", none.clone(), 409, "state", "created");
    case("POST", "/v1/guests/web/stop?timeout=3601", none.clone(), 400, "malformed", "3601");
    case("POST", "/v1/guests/web/kill?signal=STOP", none.clone(), 400, "malformed", "STOP");
    case("GET", "/v1/guests?state=asleep", none.clone(), 400, "malformed", "asleep");
    case("PATCH", "/v1/guests/web", json!({ "name": "west" }), 409, "name-taken", "west");
    case("PATCH", "/v1/guests/web", json!({ "colour": 1 }), 400, "malformed", "colour");
    case("PATCH", "/v1/guests/web", json!({ "labels": { "": "" } }), 422, "invalid", "label");
    case("PATCH", "/v1/guests/web", json!({ "disks": { "x": {} } }), 404, "not-found", "`x`");
    let create = |body, status, kind: &str, word: &str| {
        case("POST", "/v1/guests", body, status, kind, word);
    };
    create(json!({ "config": { "kernel": "/no/such" } }), 422, "invalid", "/no/such");
    create(json!({ "config": { "kernel": kernel, "vcpus": 0 } }), 422, "invalid", "vcpus");
    create(json!({ "config": {}, "folder": "here" }), 422, "invalid", "here");
    create(json!({ "config": { "kernel": kernel, "name": "web" } }), 409, "name-taken", "web");
    let both = json!({ "config": { "kernel": kernel }, "remove": true, "restart": "always" });
    create(both, 422, "invalid", "restart");
    assert_eq!(host.names(""), ["web", "west"], "what was refused has made nothing");
}

#[test]
fn events_of_all_guests_are_streamed_as_they_happen() {
    let host = Fixture::new();
    host.create("before");
    let (_, told) = host.say("GET", "/v1/events?since=0&follow=no", Value::Null);
    let event: Value = serde_json::from_str(told.trim()).unwrap();
    assert_eq!((&event["event"], &event["name"]), (&json!("created"), &json!("before")));

    // From now on, to a millisecond.
    std::thread::sleep(std::time::Duration::from_millis(2));
    let mut stream = host.connect();
    stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut heard = String::new();
    let mut buffer = [0; 4096];
    let mut hear_until = |text: &str| {
        while !heard.contains(text) {
            let count = stream.read(&mut buffer).unwrap();
            assert_ne!(count, 0, "{heard:?}");
            heard.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        heard.clone()
    };
    hear_until("\r\n\r\n");
    host.create("after");
    let heard = hear_until("}\n");
    assert!(heard.contains("after") && !heard.contains("before"), "{heard}");
}

#[test]
fn a_log_is_given_as_far_as_it_was_asked_for() {
    let host = Fixture::new();
    let report = host.create("web");
    let folder = report["state_folder"].as_str().unwrap();
    fs::write(std::path::Path::new(folder).join("console.log"), "one\ntwo\nthree\n").unwrap();
    let log = |query| host.say("GET", &format!("/v1/guests/web/log{query}"), Value::Null).1;
    assert_eq!(log(""), "one\ntwo\nthree\n");
    assert_eq!(log("?tail=2"), "two\nthree\n");
    assert_eq!(log("?tail=1&follow=yes"), "three\n", "a guest that does not run says no more");
}

#[test]
fn a_server_without_clients_ends_when_it_was_told_to() {
    let host = Fixture::with(limits(Some(Duration::from_millis(200))));
    let idle = host.connect();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(host.names(""), [""; 0], "as long as there is a client, it goes on");
    drop(idle);
    let mut over =
        [rustix::event::PollFd::from_borrowed_fd(host.server.over(), rustix::event::PollFlags::IN)];
    let patience = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut over, Some(&patience)), Ok(1));
}
