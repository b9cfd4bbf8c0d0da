//! [`Route`]: one thing that can be asked for, as requests are answered by it and the OpenAPI document
//! describes it; and how the one is found that a request asks for.

use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use vmm_sys_util::eventfd::EventFd;

use super::http::{Method, Request};
use super::problem::{Kind, Problem};
use super::server::Handled;
use super::types::VERSION;

/// The schema of one type.
pub type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// The schema of `T`, as a [`SchemaOf`].
pub fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// An object that is described elsewhere.
pub(super) fn object(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({ "type": "object" })
}

/// Yes or no, as it is said in a query.
pub(super) fn yes_or_no(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({ "enum": ["yes", "no"] })
}

/// One thing that can be asked of an `S`.
#[derive(Clone, Copy, Debug)]
pub struct Route<S: 'static> {
    /// How.
    pub method: Method,
    /// Where; `{name}` stands for one part.
    pub path: &'static str,
    /// Its name in the OpenAPI document.
    pub id: &'static str,
    /// What it does.
    pub summary: &'static str,
    /// What may stand in the query.
    pub query: &'static [Parameter],
    /// What the body of the request is, if it has one.
    pub body: Option<SchemaOf>,
    /// What comes back where all is well.
    pub answer: Content,
    /// Answers.
    pub handle: fn(&S, &Call<'_>) -> Result<Handled, Problem>,
}

/// What stands in a query, all of it optional.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub summary: &'static str,
    /// What it takes.
    pub schema: SchemaOf,
}

/// What a response holds.
#[derive(Clone, Copy, Debug)]
pub enum Content {
    /// Nothing; its status is 204.
    Nothing,
    /// JSON of this type.
    Json(SchemaOf),
    /// JSON of this type about something new, whose path is in the header `Location`; its status is 201.
    Created(SchemaOf),
    /// Lines of JSON, each of this type.
    Lines(SchemaOf),
    /// Text of this media type.
    Text(&'static str),
    /// Another protocol, of this name; its status is 101.
    Protocol(&'static str),
}

/// A request that has found its route.
#[derive(Debug)]
pub struct Call<'a> {
    /// The request.
    pub request: &'a Request,
    /// What stands for `{name}`.
    pub name: String,
    /// Written to when there is more to be done for the client.
    pub wake: &'a Arc<EventFd>,
    query: Vec<(String, String)>,
}

impl Call<'_> {
    /// A parameter of the query that is yes or no.
    ///
    /// # Errors
    ///
    /// [`Kind::Malformed`] if it is neither.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, Problem> {
        match self.parameter(name) {
            None => Ok(default),
            Some("yes") => Ok(true),
            Some("no") => Ok(false),
            Some(other) => Err(malformed(format!("{name} is yes or no, not {other:?}"))),
        }
    }

    /// A parameter of the query that is a number.
    ///
    /// # Errors
    ///
    /// [`Kind::Malformed`] if it is none.
    pub fn number(&self, name: &str) -> Result<Option<u64>, Problem> {
        let Some(text) = self.parameter(name) else { return Ok(None) };
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.then(|| text.parse().ok()).flatten();
        let refused = || malformed(format!("{name} is a number of 64 bits, not {text:?}"));
        number.map(Some).ok_or_else(refused)
    }

    /// A parameter of the query as it stands there.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Finds what a request asks for, and answers it.
///
/// # Errors
///
/// [`Kind::NotFound`], [`Kind::Method`], [`Kind::Malformed`] for a query or body that the route does not
/// take, and the route's own.
pub fn handle<S>(
    routes: &[Route<S>],
    service: &S,
    request: &Request,
    wake: &Arc<EventFd>,
) -> Result<Handled, Problem> {
    let (route, name) = find(routes, request)?;
    let query = parameters(route, request.query.as_deref().unwrap_or_default())?;
    (route.handle)(service, &Call { request, name, wake, query })
}

/// Finds what a request asks for, and what stands for `{name}` in its path.
pub(super) fn find<'a, S>(
    routes: &'a [Route<S>],
    request: &Request,
) -> Result<(&'a Route<S>, String), Problem> {
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
    if route.body.is_none() && !request.body.is_empty() {
        return Err(malformed(format!("{} {} takes no body", method.name(), route.path)));
    }
    Ok((*route, name.clone()))
}

/// The parts of a query (`key=value&key=value`).
fn parameters<S>(route: &Route<S>, query: &str) -> Result<Vec<(String, String)>, Problem> {
    let mut found: Vec<(String, String)> = Vec::new();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let (Some(key), Some(value)) = (decode(key), decode(value)) else {
            return Err(malformed(format!("{part:?} in the query is not encoded text")));
        };
        if !route.query.iter().any(|parameter| parameter.name == key) {
            let names: Vec<_> = route.query.iter().map(|parameter| parameter.name).collect();
            let takes = if names.is_empty() { "no query".to_owned() } else { names.join(", ") };
            let detail = format!("{} takes {takes}, but the query has {key:?}", route.path);
            return Err(malformed(detail));
        }
        if found.iter().any(|(other, _)| *other == key) {
            return Err(malformed(format!("{key} is given twice")));
        }
        found.push((key, value));
    }
    Ok(found)
}

fn malformed(detail: String) -> Problem {
    Problem::new(Kind::Malformed, detail)
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
