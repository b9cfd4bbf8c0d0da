//! `carve why`: what one VM of a host file gets, and why that.

use std::fmt::Write;
use std::process::ExitCode;

use resources::config;
use resources::config::host::{CpuShare, Guest, HostConfig};
use resources::plan::{Allocation, Cgroup, HostCpus, Options, Owner, Placed, Plan};
use serde::Serialize;

use super::host_file;
use super::plan::{NoSuchVm, problems};
use crate::cli::Format;
use crate::cli::host::WhyArgs;
use crate::exit;

/// The answer as JSON. Fields are only ever added within a version.
#[derive(Debug, Serialize)]
struct Report<'a> {
    version: u32,
    vm: &'a Guest,
    allocation: &'a Allocation,
    cgroup: Option<&'a Cgroup>,
}

/// Explains a VM's share.
///
/// # Errors
///
/// Files or host cannot be read, or what stands in the VM's way.
pub fn run(args: &WhyArgs) -> Result<ExitCode, super::Error> {
    let (layers, config) = host_file::load(&args.host_file)?;
    let host = host_file::host(&args.for_host, &config)?;
    let present = host_file::present(&args.for_host)?;
    let plan = resources::plan::plan(&config, &host, &present, Options::default());
    let guest = config.guests.get(&args.vm).ok_or_else(|| NoSuchVm { name: args.vm.clone() })?;
    let in_its_way: Vec<_> = plan
        .conflicts
        .iter()
        .filter(|conflict| conflict.vms.contains(&args.vm))
        .map(|conflict| layers.problem(conflict))
        .collect();
    if !in_its_way.is_empty() {
        return Err(config::Error { problems: in_its_way }.into());
    }
    let Some(allocation) = plan.allocations.get(&args.vm) else {
        return Err(config::Error { problems: problems(&layers, &plan) }.into());
    };
    let cgroup = plan.cgroups.iter().find(|group| group.owner == Owner::Vm(args.vm.clone()));
    let text = match args.format {
        Format::Json => {
            let report = Report { version: 1, vm: guest, allocation, cgroup };
            serde_json::to_string_pretty(&report)? + "\n"
        }
        Format::Table => explain(&config, &plan, guest, allocation, cgroup),
    };
    Ok(exit::print(text.as_bytes()))
}

fn explain(
    config: &HostConfig,
    plan: &Plan,
    guest: &Guest,
    allocation: &Allocation,
    cgroup: Option<&Cgroup>,
) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:12}{value}");
    };
    line("VM", guest.name.to_string());
    match allocation.tenant.as_ref().and_then(|name| Some((name, config.tenants.get(name)?))) {
        Some((name, tenant)) => line(
            "tenant",
            format!("{name}, which reserves {} CPUs and {} of memory", tenant.cpus, tenant.memory),
        ),
        None => line("tenant", "none: it takes from what the host does not keep".to_owned()),
    }
    match &allocation.cpus {
        HostCpus::Dedicated { cpus, pins, workers, nodes, placed } => {
            line("CPUs", format!("{cpus}, on NUMA node {nodes}, for itself"));
            line("", placement(guest, *placed, cpus.len()));
            for (vcpu, cpu) in pins.iter().enumerate() {
                line("", format!("vCPU {vcpu} on CPU {cpu}"));
            }
            line("threads", format!("other threads of its VMM on CPUs {workers}"));
        }
        HostCpus::Shared { cpus, min, max } => {
            line("CPUs", format!("{min} to {max} of the shared CPUs {cpus}"));
            let why = "those that no VM has for itself";
            let apart = if allocation.core_scheduling {
                ", its cores never with another tenant at a time"
            } else {
                ""
            };
            line("", format!("{why}{apart}"));
            line(
                "vCPUs",
                format!(
                    "{}, of {} that host.overcommit.cpu allows",
                    guest.vm.vcpus, plan.capacity.vcpus.physical
                ),
            );
        }
    }
    let memory = &allocation.memory;
    line("memory", format!("{}, {} of it guaranteed", memory.size, memory.min));
    line("", format!("{} more, the bound of what its VMM needs", memory.overhead));
    if let Some(page) = memory.hugepages {
        line("", format!("in huge pages of {page}, which memory.max does not count"));
    }
    line("cgroup", format!("/sys/fs/cgroup/{}", allocation.cgroup));
    for (file, content) in cgroup.map(Cgroup::files).unwrap_or_default() {
        line("", format!("{file} = {content}"));
    }
    line("", format!("oom_score_adj = {} of its processes", allocation.oom_score_adj));
    for controller in &allocation.unenforced {
        line("", format!("limits of {controller} are not enforced: the controller is missing"));
    }
    text
}

fn placement(guest: &Guest, placed: Placed, count: u32) -> String {
    let (asked, workers) = match guest.cpu {
        CpuShare::Dedicated { workers, .. } => (guest.vm.vcpus + workers, workers),
        CpuShare::Shared { .. } => (guest.vm.vcpus, 0),
    };
    let mut text = format!("{} vCPUs and {workers} workers", guest.vm.vcpus);
    if count > asked {
        let _ = write!(
            text,
            ", {} CPUs more to fill up cores, which no one else may use",
            count - asked
        );
    }
    text + match placed {
        Placed::Pinned => "; the file names them",
        Placed::OneNode if matches!(guest.cpu, CpuShare::Dedicated { numa: Some(_), .. }) => {
            "; the file names the node"
        }
        Placed::OneNode => "; the node with the least room of those that have enough",
        Placed::Spread => "; no node has room for all of them",
    }
}
