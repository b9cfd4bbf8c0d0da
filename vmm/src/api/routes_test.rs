//! Which path leads where.

use std::collections::BTreeSet;

use super::super::problem::Kind;
use super::*;

fn request(method: Method, path: &str) -> Request {
    Request {
        method,
        path: path.to_owned(),
        query: None,
        content_type: None,
        upgrade: None,
        keep_alive: true,
        body: Vec::new(),
    }
}

fn console() -> ConsoleHandle {
    ConsoleHandle {
        ring: crate::console::ring::Ring::default(),
        input: crate::console::remote::RemoteInput::new().unwrap(),
    }
}

fn found(method: Method, path: &str) -> Result<(&'static str, String), Problem> {
    route::find(ROUTES, &request(method, path)).map(|(route, name)| (route.id, name))
}

#[test]
fn paths_lead_to_their_routes_by_method() {
    assert_eq!(found(Method::Get, "/v1/vm").unwrap().0, "getVm");
    assert_eq!(found(Method::Head, "/v1/vm").unwrap().0, "getVm");
    assert_eq!(found(Method::Post, "/v1/end").unwrap().0, "end");
    assert_eq!(found(Method::Put, "/v1/console/size").unwrap().0, "setConsoleSize");
    let name = |path| found(Method::Patch, path).unwrap().1;
    assert_eq!(name("/v1/disks/root"), "root");
    assert_eq!(name("/v1/disks/a%20b%C3%A9"), "a bé");
}

#[test]
fn other_paths_and_methods_are_refused_with_what_there_is() {
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v1/vm/",
        "/v2/vm",
        "/v1/disks/",
        "/v1/disks/a/b",
        "/v1/disks/a%2Fb",
        "/v1/disks/%",
        "/v1/disks/%ff",
        "/v1/disks/%+1",
    ] {
        assert_eq!(found(Method::Get, path).unwrap_err().kind, Kind::NotFound, "{path}");
    }
    assert!(found(Method::Get, "/v2/vm").unwrap_err().detail.contains("/v1/"));
    let wrong = found(Method::Delete, "/v1/vm").unwrap_err();
    assert_eq!((wrong.kind, wrong.allow.as_deref()), (Kind::Method, Some("GET, HEAD")));
    let wrong = found(Method::Get, "/v1/pause").unwrap_err();
    assert_eq!((wrong.kind, wrong.allow.as_deref()), (Kind::Method, Some("POST")));
}

#[test]
fn queries_and_bodies_that_mean_nothing_are_refused() {
    let (mailbox, _inbox) = Mailbox::new().unwrap();
    let wake = Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
    let mut guest = Guest::new(mailbox, Events::default(), console());
    let mut refused = |path: &str, query: &str, word: &str| {
        let request = Request { query: Some(query.into()), ..request(Method::Get, path) };
        let problem = guest.handle(&request, &wake).unwrap_err();
        assert_eq!(problem.kind, Kind::Malformed);
        assert!(problem.detail.contains(word), "{problem:?}");
    };
    refused("/v1/vm", "x=1", "no query");
    refused("/v1/events", "x=1", "takes follow");
    refused("/v1/events", "follow=perhaps", "yes or no");
    refused("/v1/events", "follow=no&follow=no", "twice");
    refused("/v1/events", "follow=%f", "encoded");
    let with_body = Request { body: b"{}".to_vec(), ..request(Method::Post, "/v1/pause") };
    assert_eq!(guest.handle(&with_body, &wake).unwrap_err().kind, Kind::Malformed);
}

#[test]
fn every_route_is_there_once() {
    let ids: BTreeSet<_> = ROUTES.iter().map(|route| route.id).collect();
    let places: BTreeSet<_> =
        ROUTES.iter().map(|route| (route.method.name(), route.path)).collect();
    assert_eq!((ids.len(), places.len()), (ROUTES.len(), ROUTES.len()));
    assert!(ROUTES.iter().all(|route| route.path.starts_with("/v1/")));
}

#[test]
fn changes_reach_the_main_loop_as_they_were_sent() {
    let (mailbox, inbox) = Mailbox::new().unwrap();
    let wake = Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
    let mut guest = Guest::new(mailbox, Events::default(), console());
    let mut change = |method, path: &str, body: &str| {
        let request = Request { body: body.into(), ..request(method, path) };
        guest.handle(&request, &wake).map(|_| inbox.take().unwrap().command)
    };
    let command = change(Method::Patch, "/v1/disks/root", r#"{"size":7}"#).unwrap();
    assert_eq!(command, Command::Disk("root".into(), DiskUpdate { size: Some(7), limits: None }));
    let command = change(Method::Patch, "/v1/nets/lan", r#"{"link_up":false}"#).unwrap();
    let update = NetUpdate { link_up: Some(false), ..NetUpdate::default() };
    assert_eq!(command, Command::Net("lan".into(), update));
    let command = change(Method::Put, "/v1/console/size", r#"{"columns":80,"rows":24}"#).unwrap();
    assert_eq!(command, Command::ConsoleSize(80, 24));
    let nested = change(Method::Patch, "/v1/disks/root", r#"{"limits":{"iops":1}}"#).unwrap_err();
    assert!(nested.kind == Kind::Malformed && nested.detail.contains("`iops`"), "{nested:?}");
}
