//! `carve capacity`: what of a host is promised, and what still fits.

use std::fmt::Write;
use std::process::ExitCode;

use resources::config;
use resources::plan::{Amounts, Capacity, Options, how_many_more, plan};
use resources::{Size, Thousandths};
use serde::Serialize;

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
    let text = match args.format {
        Format::Json => {
            let report = Report { version: 1, capacity: &plan.capacity, more };
            serde_json::to_string_pretty(&report)? + "\n"
        }
        Format::Table => {
            let mut text = table(&plan.capacity);
            if let (Some(name), Some(more)) = (&args.like, more) {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{more} more VMs like {name} fit.");
            }
            text
        }
    };
    Ok(exit::print(text.as_bytes()))
}

fn table(capacity: &Capacity) -> String {
    let cpus = |amount: u64| Thousandths::from_thousandths(amount).to_string();
    let bytes = |amount: u64| Size::from_bytes(amount).approximate();
    let mut rows: Vec<[String; 5]> =
        vec![["", "PHYSICAL", "RESERVED", "PROMISED", "LEFT"].map(str::to_owned)];
    let mut row = |name: String, amounts: &Amounts, show: &dyn Fn(u64) -> String| {
        let Amounts { physical, reserved, promised, left } = *amounts;
        let [physical, reserved, promised, left] = [physical, reserved, promised, left].map(show);
        rows.push([name, physical, reserved, promised, left]);
    };
    let number = |amount: u64| amount.to_string();
    row("CPUs".into(), &capacity.cpus, &cpus);
    row("shared vCPUs".into(), &capacity.vcpus, &number);
    row("memory".into(), &capacity.memory, &bytes);
    for (page, amounts) in &capacity.hugepages {
        row(format!("pages of {page}"), amounts, &number);
    }
    for (name, amounts) in &capacity.pools {
        row(format!("pool {name}"), amounts, &bytes);
    }
    for (name, tenant) in &capacity.tenants {
        row(format!("{name}: CPUs"), &tenant.cpus, &cpus);
        row(format!("{name}: memory"), &tenant.memory, &bytes);
        for (pool, amounts) in &tenant.storage {
            row(format!("{name}: pool {pool}"), amounts, &bytes);
        }
    }
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..5).map(width).collect();
    let mut text = String::new();
    for [name, physical, reserved, promised, left] in &rows {
        let [a, b, c, d, e] = [widths[0], widths[1], widths[2], widths[3], widths[4]];
        let _ =
            writeln!(text, "{name:a$}  {physical:>b$}  {reserved:>c$}  {promised:>d$}  {left:>e$}");
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
