//! The paths of a guest's control interface: one table, by which requests are answered and the OpenAPI
//! document is made.

use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use vmm_sys_util::eventfd::EventFd;

use super::http::{Method, Request, Response};
use super::problem::{Kind, Problem};
use super::server::{Handled, Service};
use super::types::{BalloonUpdate, ConsoleSize, DiskUpdate, NetUpdate, Statistics, VERSION, Vm};
use crate::command::{Answer, Command, Mailbox};

/// The schema of one type.
pub type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// One thing that can be asked for.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// How.
    pub method: Method,
    /// Where; `{name}` stands for one part.
    pub path: &'static str,
    /// Its name in the OpenAPI document.
    pub id: &'static str,
    /// What it does.
    pub summary: &'static str,
    /// What the body of the request is, if it has one.
    pub body: Option<SchemaOf>,
    /// What the body of the response is, if it has one.
    pub answer: Option<SchemaOf>,
    /// What the main loop is asked. The text is what stands for `{name}`.
    command: fn(&Request, String) -> Result<Command, Problem>,
}

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// An answer whose type is described elsewhere.
fn object(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({ "type": "object" })
}

/// Every path of a guest.
pub static ROUTES: &[Route] = &[
    show("/v1/vm", "getVm", "What the guest is and does", schema::<Vm>, |_, _| Ok(Command::Status)),
    show("/v1/config", "getConfig", "The guest's whole configuration", object, |_, _| {
        Ok(Command::Config)
    }),
    show("/v1/stats", "getStatistics", "What the guest has done", schema::<Statistics>, |_, _| {
        Ok(Command::Statistics)
    }),
    verb("/v1/pause", "pause", "Stop vCPUs and devices until resumed", |_, _| Ok(Command::Pause)),
    verb("/v1/resume", "resume", "Go on after a pause", |_, _| Ok(Command::Resume)),
    verb("/v1/power-button", "pressPowerButton", "Press the guest's power button", |_, _| {
        Ok(Command::PowerButton)
    }),
    verb("/v1/reset", "reset", "Reset the guest, as its reset button would", |_, _| {
        Ok(Command::Reset)
    }),
    verb("/v1/end", "end", "End the guest at once, as pulling its plug would", |_, _| {
        Ok(Command::End)
    }),
    change(
        "/v1/disks/{name}",
        "updateDisk",
        "Change a disk",
        schema::<DiskUpdate>,
        |request, name| Ok(Command::Disk(name, request.json()?)),
    ),
    change(
        "/v1/nets/{name}",
        "updateNet",
        "Change a network",
        schema::<NetUpdate>,
        |request, name| Ok(Command::Net(name, request.json()?)),
    ),
    change(
        "/v1/balloon",
        "updateBalloon",
        "Change the balloon",
        schema::<BalloonUpdate>,
        |r, _| Ok(Command::Balloon(r.json()?)),
    ),
    Route {
        method: Method::Put,
        ..change(
            "/v1/console/size",
            "setConsoleSize",
            "Tell the guest the size of its console's window",
            schema::<ConsoleSize>,
            |request, _| {
                let ConsoleSize { columns, rows } = request.json()?;
                Ok(Command::ConsoleSize(columns, rows))
            },
        )
    },
];

type ToCommand = fn(&Request, String) -> Result<Command, Problem>;

const fn show(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    answer: SchemaOf,
    command: ToCommand,
) -> Route {
    Route { method: Method::Get, path, id, summary, body: None, answer: Some(answer), command }
}

const fn verb(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    command: ToCommand,
) -> Route {
    Route { method: Method::Post, path, id, summary, body: None, answer: None, command }
}

const fn change(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    body: SchemaOf,
    command: ToCommand,
) -> Route {
    Route { method: Method::Patch, path, id, summary, body: Some(body), answer: None, command }
}

/// Finds what a request asks for, and what stands for `{name}` in its path.
///
/// # Errors
///
/// [`Kind::NotFound`], [`Kind::Method`], and [`Kind::Malformed`] for a query or body that the route
/// does not take.
pub fn find<'a>(routes: &'a [Route], request: &Request) -> Result<(&'a Route, String), Problem> {
    let there: Vec<_> =
        routes.iter().filter_map(|route| Some((route, name(route.path, &request.path)?))).collect();
    if there.is_empty() {
        return Err(not_found(&request.path));
    }
    let method = if request.method == Method::Head { Method::Get } else { request.method };
    let Some((route, name)) = there.iter().find(|(route, _)| route.method == method) else {
        let mut allow: Vec<_> = there.iter().map(|(route, _)| route.method.name()).collect();
        if allow.contains(&Method::Get.name()) {
            allow.push(Method::Head.name());
        }
        let allow = allow.join(", ");
        let detail = format!("{} takes {allow}", request.path);
        return Err(Problem { allow: Some(allow), ..Problem::new(Kind::Method, detail) });
    };
    if let Some(query) = request.query.as_deref().filter(|query| !query.is_empty()) {
        let detail = format!("{} takes no query, but there is {query:?}", route.path);
        return Err(Problem::new(Kind::Malformed, detail));
    }
    if route.body.is_none() && !request.body.is_empty() {
        let detail = format!("{} {} takes no body", method.name(), route.path);
        return Err(Problem::new(Kind::Malformed, detail));
    }
    Ok((*route, name.clone()))
}

fn not_found(path: &str) -> Problem {
    let detail = match path.split('/').nth(1) {
        Some(VERSION) => format!("there is nothing at {path}; see /{VERSION}/openapi.json"),
        _ => format!("there is nothing at {path}; all paths begin with /{VERSION}/"),
    };
    Problem::new(Kind::NotFound, detail)
}

/// What stands for `{name}` if `path` is one of `pattern`; empty where there is no such part.
fn name(pattern: &str, path: &str) -> Option<String> {
    match pattern.split_once("{name}") {
        None => (pattern == path).then(String::new),
        Some((before, after)) => {
            let name = path.strip_prefix(before)?.strip_suffix(after)?;
            decode(name).filter(|name| !name.is_empty() && !name.contains('/'))
        }
    }
}

/// Undoes percent-encoding (RFC 3986, section 2.1).
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?].map(|digit| (digit as char).to_digit(16));
                u8::try_from(digits[0]? * 16 + digits[1]?).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

/// Answers for one guest: asks its main loop.
#[derive(Debug)]
pub struct Guest {
    mailbox: Mailbox,
}

impl Guest {
    /// The guest whose main loop has the other end of `mailbox`.
    pub fn new(mailbox: Mailbox) -> Self {
        Self { mailbox }
    }
}

impl Service for Guest {
    fn handle(&mut self, request: &Request, wake: &Arc<EventFd>) -> Result<Handled, Problem> {
        let (route, name) = find(ROUTES, request)?;
        let command = (route.command)(request, name)?;
        Ok(Handled::Later(self.mailbox.send(command, Some(Arc::clone(wake)))?))
    }
}

/// An answer of the main loop as a response.
pub fn response(answer: &Answer) -> Response {
    match answer {
        Answer::Done => Response::done(),
        Answer::Status(vm) => Response::json(200, vm),
        Answer::Config(config) => Response::json(200, config),
        Answer::Statistics(statistics) => Response::json(200, statistics),
    }
}

#[cfg(test)]
#[path = "routes_test.rs"]
mod routes_test;
