//! `carve inventory`: what this host has to divide.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use resources::CpuSet;
use resources::inventory::Host;

use crate::cli::Format;
use crate::cli::host::InventoryArgs;
use crate::exit;

/// Prints the inventory.
///
/// # Errors
///
/// The host cannot be read.
pub fn run(args: &InventoryArgs) -> Result<ExitCode, super::Error> {
    let host = Host::read(Path::new("/"), &args.folder)?;
    let text = match args.format {
        Format::Json => serde_json::to_string_pretty(&host)? + "\n",
        Format::Table => table(&host),
    };
    Ok(exit::print(text.as_bytes()))
}

fn table(host: &Host) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:16}{value}");
    };
    let mut cores: BTreeMap<u32, u32> = BTreeMap::new();
    host.cpus.iter().for_each(|cpu| *cores.entry(cpu.core).or_default() += 1);
    let threads = cores.values().max().copied().unwrap_or(1);
    line(
        "CPUs",
        format!("{} online, {} cores of up to {threads} threads", host.online(), cores.len()),
    );
    if !host.offline.is_empty() {
        line("", format!("{} offline", host.offline));
    }
    line("memory", format!("{}, swap {}", host.memory.approximate(), host.swap.approximate()));
    for node in &host.nodes {
        let cpus: CpuSet =
            host.cpus.iter().filter(|cpu| cpu.node == node.id).map(|cpu| cpu.id).collect();
        line(
            &format!("NUMA node {}", node.id),
            format!("CPUs {cpus}, {}", node.memory.approximate()),
        );
        for pool in node.hugepages.iter().filter(|pool| pool.total > 0) {
            line("", format!("{} huge pages of {}, {} free", pool.total, pool.page, pool.free));
        }
    }
    let controllers: Vec<_> = host.controllers.iter().map(String::as_str).collect();
    let controllers = if controllers.is_empty() {
        "none of version 2".to_owned()
    } else {
        controllers.join(", ")
    };
    line("controllers", controllers);
    line(
        "core scheduling",
        if host.core_scheduling { "yes" } else { "not known to be there" }.to_owned(),
    );
    for (path, file_system) in &host.file_systems {
        let (size, free) = (file_system.size.approximate(), file_system.free.approximate());
        let device = file_system.device.as_deref().unwrap_or("none");
        line(
            "file system",
            format!("{}: {size}, {free} free, block device {device}", path.display()),
        );
    }
    text
}
