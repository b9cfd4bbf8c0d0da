//! The paths of the host: one table, by which requests are answered and the OpenAPI document is made.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use schemars::{Schema, SchemaGenerator};

use super::Host;
use super::follow::{Events, Log};
use super::words::{GuestUpdate, NewGuest};
use crate::api::http::{Method, Response};
use crate::api::metrics;
use crate::api::openapi::{self, About};
use crate::api::problem::{Kind, Problem};
use crate::api::route::{Call, Content, Parameter, Route, object, schema, yes_or_no};
use crate::api::routes::LINES;
use crate::api::server::Handled;
use crate::api::types::Event;
use crate::clock::now;
use crate::guests::log::{Query, Reader};
use crate::guests::report::{List, Report, Summary};
use crate::guests::{Entry, Filters, State, Store, life, sampling};
use crate::ledger;

/// How long a guest has to end by itself, in seconds, unless told otherwise.
const STOP: u64 = 10;

/// The longest it can be given: an hour.
const LONGEST_STOP: u64 = 3600;

/// The media type of what a guest's console said: bytes of any kind.
const BYTES: &str = "application/octet-stream";

const ALL: &str = "/v1/guests";
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

/// Has something done with what the guest of the path is called.
fn of_guest(
    host: &Host,
    call: &Call<'_>,
    job: impl FnOnce(&Store, String) -> Result<Response, Problem> + Send + 'static,
) -> Result<Handled, Problem> {
    let name = call.name.clone();
    Ok(Handled::Later(host.work(call.wake, move |store| job(store, name))?))
}

/// Has something done to the guest of the path.
fn act<E: Into<Problem>>(
    host: &Host,
    call: &Call<'_>,
    act: impl FnOnce(&Store, &mut Entry) -> Result<(), E> + Send + 'static,
) -> Result<Handled, Problem> {
    of_guest(host, call, |store, name| {
        act(store, &mut store.find(&name)?).map_err(Into::into)?;
        Ok(Response::done())
    })
}

fn list(host: &Host, call: &Call<'_>) -> Result<Handled, Problem> {
    let filter = |key: &str| call.parameter(key).map(|value| format!("{key}={value}"));
    let filters: Vec<_> = ["name", "state", "label"].into_iter().filter_map(filter).collect();
    let filters = Filters::parse(&filters)
        .map_err(|error| Problem::new(Kind::Malformed, error.to_string()))?;
    Ok(Handled::Later(host.work(call.wake, move |store| {
        let mut guests = Vec::new();
        for found in life::look_at_all(store)? {
            match found {
                Ok((entry, status)) if filters.take(&entry.guest, status.state) => {
                    guests.push(Summary::of(&entry, &status));
                }
                Ok(_) => {}
                Err(error) => tracing::warn!("{}", crate::explain(&error)),
            }
        }
        Ok(Response::json(200, &List::new(guests)))
    })?))
}

fn create(host: &Host, call: &Call<'_>) -> Result<Handled, Problem> {
    let new: NewGuest = call.request.json()?;
    Ok(Handled::Later(host.work(call.wake, move |store| {
        let start = new.start;
        let mut entry = store.create(new.checked()?)?;
        if start && let Err(error) = life::start(&mut entry) {
            // As with `carve run -d` it stays, to be looked at.
            let id = &entry.guest.id;
            let kept = format!(
                "the guest was made all the same, with the id {id}: start it again, or remove it"
            );
            let problem = Problem::from(error);
            return Err(Problem { detail: format!("{}; {kept}", problem.detail), ..problem });
        }
        let status = entry.status()?;
        let mut response = Response::json(201, &Report::of(&entry, status));
        response.headers.push(("Location", format!("{ALL}/{}", entry.guest.id)));
        Ok(response)
    })?))
}

fn update(host: &Host, call: &Call<'_>) -> Result<Handled, Problem> {
    let asked: GuestUpdate = call.request.json()?;
    act(host, call, move |store, entry| {
        let update = asked.update()?;
        if !update.is_empty() {
            update.apply(store, entry)?;
        }
        match asked.name {
            Some(name) => store.rename(entry, name).map_err(Problem::from),
            None => Ok(()),
        }
    })
}

fn remove(host: &Host, call: &Call<'_>) -> Result<Handled, Problem> {
    let (force, volumes) = (call.flag("force", false)?, call.flag("volumes", false)?);
    act(host, call, move |store, entry| {
        life::repair(store, entry)?;
        life::remove(store, entry, force)?;
        if entry.guest.of_file {
            ledger::forget(store, &entry.guest.name, volumes)
                .map_err(|error| Problem::new(Kind::Failed, crate::explain(&error)))?;
        }
        Ok::<_, Problem>(())
    })
}

fn stop(
    host: &Host,
    call: &Call<'_>,
    stop: fn(&mut Entry, Duration) -> Result<(), life::Error>,
) -> Result<Handled, Problem> {
    let seconds = call.number("timeout")?.unwrap_or(STOP);
    if seconds > LONGEST_STOP {
        let detail =
            format!("timeout is {seconds}; a guest is given {LONGEST_STOP} seconds at most");
        return Err(Problem::new(Kind::Malformed, detail));
    }
    let timeout = Duration::from_secs(seconds);
    let handled = act(host, call, move |_, entry| stop(entry, timeout))?;
    Ok(match handled {
        Handled::Later(awaited) => Handled::Later(awaited.within(timeout + super::PATIENCE)),
        other => other,
    })
}

/// The signals that end a guest.
const SIGNALS: &[(&str, Signal)] = &[
    ("KILL", Signal::KILL),
    ("TERM", Signal::TERM),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("HUP", Signal::HUP),
];

fn signals(_: &mut SchemaGenerator) -> Schema {
    let names: Vec<_> = SIGNALS.iter().map(|(name, _)| *name).collect();
    schemars::json_schema!({ "enum": names })
}

fn signal(call: &Call<'_>) -> Result<Signal, Problem> {
    let Some(asked) = call.parameter("signal") else { return Ok(Signal::KILL) };
    let found = SIGNALS.iter().find(|(name, _)| *name == asked);
    found.map(|(_, signal)| *signal).ok_or_else(|| {
        let names: Vec<_> = SIGNALS.iter().map(|(name, _)| *name).collect();
        let detail = format!("signal is one of {}, not {asked:?}", names.join(", "));
        Problem::new(Kind::Malformed, detail)
    })
}

/// Where a stream's bytes come from is opened by whoever serves: that reads folders of a few files.
fn log(host: &Host, call: &Call<'_>) -> Result<Handled, Problem> {
    let time = |name| Ok::<_, Problem>(call.number(name)?.and_then(moment));
    let query = Query {
        tail: call.number("tail")?.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX)),
        since: time("since")?,
        until: time("until")?,
    };
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: std::io::Error| Problem::new(Kind::Failed, format!("cannot {what}: {error}"))
    };
    let entry = host.store.find(&call.name)?;
    let tick = match call.flag("follow", false)? {
        true => Some(host.ticker.follow(call.wake).map_err(failed("follow the log"))?),
        false => None,
    };
    let reader = Reader::open(entry.state_folder(), &query).map_err(failed("read the log"))?;
    let response = Response { status: 200, content_type: Some(BYTES), ..Response::done() };
    Ok(Handled::Stream(response, Box::new(Log::new(entry, reader, tick))))
}

/// So many milliseconds after 1970; nothing if that is no time.
fn moment(millis: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

fn events(host: &Host, call: &Call<'_>) -> Result<Handled, Problem> {
    let since = call.number("since")?.unwrap_or_else(now);
    let tick = match call.flag("follow", true)? {
        true => Some(host.ticker.follow(call.wake).map_err(|error| {
            Problem::new(Kind::Failed, format!("cannot follow the journal: {error}"))
        })?),
        false => None,
    };
    let response = Response { status: 200, content_type: Some(LINES), ..Response::done() };
    let stream = Events { journal: host.store.journal().read(), since, tick };
    Ok(Handled::Stream(response, Box::new(stream)))
}
