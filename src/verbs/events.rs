//! `carve events`: what happens to the guests of this user, from their journal.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmm::api::types::Event;
use vmm::clock::now;
use vmm::guests::Store;

use crate::cli::Format;
use crate::cli::guests::EventsArgs;

mod filter;

use filter::Filters;

/// How often the journal is looked at.
const AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Longest that details of an event are in a table.
const MOST_DETAILS: usize = 160;

/// Prints events until the reader has enough, time is over or somebody interrupts.
///
/// # Errors
///
/// There is no place for guests, a filter is none, or the journal cannot be read.
pub fn run(args: &EventsArgs) -> Result<ExitCode, super::Error> {
    let filters = Filters::parse(&args.filters)?;
    let store = Store::of_user()?;
    let mut journal = store.journal().read();
    // As with Docker: without a beginning only what comes, without an end for ever.
    let since = args.since.map_or_else(now, |since| since.millis());
    let until = args.until.map(|until| until.millis());
    let mut out = io::stdout();
    loop {
        // Before the journal, so that nothing that happened in time is left out.
        let over = until.is_some_and(|until| until < now());
        while let Some(event) = journal.read()? {
            let in_time = event.time >= since && until.is_none_or(|until| event.time <= until);
            if !in_time || !filters.take(&event) {
                continue;
            }
            let line = match args.format {
                Format::Json => serde_json::to_string(&event)?,
                Format::Table => row(&event),
            };
            // In one write: a line is whole whenever this ends.
            match out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Ok(ExitCode::SUCCESS);
                }
                written => written?,
            }
        }
        if over || has_no_reader(&out) {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Waits a moment, and says whether nobody reads what is printed any more.
fn has_no_reader(out: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(out, PollFlags::empty())];
    match poll(&mut fds, Some(&AGAIN)) {
        // The end of a pipe that nobody reads (poll(2)), or of a terminal that was closed.
        Ok(1..) => {
            let gone = fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP);
            if !gone {
                std::thread::sleep(Duration::from_millis(100));
            }
            gone
        }
        _ => false,
    }
}

/// An event as a person reads it. Columns keep their width, as nothing is known of those to come.
fn row(event: &Event) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(event.time)).unwrap_or(UNIX_EPOCH);
    let time = humantime::format_rfc3339_millis(time);
    let details: Vec<_> =
        event.details.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let details = details.join(" ");
    // What the guest had a say in stays on its line.
    let plain = details.chars().map(|one| if one.is_control() { ' ' } else { one });
    let details: String = plain.take(MOST_DETAILS).collect();
    let row = format!("{time}  {:12}  {:12}  {:20}  {details}", event.event, event.id, event.name);
    row.trim_end().to_owned()
}

#[cfg(test)]
mod events_test {
    use super::*;

    #[test]
    fn a_row_is_one_line_whatever_the_details() {
        let mut event = Event {
            time: 1_000,
            event: "exited".into(),
            id: "0123456789ab".into(),
            name: "web".into(),
            ..Event::default()
        };
        event.details.insert("message".into(), format!("a\nb\x1b[2J{}", "x".repeat(1000)));
        let row = row(&event);
        assert!(
            row.starts_with("1970-01-01T00:00:01.000Z  exited        0123456789ab  web"),
            "{row}"
        );
        assert!(!row.contains(['\n', '\x1b']) && row.len() < 300, "{row}");
    }
}
