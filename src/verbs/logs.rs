//! `carve logs`: what a guest's console said, in all its runs.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmm::guests::log::{Piece, Query, Reader};
use vmm::guests::{Entry, Store, life};

use crate::cli::guests::LogsArgs;

/// How often it is looked whether the guest has ended, and whether anybody still reads.
const AGAIN: Duration = Duration::from_millis(200);

/// The guest has no log.
#[derive(Debug, thiserror::Error)]
#[error(
    "the guest {0} has no log: it ran in the foreground, and its output went to the terminal; `carve start {0}` or `carve run -d` keeps one"
)]
struct NoLog(String);

/// Prints the log as far as it was asked for, and follows it if told to.
///
/// # Errors
///
/// There is no such guest, it has no log, or that cannot be read.
pub fn run(args: &LogsArgs) -> Result<ExitCode, super::Error> {
    let store = Store::of_user()?;
    let mut entry = store.find(&args.which.guest)?;
    if life::repair(&store, &mut entry)?.is_none() {
        return Ok(ExitCode::SUCCESS);
    }
    if !entry.guest.detached && entry.record()?.is_some() && !entry.log_path().exists() {
        return Err(NoLog(entry.guest.name.to_string()).into());
    }
    let query = Query {
        tail: args.tail.lines(),
        since: args.since.map(|since| since.time()),
        until: args.until.map(|until| until.time()),
    };
    match print(&entry, &query, args.follow, args.timestamps) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error.into()),
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

/// Prints what `query` asks for, and with `follow` what comes, up to the guest's end.
///
/// # Errors
///
/// The log cannot be read, or nobody reads what is printed.
pub fn print(entry: &Entry, query: &Query, follow: bool, timestamps: bool) -> io::Result<()> {
    let mut reader = Reader::open(entry.state_folder(), query)?;
    // A guest that goes on and on is not followed unasked.
    let mut left = if follow { u64::MAX } else { reader.available() };
    let mut out = Out { out: io::stdout(), timestamps, line_begins: true };
    loop {
        // Before the log is read, so that nothing is left out that was said before the end.
        let late = query.until.is_some_and(|until| until < SystemTime::now());
        let over = !follow || late || has_ended(entry);
        while left > 0
            && let Some(mut piece) = reader.read()?
        {
            piece.bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            left -= piece.bytes.len() as u64;
            out.write(&piece)?;
        }
        if over {
            return Ok(());
        }
        reader.wait(AGAIN);
        if out.has_no_reader() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
    }
}

/// Whether no more comes: the monitor, who keeps the log, leaves after its guest.
fn has_ended(entry: &Entry) -> bool {
    let status = entry.status();
    !status.is_ok_and(|status| status.vmm.is_some() || status.monitor.is_some())
}

struct Out {
    out: io::Stdout,
    timestamps: bool,
    line_begins: bool,
}

impl Out {
    fn write(&mut self, piece: &Piece) -> io::Result<()> {
        if !self.timestamps {
            self.out.write_all(&piece.bytes)?;
            return self.out.flush();
        }
        let time = format!("{} ", humantime::format_rfc3339_millis(piece.time));
        let mut text = Vec::with_capacity(piece.bytes.len() + time.len());
        for line in piece.bytes.split_inclusive(|&byte| byte == b'\n') {
            if self.line_begins {
                text.extend_from_slice(time.as_bytes());
            }
            text.extend_from_slice(line);
            self.line_begins = line.ends_with(b"\n");
        }
        self.out.write_all(&text)?;
        self.out.flush()
    }

    /// The end of a pipe that nobody reads (poll(2)), or of a terminal that was closed.
    fn has_no_reader(&self) -> bool {
        let mut fds = [PollFd::new(&self.out, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let polled = poll(&mut fds, Some(&now));
        polled.is_ok() && fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
    }
}
