//! What is a request and what is not.

use proptest::prelude::*;

use super::super::types::BalloonUpdate;
use super::*;

const BOUNDS: Bounds = Bounds { head: 1024, body: 64 };

fn kind(text: &str) -> Kind {
    parse(text.as_bytes(), BOUNDS).unwrap_err().kind
}

fn request(text: &str) -> Request {
    match parse(text.as_bytes(), BOUNDS).unwrap() {
        Parsed::Request(request, length) if length == text.len() => *request,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_is_taken_with_its_body_and_no_more() {
    let text = "POST /a?b=c HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhiGET /";
    let Parsed::Request(request, length) = parse(text.as_bytes(), BOUNDS).unwrap() else {
        panic!("it is whole")
    };
    assert_eq!(&text[length..], "GET /");
    assert_eq!((request.method, request.path.as_str()), (Method::Post, "/a"));
    assert_eq!((request.query.as_deref(), &request.body[..]), (Some("b=c"), &b"hi"[..]));
    assert!(request.keep_alive);
}

#[test]
fn every_beginning_of_a_request_asks_for_more() {
    let text = "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";
    for length in 0..text.len() {
        match parse(&text.as_bytes()[..length], BOUNDS).unwrap() {
            Parsed::Partial { needed, .. } => assert!(needed > length && needed <= text.len()),
            Parsed::Request(..) => panic!("{length} bytes are not the whole"),
        }
    }
}

#[test]
fn heads_and_bodies_have_bounds() {
    let long = format!("GET / HTTP/1.1\r\nHost: {}", "x".repeat(1024));
    assert_eq!(kind(&long), Kind::HeadTooLong);
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A:b\r\n".repeat(MAX_FIELDS + 1));
    assert_eq!(kind(&many), Kind::HeadTooLong);
    let with =
        |length: &str| format!("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
    assert!(matches!(parse(with("64").as_bytes(), BOUNDS), Ok(Parsed::Partial { .. })));
    assert_eq!(kind(&with("65")), Kind::BodyTooLong);
    assert_eq!(kind(&with(&u64::MAX.to_string())), Kind::BodyTooLong);
    for not_a_length in ["+1", "-1", "1,1", "0x1", "", "18446744073709551616"] {
        assert_eq!(kind(&with(not_a_length)), Kind::Malformed, "{not_a_length}");
    }
}

#[test]
fn what_could_be_taken_apart_in_two_ways_is_refused() {
    let with = |fields| format!("PUT / HTTP/1.1\r\n{fields}\r\n");
    assert_eq!(kind(&with("Host: x\r\nTransfer-Encoding: chunked\r\n")), Kind::LengthRequired);
    assert_eq!(
        kind(&with("Host: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n")),
        Kind::Malformed
    );
    assert_eq!(kind(&with("")), Kind::Malformed);
    assert_eq!(kind(&with("Host: x\r\nHost: x\r\n")), Kind::Malformed);
    assert_eq!(kind(&with("Host: x\r\nExpect: wonders\r\n")), Kind::Expectation);
    assert_eq!(kind("GET / HTTP/2.0\r\n"), Kind::Version);
    assert_eq!(kind("\x16\x03\x01"), Kind::Malformed);
    assert_eq!(kind("GET x HTTP/1.1\r\nHost: x\r\n\r\n"), Kind::Malformed);
}

#[test]
fn targets_may_name_the_host() {
    let path = |target| request(&format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n")).path;
    assert_eq!(path("http://carve/v1/vm"), "/v1/vm");
    assert_eq!(path("http://carve"), "/");
    assert_eq!(path("/v1/vm?"), "/v1/vm");
}

#[test]
fn connections_close_and_change_as_was_asked() {
    let with =
        |version, fields| request(&format!("GET / HTTP/{version}\r\nHost: x\r\n{fields}\r\n"));
    assert!(!with("1.1", "Connection: close\r\n").keep_alive);
    assert!(!with("1.0", "").keep_alive);
    let upgrade = "Connection: keep-alive, Upgrade\r\nUpgrade: carve-console\r\n";
    assert_eq!(with("1.1", upgrade).upgrade.as_deref(), Some("carve-console"));
    assert_eq!(with("1.0", upgrade).upgrade, None);
    assert_eq!(with("1.1", "Upgrade: carve-console\r\n").upgrade, None);
}

#[test]
fn a_client_that_waits_for_leave_to_send_is_heard() {
    let text = "PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    let expects = |text: &str| match parse(text.as_bytes(), BOUNDS).unwrap() {
        Parsed::Partial { expects_continue, .. } => expects_continue,
        Parsed::Request(..) => panic!("the body is missing"),
    };
    assert!(expects(text));
    assert!(!expects(&format!("{text}x")), "it sends already");
}

#[test]
fn bodies_are_json_of_the_right_type() {
    let of = |media: &str, body: &str| {
        let length = body.len();
        request(&format!(
            "PATCH / HTTP/1.1\r\nHost: x\r\n{media}Content-Length: {length}\r\n\r\n{body}"
        ))
        .json::<BalloonUpdate>()
    };
    assert_eq!(of("", r#"{"target":1}"#).unwrap().target, 1);
    let media = "Content-Type: application/json; charset=utf-8\r\n";
    assert_eq!(of(media, r#"{"target":1}"#).unwrap().target, 1);
    let form = of("Content-Type: application/x-www-form-urlencoded\r\n", r#"{"target":1}"#);
    assert_eq!(form.unwrap_err().kind, Kind::MediaType);
    let unknown = of("", r#"{"target":1,"aim":2}"#).unwrap_err();
    assert_eq!(unknown.kind, Kind::Malformed);
    assert!(unknown.detail.contains("`aim`"), "{}", unknown.detail);
    for bad in ["", "{", "[]", r#"{"target":-1}"#, r#"{"target":1,"target":2}"#, "{} {}"] {
        assert_eq!(of("", bad).unwrap_err().kind, Kind::Malformed, "{bad}");
    }
}

#[test]
fn a_response_to_head_says_how_long_the_body_would_be() {
    let response = Response::json(200, &[1, 2]);
    let whole = String::from_utf8(response.encode(false, true)).unwrap();
    let head = String::from_utf8(response.encode(true, true)).unwrap();
    assert_eq!(whole, format!("{head}[1,2]\n"));
    assert!(head.contains("Content-Length: 6\r\n"));
    let done = String::from_utf8(Response::done().encode(false, false)).unwrap();
    assert_eq!(done, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
}

proptest! {
    #[test]
    fn any_bytes_are_a_request_its_beginning_or_refused(bytes: Vec<u8>) {
        if let Ok(Parsed::Request(request, length)) = parse(&bytes, BOUNDS) {
            prop_assert!(length <= bytes.len() && request.body.len() <= BOUNDS.body);
        }
    }

    #[test]
    fn how_the_bytes_come_makes_no_difference(
        body in "[a-z]{0,20}", extra in "[a-z]{0,9}", cut in 0_usize..200,
    ) {
        let length = body.len();
        let text = format!("PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}{extra}");
        let whole = parse(text.as_bytes(), BOUNDS).unwrap();
        let cut = cut.min(text.len());
        match parse(&text.as_bytes()[..cut], BOUNDS).unwrap() {
            Parsed::Partial { needed, .. } => prop_assert!(needed > cut),
            part => prop_assert_eq!(part, whole),
        }
    }
}
