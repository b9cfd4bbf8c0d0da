//! A guest's console as a client has it: asked for over HTTP, then a stream of bytes.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::{Client, Error, head, yes_or_no};
use crate::api::http::Method;
use crate::api::types::{CONSOLE_OFFSET, CONSOLE_PROTOCOL, VERSION};

/// What of a console is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConsoleOptions {
    /// The offset of the first byte wanted; without it what comes from now on.
    pub from: Option<u64>,
    /// What is written goes to the guest.
    pub input: bool,
    /// Keeps the log: the guest slows down rather than lose what is not kept. What is written are lines with the
    /// offset, in decimal, up to which it is.
    pub log: bool,
}

/// A guest's console: what is read is its output, what is written its input.
#[derive(Debug)]
pub struct ConsoleStream {
    /// The connection, blocking and without time-outs.
    pub stream: UnixStream,
    /// Offset of the first byte that comes; later than asked for if that is kept no more.
    pub offset: u64,
}

/// A console that was asked for. Once its descriptor is readable, there is an answer.
#[derive(Debug)]
pub struct AskedConsole {
    client: Client,
    stream: UnixStream,
}

impl AskedConsole {
    /// Waits for the answer.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn finish(self) -> Result<ConsoleStream, Error> {
        let Self { client, stream } = self;
        let until = Instant::now() + client.patience;
        let response = client.accept(client.receive(&stream, until)?)?;
        let offset = response.field(CONSOLE_OFFSET).and_then(|offset| offset.parse().ok());
        let (101, Some(offset)) = (response.status, offset) else {
            return Err(client.protocol("it does not go over to the console"));
        };
        let forever = stream.set_read_timeout(None).and_then(|()| stream.set_write_timeout(None));
        forever.map_err(|source| Error::Broken { path: client.path, source })?;
        Ok(ConsoleStream { stream, offset })
    }
}

impl AsFd for AskedConsole {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Client {
    /// Goes over to the guest's console.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn console(self, options: ConsoleOptions) -> Result<ConsoleStream, Error> {
        self.ask_console(options)?.finish()
    }

    /// Asks to go over to the guest's console, and waits for no answer.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn ask_console(mut self, options: ConsoleOptions) -> Result<AskedConsole, Error> {
        let mut path = format!("/{VERSION}/console?input={}", yes_or_no(options.input));
        path += &format!("&log={}", yes_or_no(options.log));
        path.extend(options.from.map(|from| format!("&from={from}")));
        let stream = self.take_stream()?;
        let fields = format!("Connection: Upgrade\r\nUpgrade: {CONSOLE_PROTOCOL}\r\n");
        let head = head(Method::Get, &path, None, &fields);
        self.send(&stream, &head, &[], Instant::now() + self.patience)?;
        Ok(AskedConsole { client: self, stream })
    }
}
