//! The control interface of all guests of a user: the verbs of the command line over HTTP.
//!
//! It keeps nothing. Every request does what a command would, on the same files under the same locks, so that it may be
//! served by none, one or several processes, beside commands, and be killed at any moment. What waits (files, locks,
//! guests that start and stop) waits on a thread of its own ([`jobs`]).

mod answers;
mod follow;
mod jobs;
mod routes;
mod words;

use std::sync::Arc;
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

use self::follow::Ticker;
use self::jobs::Jobs;
pub use self::routes::{ROUTES, description};
use super::client;
use super::http::{Request, Response};
use super::problem::{Kind, Problem};
use super::route;
use super::server::{Awaited, Handled, Limits, Service};
use crate::guests::{self, Store, UpdateError, life};

/// How long a request is worked on before its client is told that it takes longer; a guest with much memory to populate
/// may take minutes to start.
const PATIENCE: Duration = Duration::from_secs(600);

/// What clients can take of a host's server.
pub fn limits(alone: Option<Duration>) -> Limits {
    Limits { answer: PATIENCE, alone, ..Limits::default() }
}

/// Answers for all guests of a store.
#[derive(Debug)]
pub struct Host {
    store: Store,
    jobs: Jobs,
    ticker: Ticker,
}

impl Host {
    /// Serves the guests of `store`.
    pub fn new(store: Store) -> Self {
        Self { store, jobs: Jobs::default(), ticker: Ticker::default() }
    }

    /// Has `job` done on a thread of its own.
    fn work(
        &self,
        wake: &Arc<EventFd>,
        job: impl FnOnce(&Store) -> Result<Response, Problem> + Send + 'static,
    ) -> Result<Awaited, Problem> {
        let store = self.store.clone();
        self.jobs.start(wake, move || job(&store).unwrap_or_else(Problem::response))
    }
}

impl Service for Host {
    fn handle(&mut self, request: &Request, wake: &Arc<EventFd>) -> Result<Handled, Problem> {
        route::handle(ROUTES, self, request, wake)
    }

    fn is_busy(&self) -> bool {
        self.jobs.is_busy()
    }
}

impl From<guests::Error> for Problem {
    fn from(error: guests::Error) -> Self {
        let kind = match &error {
            guests::Error::NotFound(_) => Kind::NotFound,
            guests::Error::Ambiguous { .. } => Kind::Ambiguous,
            guests::Error::NameTaken { .. } | guests::Error::InFile(_) => Kind::NameTaken,
            guests::Error::OfFile(_) => Kind::State,
            _ => Kind::Failed,
        };
        Self::new(kind, crate::explain(&error))
    }
}

impl From<life::Error> for Problem {
    fn from(error: life::Error) -> Self {
        let kind = match &error {
            life::Error::Store(_) | life::Error::Ledger(_) | life::Error::Host { .. } => {
                Kind::Failed
            }
            life::Error::State { .. } => Kind::State,
            life::Error::Start { .. } => Kind::Start,
            life::Error::Api { source, .. } => kind_of(source),
            life::Error::Stuck { .. } => Kind::Timeout,
        };
        match error {
            life::Error::Store(error) => error.into(),
            error => Self::new(kind, crate::explain(&error)),
        }
    }
}

/// What a guest refused is passed on as what it was.
fn kind_of(error: &client::Error) -> Kind {
    match error {
        client::Error::Refused(document) => Kind::named(&document.kind).unwrap_or(Kind::Failed),
        _ => Kind::Failed,
    }
}

impl From<UpdateError> for Problem {
    fn from(error: UpdateError) -> Self {
        let kind = match error {
            UpdateError::Life(error) => return error.into(),
            UpdateError::Store(error) => return error.into(),
            UpdateError::Unknown { .. } | UpdateError::NoBalloon(_) => Kind::NotFound,
            UpdateError::Stopped { .. } => Kind::State,
            UpdateError::Balloon { .. }
            | UpdateError::PartialBlock { .. }
            | UpdateError::Vhost { .. }
            | UpdateError::Removed(_) => Kind::Invalid,
        };
        Self::new(kind, crate::explain(&error))
    }
}

#[cfg(test)]
#[path = "host/host_test.rs"]
mod host_test;
