//! `carve ps`: the guests there are.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use comfy_table::{Table, presets};
use resources::Size;
use serde::Serialize;
use vmm::explain;
use vmm::guests::{Entry, State, Status, Store, life};

use crate::cli::Format;
use crate::cli::guests::PsArgs;
use crate::exit;

mod filter;

use filter::Filters;

/// The list as JSON. Fields are only ever added within a version.
#[derive(Debug, Serialize)]
struct List<'a> {
    version: u32,
    guests: Vec<Row<'a>>,
}

/// One guest in the list.
#[derive(Debug, Serialize)]
struct Row<'a> {
    id: &'a str,
    name: &'a str,
    state: State,
    /// The state in a few words.
    status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    vcpus: u32,
    /// In bytes.
    memory: u64,
    kernel: String,
    /// Milliseconds since 1970.
    created_at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<u8>,
    restarts: u32,
    labels: &'a std::collections::BTreeMap<String, String>,
}

/// Prints the list. Guests whose processes were killed are put right on the way.
///
/// # Errors
///
/// There is no place for guests, or a filter is none.
pub fn run(args: &PsArgs) -> Result<ExitCode, super::Error> {
    let filters = Filters::parse(&args.filters)?;
    let store = Store::of_user()?;
    let mut listed = Vec::new();
    for entry in store.entries()? {
        let found = entry.map_err(life::Error::from).and_then(|mut entry| {
            let status = life::repair(&store, &mut entry)?;
            Ok(status.map(|status| (entry, status)))
        });
        match found {
            Ok(Some(found)) => listed.push(found),
            Ok(None) => {}
            Err(error) => exit::say(&format!("warning: {}", explain(&error))),
        }
    }
    // Whoever asks for a state wants to see it.
    let all = args.all || filters.name_a_state();
    listed.retain(|(entry, status)| {
        let shown = all || status.vmm.is_some() || status.state == State::Restarting;
        shown && filters.take(&entry.guest, status.state)
    });
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let rows = listed.iter().map(|(entry, status)| row(entry, status, now));
    let text = match args.format {
        _ if args.quiet => rows.map(|row| format!("{}\n", row.id)).collect(),
        Format::Json => {
            let list = List { version: 1, guests: rows.collect() };
            format!("{}\n", serde_json::to_string_pretty(&list)?)
        }
        Format::Table => table(rows, now),
    };
    Ok(exit::print(text.as_bytes()))
}

fn row<'a>(entry: &'a Entry, status: &Status, now: Duration) -> Row<'a> {
    let guest = &entry.guest;
    let record = status.record.as_ref();
    let ended = record.and_then(|record| record.ended.as_ref());
    Row {
        id: guest.id.as_str(),
        name: &guest.name,
        state: status.state,
        status: words(status, now),
        pid: status.pid().map(|pid| pid.as_raw_nonzero().get()),
        vcpus: guest.config.vcpus,
        memory: guest.config.memory.size.bytes(),
        kernel: guest.config.kernel.display().to_string(),
        created_at: guest.created_at,
        started_at: record.map(|record| record.started_at),
        exit_code: ended.map(|ended| ended.exit_code).filter(|_| status.vmm.is_none()),
        restarts: record.map_or(0, |record| record.restarts),
        labels: &guest.labels,
    }
}

/// The status as a person says it.
fn words(status: &Status, now: Duration) -> String {
    let record = status.record.as_ref();
    let up = || record.map_or_else(String::new, |record| ago(record.started_at, now));
    let ended = record.and_then(|record| record.ended.as_ref());
    match (status.state, ended) {
        (State::Created, _) => "Created".to_owned(),
        (State::Running, _) => format!("Up {}", up()),
        (State::Paused, _) => format!("Up {} (Paused)", up()),
        (State::Restarting, Some(ended)) => {
            format!("Restarting ({}) {} ago", ended.exit_code, ago(ended.at, now))
        }
        (State::Exited, Some(ended)) => {
            format!("Exited ({}) {} ago", ended.exit_code, ago(ended.at, now))
        }
        (State::Restarting, None) => "Restarting".to_owned(),
        (State::Exited, None) => "Exited".to_owned(),
    }
}

/// The time since `millis`, in its largest unit.
fn ago(millis: u64, now: Duration) -> String {
    let seconds = now.saturating_sub(Duration::from_millis(millis)).as_secs();
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..172_800 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

fn table<'a>(rows: impl Iterator<Item = Row<'a>>, now: Duration) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["ID", "NAME", "STATUS", "VCPUS", "MEMORY", "KERNEL", "CREATED"]);
    for row in rows {
        table.add_row([
            row.id.to_owned(),
            row.name.to_owned(),
            row.status,
            row.vcpus.to_string(),
            Size::from_bytes(row.memory).to_string(),
            row.kernel,
            format!("{} ago", ago(row.created_at, now)),
        ]);
    }
    let lines: Vec<_> = table.lines().map(|line| line.trim().to_owned()).collect();
    format!("{}\n", lines.join("\n"))
}

#[cfg(test)]
mod ps_test {
    use super::*;

    #[test]
    fn times_are_told_in_their_largest_unit() {
        let at = |seconds: u64| ago(1000, Duration::from_secs(1 + seconds));
        assert_eq!(
            (at(0).as_str(), at(1).as_str(), at(59).as_str()),
            ("0 seconds", "1 second", "59 seconds")
        );
        assert_eq!((at(60).as_str(), at(7200).as_str()), ("1 minute", "2 hours"));
        assert_eq!(at(200_000), "2 days");
        assert_eq!(ago(5000, Duration::from_secs(1)), "0 seconds", "a clock that went back");
    }
}
