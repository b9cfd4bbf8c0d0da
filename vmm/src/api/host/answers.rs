//! What is done about requests to the host: by the functions that commands use, on threads of their own where that may
//! wait.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use schemars::{Schema, SchemaGenerator};

use super::Host;
use super::follow::{Events, Log};
use super::routes::{ALL, BYTES, LONGEST_STOP, STOP};
use super::words::{GuestUpdate, NewGuest};
use crate::api::http::Response;
use crate::api::problem::{Kind, Problem};
use crate::api::route::Call;
use crate::api::routes::LINES;
use crate::api::server::Handled;
use crate::clock::now;
use crate::guests::log::{Query, Reader};
use crate::guests::report::{List, Report, Summary};
use crate::guests::{Entry, Filters, Store, life};
use crate::ledger;

/// Has something done with what the guest of the path is called.
pub(super) fn of_guest(
    host: &Host,
    call: &Call<'_>,
    job: impl FnOnce(&Store, String) -> Result<Response, Problem> + Send + 'static,
) -> Result<Handled, Problem> {
    let name = call.name.clone();
    Ok(Handled::Later(host.work(call.wake, move |store| job(store, name))?))
}

/// Has something done to the guest of the path.
pub(super) fn act<E: Into<Problem>>(
    host: &Host,
    call: &Call<'_>,
    act: impl FnOnce(&Store, &mut Entry) -> Result<(), E> + Send + 'static,
) -> Result<Handled, Problem> {
    of_guest(host, call, |store, name| {
        act(store, &mut store.find(&name)?).map_err(Into::into)?;
        Ok(Response::done())
    })
}

pub(super) fn list(host: &Host, call: &Call<'_>) -> Result<Handled, Problem> {
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

pub(super) fn create(host: &Host, call: &Call<'_>) -> Result<Handled, Problem> {
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

pub(super) fn update(host: &Host, call: &Call<'_>) -> Result<Handled, Problem> {
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

pub(super) fn remove(host: &Host, call: &Call<'_>) -> Result<Handled, Problem> {
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

pub(super) fn stop(
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

pub(super) fn signals(_: &mut SchemaGenerator) -> Schema {
    let names: Vec<_> = SIGNALS.iter().map(|(name, _)| *name).collect();
    schemars::json_schema!({ "enum": names })
}

pub(super) fn signal(call: &Call<'_>) -> Result<Signal, Problem> {
    let Some(asked) = call.parameter("signal") else { return Ok(Signal::KILL) };
    let found = SIGNALS.iter().find(|(name, _)| *name == asked);
    found.map(|(_, signal)| *signal).ok_or_else(|| {
        let names: Vec<_> = SIGNALS.iter().map(|(name, _)| *name).collect();
        let detail = format!("signal is one of {}, not {asked:?}", names.join(", "));
        Problem::new(Kind::Malformed, detail)
    })
}

/// Where a stream's bytes come from is opened by whoever serves: that reads folders of a few files.
pub(super) fn log(host: &Host, call: &Call<'_>) -> Result<Handled, Problem> {
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

pub(super) fn events(host: &Host, call: &Call<'_>) -> Result<Handled, Problem> {
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
