//! As much of HTTP/1.1 (RFC 9112) as the control interface speaks: requests from bytes, responses to
//! bytes. Nothing here reads or writes a socket.
//!
//! Bodies have a `Content-Length`; transfer codings are refused.

use std::fmt::Write as _;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::problem::{Kind, Problem};

/// Most header fields of a request.
const MAX_FIELDS: usize = 64;

/// What a request asks to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Show.
    Get,
    /// Show what [`Method::Get`] would, without its body.
    Head,
    /// Do.
    Post,
    /// Set.
    Put,
    /// Change.
    Patch,
    /// Remove.
    Delete,
    /// Any other; no path takes it.
    Other,
}

impl Method {
    fn parse(name: &str) -> Self {
        match name {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "PATCH" => Self::Patch,
            "DELETE" => Self::Delete,
            _ => Self::Other,
        }
    }

    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Other => "?",
        }
    }
}

/// A request, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is to be done.
    pub method: Method,
    /// The path as it came, without query.
    pub path: String,
    /// What stood after the `?`.
    pub query: Option<String>,
    /// What the client says the body is.
    pub content_type: Option<String>,
    /// The protocol the client wants to go over to.
    pub upgrade: Option<String>,
    /// Whether the connection stays open after the response.
    pub keep_alive: bool,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// The body as JSON.
    ///
    /// # Errors
    ///
    /// [`Kind::MediaType`], and [`Kind::Malformed`] naming the field and the place.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        let essence = |value: &str| value.split(';').next().unwrap_or_default().trim().to_owned();
        if let Some(given) = self.content_type.as_deref().map(essence)
            && !given.eq_ignore_ascii_case("application/json")
        {
            let detail = format!(
                "the body is {given:?}; send JSON with the header Content-Type: application/json"
            );
            return Err(Problem::new(Kind::MediaType, detail));
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| Problem::new(Kind::Malformed, format!("in the body: {error}")))
    }
}

/// Bounds of one request in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Request line and header fields.
    pub head: usize,
    /// Body.
    pub body: usize,
}

/// What the bytes so far are.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A request, of so many bytes; others may follow.
    Request(Box<Request>, usize),
    /// The beginning of one.
    Partial {
        /// So many bytes are needed at least before it is worth looking again.
        needed: usize,
        /// The client waits for `100 Continue` before it sends the body.
        expects_continue: bool,
    },
}

/// Reads the request at the beginning of `bytes`.
///
/// # Errors
///
/// What is wrong with it. Where the next one begins is not known then.
pub fn parse(bytes: &[u8], bounds: Bounds) -> Result<Parsed, Problem> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut head = httparse::Request::new(&mut fields);
    let too_long = || {
        let detail = format!(
            "the head of a request has at most {} bytes and {MAX_FIELDS} header fields",
            bounds.head
        );
        Problem::new(Kind::HeadTooLong, detail)
    };
    let length = match head.parse(&bytes[..bytes.len().min(bounds.head)]) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() >= bounds.head => return Err(too_long()),
        Ok(httparse::Status::Partial) => {
            return Ok(Parsed::Partial { needed: bytes.len() + 1, expects_continue: false });
        }
        Err(httparse::Error::TooManyHeaders) => return Err(too_long()),
        Err(httparse::Error::Version) => {
            return Err(Problem::new(Kind::Version, "this server speaks HTTP/1.1"));
        }
        Err(error) => return Err(malformed(format!("this is not an HTTP request: {error}"))),
    };
    let fields = Fields::read(head.headers, head.version == Some(1))?;
    let body = fields.length.unwrap_or(0);
    if body > bounds.body as u64 {
        let detail = format!("the body has {body} bytes, but at most {} are taken", bounds.body);
        return Err(Problem::new(Kind::BodyTooLong, detail));
    }
    #[allow(clippy::cast_possible_truncation)] // Not more than the bound, which is a usize.
    let whole = length + body as usize;
    if bytes.len() < whole {
        let expects_continue = fields.expects_continue && bytes.len() == length;
        return Ok(Parsed::Partial { needed: whole, expects_continue });
    }
    let (path, query) = target(head.path.unwrap_or_default())?;
    let request = Request {
        method: Method::parse(head.method.unwrap_or_default()),
        path,
        query,
        content_type: fields.content_type,
        upgrade: fields.upgrade,
        keep_alive: fields.keep_alive,
        body: bytes[length..whole].to_vec(),
    };
    Ok(Parsed::Request(Box::new(request), whole))
}

/// Path and query of a request's target, in origin or absolute form (RFC 9112, section 3.2).
fn target(target: &str) -> Result<(String, Option<String>), Problem> {
    let origin = match target.strip_prefix("http://") {
        Some(rest) => rest.find(['/', '?']).map_or("/", |start| &rest[start..]),
        None => target,
    };
    let (path, query) = match origin.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (origin, None),
    };
    if !path.starts_with('/') {
        return Err(malformed(format!("the target {target:?} is not a path")));
    }
    Ok((path.to_owned(), query))
}

/// The header fields that matter.
#[derive(Default)]
struct Fields {
    length: Option<u64>,
    content_type: Option<String>,
    upgrade: Option<String>,
    keep_alive: bool,
    expects_continue: bool,
}

impl Fields {
    fn read(fields: &[httparse::Header<'_>], http_1_1: bool) -> Result<Self, Problem> {
        let mut read = Self { keep_alive: http_1_1, ..Self::default() };
        let (mut hosts, mut upgrades) = (0, false);
        for field in fields {
            let name = field.name.to_ascii_lowercase();
            let value = std::str::from_utf8(field.value)
                .map_err(|_| malformed(format!("the header field {name} is not UTF-8")))?
                .trim();
            match name.as_str() {
                "host" => hosts += 1,
                "content-length" => read.length = Some(length(value, read.length)?),
                "content-type" => read.content_type = Some(value.to_owned()),
                "upgrade" => read.upgrade = Some(value.to_owned()),
                "transfer-encoding" => {
                    let detail = "transfer codings are not taken: send the body with its length \
                                  in Content-Length";
                    return Err(Problem::new(Kind::LengthRequired, detail));
                }
                "expect" if value.eq_ignore_ascii_case("100-continue") => {
                    read.expects_continue = http_1_1;
                }
                "expect" => {
                    let detail = format!("Expect takes 100-continue, not {value:?}");
                    return Err(Problem::new(Kind::Expectation, detail));
                }
                "connection" => {
                    let has = |option: &str| {
                        value.split(',').any(|token| token.trim().eq_ignore_ascii_case(option))
                    };
                    upgrades |= has("upgrade");
                    if has("close") {
                        read.keep_alive = false;
                    }
                }
                _ => {}
            }
        }
        if hosts > 1 || (http_1_1 && hosts == 0) {
            return Err(malformed("a request has one header field Host; any value will do"));
        }
        // Upgrade alone is for the next hop only if Connection says so (RFC 9110, section 7.8).
        read.upgrade = read.upgrade.filter(|_| upgrades && http_1_1);
        Ok(read)
    }
}

/// The value of a Content-Length, which may stand there again but not differ: requests would be taken
/// apart differently by others.
fn length(value: &str, before: Option<u64>) -> Result<u64, Problem> {
    let number = value.bytes().all(|byte| byte.is_ascii_digit()).then(|| value.parse().ok());
    match number.flatten() {
        Some(length) if before.is_none_or(|before| before == length) => Ok(length),
        _ => Err(malformed(format!("the Content-Length {value:?} is not one number of bytes"))),
    }
}

fn malformed(detail: impl Into<String>) -> Problem {
    Problem::new(Kind::Malformed, detail)
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// What the body is; none without a body.
    pub content_type: Option<&'static str>,
    /// Further header fields.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// It was done, and there is nothing to say.
    pub fn done() -> Self {
        Self { status: 204, content_type: None, headers: Vec::new(), body: Vec::new() }
    }

    /// `value` as JSON.
    pub fn json(status: u16, value: &impl Serialize) -> Self {
        let mut body = match serde_json::to_vec(value) {
            Ok(body) => body,
            Err(error) => {
                // None of the interface's types can fail: their keys are strings.
                tracing::error!("a response cannot be written as JSON: {error}");
                return Self { status: 500, ..Self::done() };
            }
        };
        body.push(b'\n');
        Self { status, content_type: Some("application/json"), headers: Vec::new(), body }
    }

    /// The bytes of a head after which come bytes of any number, up to the connection's end.
    pub fn encode_head(&self) -> Vec<u8> {
        let mut head = self.first_fields();
        let connection = if self.status == 101 { "Upgrade" } else { "close" };
        // Writing to a String does not fail.
        let _ = write!(head, "Connection: {connection}\r\n\r\n");
        head.into_bytes()
    }

    /// The status and what is said of the content, but not its length.
    fn first_fields(&self) -> String {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        if let Some(content_type) = self.content_type {
            let _ = write!(head, "Content-Type: {content_type}\r\n");
        }
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head
    }

    /// Its bytes; those of the head alone for an answer to HEAD.
    pub fn encode(&self, head_only: bool, keep_alive: bool) -> Vec<u8> {
        let mut head = self.first_fields();
        if self.status != 204 {
            let _ = write!(head, "Content-Length: {}\r\n", self.body.len());
        }
        if !keep_alive {
            head.push_str("Connection: close\r\n");
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if !head_only {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

/// The phrase that goes with a status (RFC 9110, section 15).
fn reason(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
#[path = "http_test.rs"]
mod http_test;
