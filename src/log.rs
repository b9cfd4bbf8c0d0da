//! Carve's own messages: to standard error or a file, never to the guest's output.
//!
//! On standard error a message looks like the errors of any command; in a file it
//! carries time and place. Which level is written is decided by a number compare,
//! not by a filter language: starting a guest takes milliseconds.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Mutex;

use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::cli::{LogArgs, LogLevel};
use crate::terminal;

/// Messages cannot go where they should.
#[derive(Debug, thiserror::Error)]
#[error("the log file {} cannot be opened; give --log-file a file you may append to", .path.display())]
pub struct Error {
    path: PathBuf,
    source: io::Error,
}

/// Sends messages where `args` says from now on.
///
/// # Errors
///
/// The log file cannot be opened.
pub fn init(args: &LogArgs) -> Result<(), Error> {
    let level = match args.log_level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let subscriber = tracing_subscriber::fmt().with_max_level(level).with_ansi(false);
    match &args.log_file {
        None => subscriber.event_format(Terse).with_writer(StandardError).init(),
        Some(path) => {
            let file = OpenOptions::new().append(true).create(true).open(path);
            let file = file.map_err(|source| Error { path: path.clone(), source })?;
            subscriber.event_format(Full).with_writer(Mutex::new(Lines(file))).init();
        }
    }
    Ok(())
}

/// `carve: warning: …`
struct Terse;

impl<S, N> FormatEvent<S, N> for Terse
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        write!(writer, "carve: {level}: ")?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// `2026-01-31T12:00:00.000000Z  WARN vmm::machine: …`
struct Full;

impl<S, N> FormatEvent<S, N> for Full
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        SystemTime.format_time(&mut writer)?;
        write!(writer, " {:>5} {}: ", metadata.level(), metadata.target())?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Writes each message in one call, so that those of two processes never mix.
struct Lines(File);

impl Write for Lines {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        self.0.write_all(message).map(|()| message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard error, where a raw terminal needs the carriage returns it no longer adds.
struct StandardError;

impl<'a> MakeWriter<'a> for StandardError {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl Write for StandardError {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        let lines = if terminal::is_raw() { carriage_returns(message) } else { message.to_vec() };
        io::stderr().write_all(&lines).map(|()| message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn carriage_returns(message: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(message.len() + 8);
    for &byte in message {
        if byte == b'\n' {
            lines.push(b'\r');
        }
        lines.push(byte);
    }
    lines
}

#[cfg(test)]
mod log_test {
    use super::*;

    #[test]
    fn each_line_of_a_raw_terminal_starts_at_its_left_edge() {
        assert_eq!(carriage_returns(b"a\nb\n"), b"a\r\nb\r\n");
    }
}
