//! The paths of a guest's control interface: one table, by which requests are answered and the OpenAPI
//! document is made.

use std::sync::{Arc, LazyLock};

use resources::config::VmConfig;
use vmm_sys_util::eventfd::EventFd;

use super::console;
use super::events::Events;
use super::http::{Method, Request, Response};
use super::metrics::{self, Sample};
use super::openapi::{self, About};
use super::problem::Problem;
use super::route::{self, Call, Content, Parameter, Route, SchemaOf, object, schema, yes_or_no};
use super::server::{Awaited, Handled, Service};
use super::types::{
    BalloonUpdate, CONSOLE_PROTOCOL, ConsoleSize, DiskUpdate, Event, NetUpdate, Statistics, Vm,
};
use crate::command::{Answer, Command, Mailbox, Reply};
use crate::console::ConsoleHandle;

/// The media type of lines of JSON.
pub(super) const LINES: &str = "application/x-ndjson";

/// Every path of a guest.
pub static ROUTES: &[Route<Guest>] = &[
    show("/v1/vm", "getVm", "What the guest is and does", schema::<Vm>, |guest, call| {
        guest.ask(Command::Status, call)
    }),
    show(
        "/v1/config",
        "getConfig",
        "The guest's whole configuration, with what was changed since it was started",
        schema::<VmConfig>,
        |guest, call| guest.ask(Command::Config, call),
    ),
    show(
        "/v1/stats",
        "getStatistics",
        "What the guest has done",
        schema::<Statistics>,
        |guest, call| guest.ask(Command::Statistics, call),
    ),
    Route {
        answer: Content::Text(metrics::MEDIA_TYPE),
        ..show("/v1/metrics", "getMetrics", "The same for Prometheus", object, Guest::metrics)
    },
    Route {
        query: &[Parameter {
            name: "follow",
            summary: "Whether those to come follow, up to the end of the guest; yes unless told otherwise",
            schema: yes_or_no,
        }],
        answer: Content::Lines(schema::<Event>),
        ..show(
            "/v1/events",
            "getEvents",
            "The last events of this run, and those to come",
            schema::<Event>,
            Guest::events,
        )
    },
    show(
        "/v1/openapi.json",
        "getDescription",
        "This description of the interface",
        object,
        |_, _| Ok(Handled::Now(DESCRIPTION.clone())),
    ),
    verb("/v1/pause", "pause", "Stop vCPUs and devices until resumed", |guest, call| {
        guest.ask(Command::Pause, call)
    }),
    verb("/v1/resume", "resume", "Go on after a pause", |guest, call| {
        guest.ask(Command::Resume, call)
    }),
    verb(
        "/v1/power-button",
        "pressPowerButton",
        "Press the guest's power button",
        |guest, call| guest.ask(Command::PowerButton, call),
    ),
    verb("/v1/reset", "reset", "Reset the guest, as its reset button would", |guest, call| {
        guest.ask(Command::Reset, call)
    }),
    verb("/v1/end", "end", "End the guest at once, as pulling its plug would", |guest, call| {
        guest.ask(Command::End, call)
    }),
    change(
        "/v1/disks/{name}",
        "updateDisk",
        "Change a disk",
        schema::<DiskUpdate>,
        |guest, call| guest.ask(Command::Disk(call.name.clone(), call.request.json()?), call),
    ),
    change(
        "/v1/nets/{name}",
        "updateNet",
        "Change a network",
        schema::<NetUpdate>,
        |guest, call| guest.ask(Command::Net(call.name.clone(), call.request.json()?), call),
    ),
    change(
        "/v1/balloon",
        "updateBalloon",
        "Change the balloon",
        schema::<BalloonUpdate>,
        |guest, call| guest.ask(Command::Balloon(call.request.json()?), call),
    ),
    Route {
        query: &[
            Parameter {
                name: "from",
                summary: "Offset of the first byte of the run's output to get; what comes from now on unless told \
                    otherwise. The header Carve-Console-Offset of the answer says which one is first",
                schema: schema::<u64>,
            },
            Parameter {
                name: "input",
                summary: "Whether what the client sends is for the guest; yes unless told otherwise",
                schema: yes_or_no,
            },
            Parameter {
                name: "log",
                summary: "Whether the client keeps the output: the guest slows down rather than lose what is not \
                    kept. Of it the client sends lines with the offset, in decimal, up to which it has. A second \
                    such client takes the place of the first; no unless told otherwise",
                schema: yes_or_no,
            },
        ],
        answer: Content::Protocol(CONSOLE_PROTOCOL),
        ..show("/v1/console", "attachConsole", "The guest's console", object, |guest, call| {
            console::attach(&guest.console, call)
        })
    },
    Route {
        method: Method::Put,
        ..change(
            "/v1/console/size",
            "setConsoleSize",
            "Tell the guest the size of its console's window",
            schema::<ConsoleSize>,
            |guest, call| {
                let ConsoleSize { columns, rows } = call.request.json()?;
                guest.ask(Command::ConsoleSize(columns, rows), call)
            },
        )
    },
];

type Handle = fn(&Guest, &Call<'_>) -> Result<Handled, Problem>;

const fn show(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    answer: SchemaOf,
    handle: Handle,
) -> Route<Guest> {
    let answer = Content::Json(answer);
    Route { method: Method::Get, path, id, summary, query: &[], body: None, answer, handle }
}

const fn verb(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    handle: Handle,
) -> Route<Guest> {
    let answer = Content::Nothing;
    Route { method: Method::Post, path, id, summary, query: &[], body: None, answer, handle }
}

const fn change(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    body: SchemaOf,
    handle: Handle,
) -> Route<Guest> {
    Route { method: Method::Patch, body: Some(body), ..verb(path, id, summary, handle) }
}

/// The description of a guest's control interface, in OpenAPI 3.1.
pub fn description() -> serde_json::Value {
    let about = About { title: "A guest of Carve", name: "Its name in the configuration" };
    openapi::document(&about, ROUTES)
}

/// Made once, when it is first asked for.
static DESCRIPTION: LazyLock<Response> = LazyLock::new(|| Response::json(200, &description()));

/// Answers for one guest: asks its main loop.
#[derive(Debug)]
pub struct Guest {
    mailbox: Mailbox,
    events: Events,
    console: ConsoleHandle,
}

impl Guest {
    /// The guest whose main loop has the other end of `mailbox` and publishes `events`, and its console.
    pub fn new(mailbox: Mailbox, events: Events, console: ConsoleHandle) -> Self {
        Self { mailbox, events, console }
    }

    fn ask(&self, command: Command, call: &Call<'_>) -> Result<Handled, Problem> {
        let pending = self.mailbox.send(command, Some(Arc::clone(call.wake)))?;
        let respond = |replies: Vec<Reply>| match replies.into_iter().next() {
            Some(Ok(answer)) => response(&answer),
            Some(Err(refusal)) => Problem::from(refusal).response(),
            None => Response::done(),
        };
        Ok(Handled::Later(Awaited::replies(vec![pending], respond)))
    }

    fn metrics(&self, call: &Call<'_>) -> Result<Handled, Problem> {
        let send = |command| self.mailbox.send(command, Some(Arc::clone(call.wake)));
        let pending = vec![send(Command::Status)?, send(Command::Statistics)?];
        Ok(Handled::Later(Awaited::replies(pending, metrics_response)))
    }

    fn events(&self, call: &Call<'_>) -> Result<Handled, Problem> {
        let stream = self.events.stream(call.flag("follow", true)?, call.wake);
        let response = Response { status: 200, content_type: Some(LINES), ..Response::done() };
        Ok(Handled::Stream(response, Box::new(stream)))
    }
}

impl Service for Guest {
    fn handle(&mut self, request: &Request, wake: &Arc<EventFd>) -> Result<Handled, Problem> {
        route::handle(ROUTES, self, request, wake)
    }
}

/// Status and statistics as text. Without the latter there is less to tell.
fn metrics_response(replies: Vec<Reply>) -> Response {
    let (mut vm, mut statistics) = (None, None);
    for reply in replies {
        match reply {
            Ok(Answer::Status(answer)) => vm = Some(*answer),
            Ok(Answer::Statistics(answer)) => statistics = Some(*answer),
            Err(refusal) if vm.is_none() => return Problem::from(refusal).response(),
            _ => {}
        }
    }
    let sample = vm.map(|vm| Sample {
        id: vm.id.clone(),
        name: vm.name.clone(),
        state: vm.state.as_str().to_owned(),
        up: Some(true),
        vm: Some(vm),
        statistics,
    });
    let body = metrics::text(sample.as_slice()).into_bytes();
    Response { status: 200, content_type: Some(metrics::MEDIA_TYPE), body, ..Response::done() }
}

/// An answer of the main loop as a response.
fn response(answer: &Answer) -> Response {
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
