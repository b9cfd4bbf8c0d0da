//! `carve ps`: the guests there are.

use std::process::ExitCode;

use comfy_table::{Table, presets};
use resources::Size;
use vmm::clock::now;
use vmm::explain;
use vmm::guests::report::{self, List, Summary};
use vmm::guests::{Filters, State, Store, life};

use crate::cli::Format;
use crate::cli::guests::PsArgs;
use crate::exit;

/// Prints the list. Guests whose processes were killed are put right on the way.
///
/// # Errors
///
/// There is no place for guests, or a filter is none.
pub fn run(args: &PsArgs) -> Result<ExitCode, super::Error> {
    let filters = Filters::parse(&args.filters)?;
    let mut listed = Vec::new();
    for found in life::look_at_all(&Store::of_user()?)? {
        match found {
            Ok(found) => listed.push(found),
            Err(error) => exit::say(&format!("warning: {}", explain(&error))),
        }
    }
    // Whoever asks for a state wants to see it.
    let all = args.all || filters.name_a_state();
    listed.retain(|(entry, status)| {
        let shown = all || status.vmm.is_some() || status.state == State::Restarting;
        shown && filters.take(&entry.guest, status.state)
    });
    let guests = listed.iter().map(|(entry, status)| Summary::of(entry, status));
    let text = match args.format {
        _ if args.quiet => guests.map(|guest| format!("{}\n", guest.id)).collect(),
        Format::Json => {
            format!("{}\n", serde_json::to_string_pretty(&List::new(guests.collect()))?)
        }
        Format::Table => table(guests),
    };
    Ok(exit::print(text.as_bytes()))
}

fn table(guests: impl Iterator<Item = Summary>) -> String {
    let now = now();
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["ID", "NAME", "STATUS", "VCPUS", "MEMORY", "KERNEL", "CREATED"]);
    for guest in guests {
        table.add_row([
            guest.id,
            guest.name,
            guest.status,
            guest.vcpus.to_string(),
            Size::from_bytes(guest.memory).to_string(),
            guest.kernel,
            format!("{} ago", report::ago(guest.created_at, now)),
        ]);
    }
    let lines: Vec<_> = table.lines().map(|line| line.trim().to_owned()).collect();
    format!("{}\n", lines.join("\n"))
}
