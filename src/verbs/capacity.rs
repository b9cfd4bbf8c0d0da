//! `carve capacity`: what of a host is promised, and what still fits.

use std::fmt::Write;
use std::process::ExitCode;

use resources::config::{self, Name};
use resources::plan::{Amounts, Capacity, Options, how_many_more, plan};
use resources::{Size, Thousandths};
use serde::Serialize;
use vmm::ledger::{Part, Used};

use super::host_file;
use super::plan::{NoSuchVm, problems};
use crate::cli::Format;
use crate::cli::host::CapacityArgs;
use crate::exit;

/// The answer as JSON. Fields are only ever added within a version.
#[derive(Debug, Serialize)]
struct Report<'a> {
    version: u32,
    #[serde(flatten)]
    capacity: &'a Capacity,
    /// What is used; not known of another host.
    #[serde(skip_serializing_if = "Option::is_none")]
    used: Option<&'a Used>,
    /// How many more VMs like the one asked for fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    more: Option<u32>,
}

/// Prints what is left.
///
/// # Errors
///
/// Files or host cannot be read, or the file does not fit to begin with.
pub fn run(args: &CapacityArgs) -> Result<ExitCode, super::Error> {
    let (layers, config) = host_file::load(&args.host_file)?;
    let host = host_file::host(&args.for_host, &config)?;
    let present = host_file::present(&args.for_host)?;
    let plan = plan(&config, &host, &present, Options::default());
    if !plan.is_admitted() {
        return Err(config::Error { problems: problems(&layers, &plan) }.into());
    }
    let more = match &args.like {
        None => None,
        Some(name) => {
            let of_section = || config.guests.values().find(|guest| guest.section == *name);
            let guest = config.guests.get(name).or_else(of_section);
            let guest = guest.ok_or_else(|| NoSuchVm { name: name.clone() })?;
            Some(how_many_more(&config, &host, &present, guest))
        }
    };
    let here = args.for_host.inventory.is_none();
    let used = here.then(|| Used::look(&plan, &present));
    let used = used.as_ref();
    let text = match args.format {
        Format::Json => {
            let report = Report { version: 1, capacity: &plan.capacity, used, more };
            serde_json::to_string_pretty(&report)? + "\n"
        }
        Format::Table => {
            let mut text = table(&plan.capacity, used);
            if let (Some(name), Some(more)) = (&args.like, more) {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{more} more VMs like {name} fit.");
            }
            text
        }
    };
    Ok(exit::print(text.as_bytes()))
}

/// A row of the table: what it is about, and the amounts as they are shown.
type Row = [String; 6];

fn table(capacity: &Capacity, used: Option<&Used>) -> String {
    let cpus = |amount: u64| Thousandths::from_thousandths(amount).to_string();
    let bytes = |amount: u64| Size::from_bytes(amount).approximate();
    let number = |amount: u64| amount.to_string();
    let mut rows: Vec<Row> =
        vec![["", "PHYSICAL", "RESERVED", "PROMISED", "USED", "LEFT"].map(str::to_owned)];
    let mut row =
        |name: String, amounts: &Amounts, used: Option<u64>, show: &dyn Fn(u64) -> String| {
            let Amounts { physical, reserved, promised, left } = *amounts;
            let used = used.map_or_else(|| "-".to_owned(), show);
            let [physical, reserved, promised, left] =
                [physical, reserved, promised, left].map(show);
            rows.push([name, physical, reserved, promised, used, left]);
        };
    let all = used.map(|used| &used.all);
    let stored = |part: Option<&Part>, pool: &Name| {
        part.map(|part| part.storage.get(pool).copied().unwrap_or(0))
    };
    row("CPUs".into(), &capacity.cpus, all.map(|all| all.cpus), &cpus);
    row("shared vCPUs".into(), &capacity.vcpus, None, &number);
    row("memory".into(), &capacity.memory, all.map(|all| all.memory), &bytes);
    for (page, amounts) in &capacity.hugepages {
        row(format!("pages of {page}"), amounts, None, &number);
    }
    for (name, amounts) in &capacity.pools {
        row(format!("pool {name}"), amounts, stored(all, name), &bytes);
    }
    for (name, tenant) in &capacity.tenants {
        let part = used.and_then(|used| used.tenants.get(name));
        row(format!("{name}: CPUs"), &tenant.cpus, part.map(|part| part.cpus), &cpus);
        row(format!("{name}: memory"), &tenant.memory, part.map(|part| part.memory), &bytes);
        for (pool, amounts) in &tenant.storage {
            row(format!("{name}: pool {pool}"), amounts, stored(part, pool), &bytes);
        }
    }
    if let Some(Used { others, .. }) = used {
        let mut row = |name: &str, used: String| {
            let none = || "-".to_owned();
            rows.push([name.to_owned(), none(), none(), none(), used, none()]);
        };
        row("not of Carve's: CPUs", cpus(others.cpus));
        row("not of Carve's: memory", bytes(others.memory));
    }
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let [name, amounts @ ..] = row;
        let _ = write!(text, "{name:0$}", widths[0]);
        for (amount, width) in amounts.iter().zip(&widths[1..]) {
            let _ = write!(text, "  {amount:>width$}");
        }
        text.push('\n');
    }
    let largest = &capacity.largest;
    let _ = writeln!(
        text,
        "\nThe largest VM without a tenant that still fits: {} of memory with its VMM; {} shared vCPUs with up to {} CPUs \
         guaranteed, or {} dedicated CPUs ({} on one NUMA node).",
        bytes(largest.memory),
        largest.vcpus,
        cpus(largest.cpu_min),
        largest.dedicated,
        largest.dedicated_on_a_node
    );
    text
}
