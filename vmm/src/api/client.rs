//! A client of a guest's control interface, for the command line and the monitor. It waits, but never
//! longer than it was told, and takes no more than it can hold: what serves may be a guest's prey.

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::http::Method;
use super::socket;
use super::types::ProblemDocument;

mod console;

pub use self::console::{AskedConsole, ConsoleOptions, ConsoleStream};

/// How long a request takes at most, unless told otherwise: longer than the server waits for its guest.
const PATIENCE: Duration = Duration::from_secs(15);

/// Longest head of a response in bytes.
const HEAD: usize = 8 << 10;

/// Longest body of a response in bytes.
const BODY: usize = 4 << 20;

/// Most header fields of a response.
const MAX_FIELDS: usize = 32;

/// How much is read at once.
const CHUNK: usize = 8 << 10;

/// Why a guest did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers.
    #[error("cannot connect to the guest's socket {}: {source}", .path.display())]
    Connect {
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The connection broke off, or time was up.
    #[error("no answer from the guest's socket {}: {source}", .path.display())]
    Broken {
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The guest said no.
    #[error("{}", .0.detail)]
    Refused(ProblemDocument),
    /// What came was not an answer.
    #[error("the guest's socket {} gives an answer that is none: {why}", .path.display())]
    Protocol {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl Error {
    /// Whether nobody listens: the guest has ended, or never was.
    pub fn is_gone(&self) -> bool {
        let gone = [ErrorKind::NotFound, ErrorKind::ConnectionRefused];
        matches!(self, Self::Connect { source, .. } if gone.contains(&source.kind()))
    }
}

/// A connection to one guest, made again when the guest has closed it meanwhile.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: Option<UnixStream>,
    patience: Duration,
}

/// A response.
struct Response {
    status: u16,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Response {
    fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

impl Client {
    /// Connects to the guest whose socket is at `path`.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`].
    pub fn connect(path: &Path) -> Result<Self, Error> {
        Self::connect_within(path, PATIENCE)
    }

    /// Connects as [`connect`](Self::connect) does, and waits at most `patience` for that and for each answer.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`].
    pub fn connect_within(path: &Path, patience: Duration) -> Result<Self, Error> {
        let mut client = Self { path: path.to_owned(), stream: None, patience };
        client.stream = Some(client.dial()?);
        Ok(client)
    }

    /// What is at `path`, such as `/v1/vm`.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, Error> {
        let response = self.ask(Method::Get, path, None)?;
        serde_json::from_slice(&response.body).map_err(|error| self.protocol(error))
    }

    /// The bytes at `path`, such as those of `/v1/metrics`.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn get_bytes(&mut self, path: &str) -> Result<Vec<u8>, Error> {
        Ok(self.ask(Method::Get, path, None)?.body)
    }

    /// Does what is at `path`, such as `/v1/pause`.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn post(&mut self, path: &str) -> Result<(), Error> {
        self.ask(Method::Post, path, None).map(drop)
    }

    /// Changes what is at `path`, such as `/v1/balloon`.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn patch(&mut self, path: &str, change: &impl Serialize) -> Result<(), Error> {
        let body = serde_json::to_vec(change).map_err(|error| self.protocol(error))?;
        self.ask(Method::Patch, path, Some(&body)).map(drop)
    }

    /// Sets what is at `path`, such as `/v1/console/size`.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn put(&mut self, path: &str, value: &impl Serialize) -> Result<(), Error> {
        let body = serde_json::to_vec(value).map_err(|error| self.protocol(error))?;
        self.ask(Method::Put, path, Some(&body)).map(drop)
    }

    fn ask(&mut self, method: Method, path: &str, body: Option<&[u8]>) -> Result<Response, Error> {
        let stream = self.take_stream()?;
        let response =
            self.exchange(&stream, &head(method, path, body, ""), body.unwrap_or(&[]))?;
        let closes =
            response.field("connection").is_some_and(|it| it.eq_ignore_ascii_case("close"));
        if !closes {
            self.stream = Some(stream);
        }
        self.accept(response)
    }

    fn take_stream(&mut self) -> Result<UnixStream, Error> {
        self.stream.take().filter(is_quiet).map_or_else(|| self.dial(), Ok)
    }

    fn dial(&self) -> Result<UnixStream, Error> {
        socket::connect(&self.path, self.patience)
            .map_err(|source| Error::Connect { path: self.path.clone(), source })
    }

    /// The response, if it says that it was done.
    fn accept(&self, response: Response) -> Result<Response, Error> {
        if matches!(response.status, 101 | 200..=299) {
            return Ok(response);
        }
        let problem = serde_json::from_slice(&response.body);
        Err(problem.map_or_else(
            |_| self.protocol(format!("status {} without a reason", response.status)),
            Error::Refused,
        ))
    }

    fn exchange(&self, stream: &UnixStream, head: &str, body: &[u8]) -> Result<Response, Error> {
        let until = Instant::now() + self.patience;
        self.send(stream, head, body, until)?;
        self.receive(stream, until)
    }

    fn send(
        &self,
        stream: &UnixStream,
        head: &str,
        body: &[u8],
        until: Instant,
    ) -> Result<(), Error> {
        match write(stream, head.as_bytes(), until).and_then(|()| write(stream, body, until)) {
            // It may have said why before it closed.
            Err(source) if source.kind() != ErrorKind::BrokenPipe => {
                Err(Error::Broken { path: self.path.clone(), source })
            }
            _ => Ok(()),
        }
    }

    fn receive(&self, stream: &UnixStream, until: Instant) -> Result<Response, Error> {
        let broken = |source| Error::Broken { path: self.path.clone(), source };
        let mut bytes = Vec::new();
        loop {
            // Nothing beyond the response is taken: after an upgrade it is somebody else's.
            let before = bytes.len();
            let count = read(stream, &mut bytes, CHUNK, RecvFlags::PEEK, until).map_err(broken)?;
            if count == 0 {
                return Err(broken(ErrorKind::UnexpectedEof.into()));
            }
            let parsed = parse(&bytes).map_err(|why| self.protocol(why))?;
            let end = parsed.as_ref().map_or(bytes.len(), |(_, length)| *length);
            bytes.truncate(before);
            while bytes.len() < end {
                let missing = end - bytes.len();
                // They are there, so this neither waits nor ends.
                read(stream, &mut bytes, missing, RecvFlags::empty(), until).map_err(broken)?;
            }
            if let Some((response, _)) = parsed {
                return Ok(response);
            }
        }
    }

    fn protocol(&self, why: impl ToString) -> Error {
        Error::Protocol { path: self.path.clone(), why: why.to_string() }
    }
}

/// The head of a request. `fields` are further header fields, each with its end of line.
fn head(method: Method, path: &str, body: Option<&[u8]>, fields: &str) -> String {
    let mut head = format!("{} {path} HTTP/1.1\r\nHost: carve\r\n{fields}", method.name());
    if let Some(body) = body {
        let length = body.len();
        head.push_str(&format!("Content-Type: application/json\r\nContent-Length: {length}\r\n"));
    }
    head.push_str("\r\n");
    head
}

const fn yes_or_no(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

/// The response at the beginning of `bytes` and its length, once it is whole.
fn parse(bytes: &[u8]) -> Result<Option<(Response, usize)>, String> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut head = httparse::Response::new(&mut fields);
    let length = match head.parse(&bytes[..bytes.len().min(HEAD)]) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD => return Ok(None),
        Ok(httparse::Status::Partial) => {
            return Err(format!("its head is longer than {HEAD} bytes"));
        }
        Err(error) => return Err(error.to_string()),
    };
    let text = |field: &httparse::Header<'_>| {
        (field.name.to_owned(), String::from_utf8_lossy(field.value).into_owned())
    };
    let mut response = Response {
        status: head.code.unwrap_or(0),
        fields: head.headers.iter().map(text).collect(),
        body: Vec::new(),
    };
    let body = match response.field("content-length") {
        None if matches!(response.status, 100..=199 | 204) => 0,
        Some(text) => text.parse().map_err(|_| format!("its Content-Length is {text:?}"))?,
        None => return Err("it does not say how long it is".to_owned()),
    };
    if body > BODY {
        return Err(format!("it has {body} bytes, more than {BODY}"));
    }
    let Some(body) = bytes.get(length..length + body) else { return Ok(None) };
    response.body = body.to_vec();
    let length = length + body.len();
    Ok(Some((response, length)))
}

/// Whether nothing has come: neither an end nor what nobody asked for.
fn is_quiet(stream: &UnixStream) -> bool {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    matches!(recv(stream, &mut [0; 1][..], flags), Err(Errno::AGAIN))
}

/// Writes all of `bytes`. A server that has gone is an error, not a signal.
fn write(stream: &UnixStream, mut bytes: &[u8], until: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(until)?))?;
        match send(stream, bytes, SendFlags::NOSIGNAL) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Err(ErrorKind::TimedOut.into()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Reads at most `most` bytes of what has come, at least one unless the stream has ended.
fn read(
    stream: &UnixStream,
    bytes: &mut Vec<u8>,
    most: usize,
    flags: RecvFlags,
    until: Instant,
) -> io::Result<usize> {
    let before = bytes.len();
    loop {
        stream.set_read_timeout(Some(left(until)?))?;
        bytes.resize(before + most, 0);
        let count = recv(stream, &mut bytes[before..], flags).map(|count| count.0);
        bytes.truncate(before + *count.as_ref().unwrap_or(&0));
        match count {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Err(ErrorKind::TimedOut.into()),
            other => return Ok(other?),
        }
    }
}

/// The time left, never none: that would mean for ever.
fn left(until: Instant) -> io::Result<Duration> {
    match until.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(ErrorKind::TimedOut.into()),
        left => Ok(left.max(Duration::from_millis(1))),
    }
}

#[cfg(test)]
#[path = "client_test.rs"]
mod client_test;
