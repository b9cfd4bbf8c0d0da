//! What clients send to the control interface: requests taken apart, their routes, queries and bodies, and
//! the answers to them.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use vmm::api::events::Events;
use vmm::api::http::{self, Bounds, Method, Parsed, Request, Response};
use vmm::api::routes::Guest;
use vmm::api::server::{Handled, Service};
use vmm::api::types::ProblemDocument;
use vmm::command::Mailbox;
use vmm::console::ConsoleHandle;
use vmm::console::remote::RemoteInput;
use vmm::console::ring::Ring;
use vmm_sys_util::eventfd::EventFd;

/// Smaller than the real ones, so that they are met.
const BOUNDS: Bounds = Bounds { head: 1 << 10, body: 1 << 10 };

/// A response is one that clients can take apart, in the length it says.
fn check(request: &Request, response: &Response) {
    let bytes = response.encode(request.method == Method::Head, request.keep_alive);
    let mut fields = [httparse::EMPTY_HEADER; 16];
    let mut head = httparse::Response::new(&mut fields);
    let length = head.parse(&bytes).expect("a response").unwrap();
    if request.method != Method::Head {
        assert_eq!(bytes.len() - length, response.body.len());
    }
    if response.status >= 400 {
        let document: ProblemDocument = serde_json::from_slice(&response.body).expect("a reason");
        assert_eq!(document.status, response.status);
    }
}

fuzz_target!(|data: &[u8]| {
    let (mailbox, inbox) = Mailbox::new().expect("descriptors");
    let input = RemoteInput::new().expect("descriptors");
    let console = ConsoleHandle { ring: Ring::default(), input };
    let mut guest = Guest::new(mailbox, Events::default(), console);
    let wake = Arc::new(EventFd::new(0).expect("descriptors"));
    let mut rest = data;
    while let Ok(parsed) = http::parse(rest, BOUNDS) {
        let (request, length) = match parsed {
            Parsed::Request(request, length) => (request, length),
            Parsed::Partial { needed, .. } => {
                assert!(needed > rest.len());
                assert!(needed <= BOUNDS.head + BOUNDS.body + 1);
                return;
            }
        };
        assert!(length <= rest.len() && request.body.len() <= BOUNDS.body);
        rest = &rest[length..];
        match guest.handle(&request, &wake) {
            Ok(Handled::Now(response)) => check(&request, &response),
            Ok(Handled::Later(_)) => while inbox.take().is_some() {},
            Ok(Handled::Stream(response, mut stream)) => {
                assert!(response.encode_head().ends_with(b"\r\n\r\n"));
                let _ = stream.next(&mut Vec::new());
            }
            Err(problem) => check(&request, &problem.response()),
        }
    }
});
