//! `carve stats`: what running guests use, again every second.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, Table, presets};
use resources::Size;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::tcgetwinsize;
use serde::Serialize;
use vmm::guests::report::List;
use vmm::guests::{State, Store};

use crate::cli::Format;
use crate::cli::guests::StatsArgs;

mod rates;
mod watch;

pub use watch::{Seen, Watch, Which};

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// One guest as JSON. Fields are only ever added within a version. Numbers are of bytes, and of bytes a second, where they do not say otherwise; one that is
/// not known is left out.
#[derive(Debug, Serialize)]
struct Row<'a> {
    id: &'a str,
    name: &'a str,
    state: State,
    vcpus: u32,
    memory: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_held: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_used: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    balloon: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_read: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_written: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    net_received: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    net_sent: Option<u64>,
}

/// Shows the guests until somebody interrupts, or once.
///
/// # Errors
///
/// There is no place for guests, or one that was named is not there.
pub fn run(args: &StatsArgs) -> Result<ExitCode, super::Error> {
    let which = match args.guests.as_slice() {
        [] => Which::Running,
        names => Which::Named(names.to_vec()),
    };
    let mut watch = Watch::new(Store::of_user()?, which);
    let mut out = io::stdout();
    let live = out.is_terminal() && !args.no_stream && matches!(args.format, Format::Table);
    let mut next = Instant::now() + INTERVAL;
    let first = watch.look()?;
    if live {
        // Rates come a second later; the rest need not wait for them.
        out.write_all(format!("\x1b[2J{}", screen(&table(&first))).as_bytes())?;
        out.flush()?;
    }
    loop {
        if has_no_reader_until(&out, next) {
            return Ok(ExitCode::SUCCESS);
        }
        next = Instant::now() + INTERVAL;
        let guests = watch.look()?;
        let text = match args.format {
            Format::Json => {
                let list = List::new(guests.iter().map(row).collect());
                format!("{}\n", serde_json::to_string(&list)?)
            }
            Format::Table if live => screen(&table(&guests)),
            Format::Table => table(&guests),
        };
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Ok(ExitCode::SUCCESS);
            }
            written => written?,
        }
        if args.no_stream {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Waits until `next`; true if nobody reads what is printed any more.
fn has_no_reader_until(out: &io::Stdout, next: Instant) -> bool {
    loop {
        let left = next.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let time = Timespec::try_from(left).ok();
        let mut fds = [PollFd::new(out, PollFlags::empty())];
        if let Ok(1..) = poll(&mut fds, time.as_ref()) {
            // The end of a pipe that nobody reads (poll(2)), or of a terminal that was closed.
            return fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP);
        }
    }
}

fn row(seen: &Seen) -> Row<'_> {
    let memory = seen.use_of_memory;
    let rates = seen.rates;
    Row {
        id: seen.id.as_str(),
        name: &seen.name,
        state: seen.state,
        vcpus: seen.vcpus,
        memory: seen.memory,
        memory_held: memory.map(|memory| memory.resident),
        memory_used: seen.used(),
        balloon: memory.map(|memory| memory.balloon),
        cpu_percent: rates.map(|rates| rates.cpu_percent),
        disk_read: rates.map(|rates| rates.disk_read),
        disk_written: rates.map(|rates| rates.disk_written),
        net_received: rates.map(|rates| rates.net_received),
        net_sent: rates.map(|rates| rates.net_sent),
    }
}

/// What columns of guests are called.
pub const COLUMNS: [&str; 9] =
    ["NAME", "STATE", "CPU %", "HELD / MEMORY", "USED", "READ/S", "WRITTEN/S", "IN/S", "OUT/S"];

/// One guest as a person reads it, in [`COLUMNS`].
pub fn cells(seen: &Seen) -> [String; 9] {
    let bytes = |count: Option<u64>| {
        count.map_or_else(|| "-".to_owned(), |count| Size::from_bytes(count).approximate())
    };
    let rate = |of: fn(&rates::Rates) -> u64| bytes(seen.rates.as_ref().map(of));
    let held = bytes(seen.use_of_memory.map(|memory| memory.resident));
    [
        seen.name.clone(),
        seen.state.to_string(),
        seen.rates.map_or_else(|| "-".to_owned(), |rates| format!("{:.1}", rates.cpu_percent)),
        format!("{held} / {}", bytes(Some(seen.memory))),
        bytes(seen.used()),
        rate(|rates| rates.disk_read),
        rate(|rates| rates.disk_written),
        rate(|rates| rates.net_received),
        rate(|rates| rates.net_sent),
    ]
}

fn table(guests: &[Seen]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(COLUMNS);
    for seen in guests {
        table.add_row(cells(seen));
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let lines: Vec<_> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    format!("{}\n", lines.join("\n"))
}

/// `table` over what the terminal shows, no longer than that.
fn screen(table: &str) -> String {
    let rows = tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_row));
    over(table, if rows == 0 { usize::MAX } else { rows })
}

fn over(table: &str, rows: usize) -> String {
    let count = table.lines().count();
    let mut lines: Vec<_> = table.lines().map(str::to_owned).collect();
    // The last row is the cursor's.
    if count >= rows {
        lines.truncate(rows.saturating_sub(2).max(1));
        lines.push(format!(" … {} more", count - lines.len()));
    }
    format!("\x1b[H{}\x1b[K\n\x1b[J", lines.join("\x1b[K\n"))
}

#[cfg(test)]
#[path = "stats/stats_test.rs"]
mod stats_test;
