//! The paths of the host: one table, by which requests are answered and the OpenAPI document is made.

use std::sync::LazyLock;

use schemars::{Schema, SchemaGenerator};

use super::Host;
use super::answers::{
    act, create, events, list, log, of_guest, remove, signal, signals, stop, update,
};
use super::words::{GuestUpdate, NewGuest};
use crate::api::http::{Method, Response};
use crate::api::metrics;
use crate::api::openapi::{self, About};
use crate::api::problem::{Kind, Problem};
use crate::api::route::{Call, Content, Parameter, Route, object, schema, yes_or_no};
use crate::api::server::Handled;
use crate::api::types::Event;
use crate::guests::report::{List, Report, Summary};
use crate::guests::{State, life, sampling};

/// How long a guest has to end by itself, in seconds, unless told otherwise.
pub(super) const STOP: u64 = 10;

/// The longest it can be given: an hour.
pub(super) const LONGEST_STOP: u64 = 3600;

/// The media type of what a guest's console said: bytes of any kind.
pub(super) const BYTES: &str = "application/octet-stream";

pub(super) const ALL: &str = "/v1/guests";
const ONE: &str = "/v1/guests/{name}";

/// Every path of a host.
pub static ROUTES: &[Route<Host>] = &[
    Route {
        query: &[
            text("name", "Only guests with this in their name"),
            Parameter {
                name: "state",
                summary: "Only guests in this state",
                schema: schema::<State>,
            },
            text("label", "Only guests with this label, KEY or KEY=VALUE"),
        ],
        answer: Content::Json(schema::<List<Summary>>),
        ..route(
            Method::Get,
            ALL,
            "listGuests",
            "The guests there are, whether or not they run",
            list,
        )
    },
    Route {
        body: Some(schema::<NewGuest>),
        answer: Content::Created(schema::<Report>),
        ..route(Method::Post, ALL, "createGuest", "Make a guest, and start it if asked to", create)
    },
    Route {
        answer: Content::Json(schema::<Report>),
        ..route(Method::Get, ONE, "getGuest", "Everything about a guest", |host, call| {
            of_guest(host, call, |store, text| {
                let (entry, status) = life::look_at(store, &text)?;
                Ok(Response::json(200, &Report::of(&entry, status)))
            })
        })
    },
    Route {
        body: Some(schema::<GuestUpdate>),
        ..route(
            Method::Patch,
            ONE,
            "updateGuest",
            "Change a guest, at once and for its next starts",
            update,
        )
    },
    Route {
        query: &[
            yes("force", "Whether it is killed if it runs; no unless told otherwise"),
            yes("volumes", "Whether its disks in pools go, too; no unless told otherwise"),
        ],
        ..route(
            Method::Delete,
            ONE,
            "removeGuest",
            "Remove a guest and what Carve keeps about it",
            remove,
        )
    },
    verb(
        "/v1/guests/{name}/start",
        "startGuest",
        "Start a guest; one that runs is left as it is",
        |host, call| act(host, call, |_, entry| life::start(entry)),
    ),
    Route {
        query: STOP_QUERY,
        ..verb(
            "/v1/guests/{name}/stop",
            "stopGuest",
            "Press a guest's power button, and kill it if it has not ended after a while",
            |host, call| stop(host, call, life::stop),
        )
    },
    Route {
        query: STOP_QUERY,
        ..verb(
            "/v1/guests/{name}/restart",
            "restartGuest",
            "Stop a guest and start it again",
            |host, call| {
                stop(host, call, |entry, timeout| {
                    life::stop(entry, timeout)?;
                    life::start(entry)
                })
            },
        )
    },
    Route {
        query: &[Parameter {
            name: "signal",
            summary: "The signal for its process: all but KILL, which it is unless told otherwise, let it end in order",
            schema: signals,
        }],
        ..verb("/v1/guests/{name}/kill", "killGuest", "End a guest at once", |host, call| {
            let signal = signal(call)?;
            act(host, call, move |_, entry| life::kill(entry, signal))
        })
    },
    verb(
        "/v1/guests/{name}/pause",
        "pauseGuest",
        "Stop vCPUs and devices of a guest until resumed",
        |host, call| act(host, call, |_, entry| life::pause(entry, true)),
    ),
    verb("/v1/guests/{name}/resume", "resumeGuest", "Let a paused guest go on", |host, call| {
        act(host, call, |_, entry| life::pause(entry, false))
    }),
    Route {
        query: &[
            yes(
                "follow",
                "Whether what comes follows, up to the guest's end; no unless told otherwise",
            ),
            number("tail", "Only so many lines, the last ones"),
            number("since", "Only what was said then or later, in milliseconds since 1970"),
            number("until", "Only what was said then or before, likewise"),
        ],
        answer: Content::Text(BYTES),
        ..route(
            Method::Get,
            "/v1/guests/{name}/log",
            "getLog",
            "What a guest's console said, in all its runs",
            log,
        )
    },
    Route {
        query: &[
            yes("follow", "Whether those to come follow; yes unless told otherwise"),
            number(
                "since",
                "From when on, in milliseconds since 1970; from now on unless told otherwise",
            ),
        ],
        answer: Content::Lines(schema::<Event>),
        ..route(Method::Get, "/v1/events", "getEvents", "What happens to all guests", events)
    },
    Route {
        answer: Content::Text(metrics::MEDIA_TYPE),
        ..route(
            Method::Get,
            "/v1/metrics",
            "getMetrics",
            "What all guests do, for Prometheus",
            |host, call| {
                Ok(Handled::Later(host.work(call.wake, |store| {
                    let (samples, _) = sampling::samples(store)
                        .map_err(|error| Problem::new(Kind::Failed, error.to_string()))?;
                    let body = metrics::text(&samples).into_bytes();
                    let content_type = Some(metrics::MEDIA_TYPE);
                    Ok(Response { status: 200, content_type, body, ..Response::done() })
                })?))
            },
        )
    },
    Route {
        answer: Content::Json(object),
        ..route(
            Method::Get,
            "/v1/openapi.json",
            "getDescription",
            "This description of the interface",
            |_, _| Ok(Handled::Now(DESCRIPTION.clone())),
        )
    },
];

type Handle = fn(&Host, &Call<'_>) -> Result<Handled, Problem>;

const fn route(
    method: Method,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    handle: Handle,
) -> Route<Host> {
    let answer = Content::Nothing;
    Route { method, path, id, summary, query: &[], body: None, answer, handle }
}

const fn verb(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    handle: Handle,
) -> Route<Host> {
    route(Method::Post, path, id, summary, handle)
}

const STOP_QUERY: &[Parameter] = &[Parameter {
    name: "timeout",
    summary: "Seconds until it is killed, 10 unless told otherwise, an hour at most",
    schema: seconds_to_stop,
}];

fn seconds_to_stop(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({ "type": "integer", "minimum": 0, "maximum": LONGEST_STOP })
}

const fn text(name: &'static str, summary: &'static str) -> Parameter {
    Parameter { name, summary, schema: schema::<String> }
}

const fn number(name: &'static str, summary: &'static str) -> Parameter {
    Parameter { name, summary, schema: schema::<u64> }
}

const fn yes(name: &'static str, summary: &'static str) -> Parameter {
    Parameter { name, summary, schema: yes_or_no }
}

/// The description of the host's control interface, in OpenAPI 3.1.
pub fn description() -> serde_json::Value {
    let about = About {
        title: "All guests of Carve",
        name: "Name or id of a guest, or the beginning of one that no other has",
    };
    openapi::document(&about, ROUTES)
}

/// Made once, when it is first asked for.
static DESCRIPTION: LazyLock<Response> = LazyLock::new(|| Response::json(200, &description()));
