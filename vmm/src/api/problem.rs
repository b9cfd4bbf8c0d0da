//! Why a request was refused, in the form of RFC 9457.

use super::http::Response;
use super::types::{CONSOLE_PROTOCOL, ProblemDocument};
use crate::command::Refusal;

/// Kinds of problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is not HTTP, or not what the path takes.
    Malformed,
    /// Another user asks.
    Forbidden,
    /// Nothing is there.
    NotFound,
    /// The path does not know the method.
    Method,
    /// The request did not come whole in time.
    Slow,
    /// The guest's state does not allow it.
    State,
    /// Another guest is called so.
    NameTaken,
    /// Several guests are meant.
    Ambiguous,
    /// A body came without its length.
    LengthRequired,
    /// The body is too long.
    BodyTooLong,
    /// The body is not JSON by its own account.
    MediaType,
    /// The path goes over to another protocol, which was not asked for.
    Upgrade,
    /// An `Expect` other than `100-continue`.
    Expectation,
    /// A value that cannot be.
    Invalid,
    /// The head is too long.
    HeadTooLong,
    /// The host could not do it.
    Failed,
    /// The guest did not start.
    Start,
    /// Too much is asked at once.
    Busy,
    /// The guest is ending.
    Ending,
    /// The main loop did not answer in time.
    Timeout,
    /// Not HTTP/1.
    Version,
}

/// What comes before a kind's name in the type of a problem.
const TYPE: &str = "urn:carve:problem:";

impl Kind {
    /// All that a guest may answer the host's interface with.
    const PASSED_ON: [Self; 7] = [
        Self::State,
        Self::NotFound,
        Self::Invalid,
        Self::Failed,
        Self::Ending,
        Self::Busy,
        Self::Timeout,
    ];

    /// The kind whose problems are of this type, of those that come of a guest's refusals.
    pub fn named(uri: &str) -> Option<Self> {
        let name = uri.strip_prefix(TYPE)?;
        Self::PASSED_ON.into_iter().find(|kind| kind.words().1 == name)
    }

    /// HTTP status, the last part of the problem's URI, and the kind in words.
    pub const fn words(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::Malformed => (400, "malformed", "The request cannot be understood"),
            Self::Forbidden => (403, "forbidden", "It belongs to another user"),
            Self::NotFound => (404, "not-found", "There is no such thing"),
            Self::Method => (405, "method", "The path does not take this method"),
            Self::Slow => (408, "slow", "The request did not come in time"),
            Self::State => (409, "state", "The guest's state does not allow it"),
            Self::NameTaken => (409, "name-taken", "Another guest has the name"),
            Self::Ambiguous => (409, "ambiguous", "Several guests are meant"),
            Self::LengthRequired => (411, "length-required", "The length of the body is missing"),
            Self::BodyTooLong => (413, "body-too-long", "The body is too long"),
            Self::MediaType => (415, "media-type", "The body must be JSON"),
            Self::Expectation => (417, "expectation", "The expectation cannot be met"),
            Self::Upgrade => (426, "upgrade", "The path speaks another protocol"),
            Self::Invalid => (422, "invalid", "A value cannot be"),
            Self::HeadTooLong => (431, "head-too-long", "The head of the request is too long"),
            Self::Failed => (500, "failed", "The host could not do it"),
            Self::Start => (500, "start", "The guest did not start"),
            Self::Busy => (503, "busy", "Too much is asked at once"),
            Self::Ending => (503, "ending", "The guest is ending"),
            Self::Timeout => (504, "timeout", "The guest's monitor did not answer in time"),
            Self::Version => (505, "version", "The version of HTTP is not known"),
        }
    }
}

/// One refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its kind.
    pub kind: Kind,
    /// This case in words, with the remedy.
    pub detail: String,
    /// The methods the path takes, where that is what is wrong.
    pub allow: Option<String>,
}

impl Problem {
    /// A problem of `kind`.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), allow: None }
    }

    /// As a response.
    pub fn response(self) -> Response {
        let (status, name, title) = self.kind.words();
        let document = ProblemDocument {
            kind: format!("{TYPE}{name}"),
            title: title.to_owned(),
            status,
            detail: self.detail,
        };
        let mut response = Response::json(status, &document);
        response.content_type = Some("application/problem+json");
        response.headers.extend(self.allow.map(|methods| ("Allow", methods)));
        if self.kind == Kind::Upgrade {
            response.headers.push(("Upgrade", CONSOLE_PROTOCOL.to_owned()));
        }
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal {
            Refusal::State(_) => Kind::State,
            Refusal::NotFound(_) => Kind::NotFound,
            Refusal::Invalid(_) => Kind::Invalid,
            Refusal::Failed(_) => Kind::Failed,
            Refusal::Ending => Kind::Ending,
            Refusal::Busy => Kind::Busy,
            Refusal::Timeout(_) => Kind::Timeout,
        };
        Self::new(kind, refusal.to_string())
    }
}
