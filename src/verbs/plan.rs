//! `carve plan`: what a host file makes of a host, without doing it.

use std::fmt::Write;
use std::process::ExitCode;

use resources::config::host::Layers;
use resources::config::{self, Name, Problem};
use resources::plan::{Action, ActionKind, Allocation, HostCpus, Options, Plan, Present};
use serde::Serialize;
use vmm::guests::Store;
use vmm::ledger;

use super::host_file;
use crate::cli::Format;
use crate::cli::host::PlanArgs;
use crate::exit;

/// What `plan` answers with, beside 0 and 125.
const REFUSED: u8 = 1;
const CHANGES: u8 = 2;

/// The plan as JSON. Fields are only ever added within a version.
#[derive(Debug, Serialize)]
struct Report<'a> {
    version: u32,
    admitted: bool,
    problems: &'a [Problem],
    #[serde(flatten)]
    plan: Option<&'a Plan>,
}

/// Prints the plan.
///
/// # Errors
///
/// Files or host cannot be read.
pub fn run(args: &PlanArgs) -> Result<ExitCode, super::Error> {
    let (layers, config) = match host_file::load(&args.host_file) {
        Ok(loaded) => loaded,
        // A wrong file is refused like one that does not fit.
        Err(host_file::Error::Config(config::Error { problems })) => {
            return show(None, &problems, args.format);
        }
        Err(error) => return Err(error.into()),
    };
    let host = host_file::host(&args.for_host, &config)?;
    let plan = match &args.for_host.inventory {
        // What is booked here means nothing there.
        Some(_) => {
            let options = Options { prune: args.prune };
            resources::plan::plan(&config, &host, &Present::default(), options)
        }
        None => ledger::plan(&Store::of_user()?, &config, &host, args.prune, args.volumes)?,
    };
    show(Some(&plan), &problems(&layers, &plan), args.format)
}

/// The conflicts of `plan` with their places, in the order of the file.
pub fn problems(layers: &Layers, plan: &Plan) -> Vec<Problem> {
    let mut problems: Vec<_> =
        plan.conflicts.iter().map(|conflict| layers.problem(conflict)).collect();
    problems.sort_by_key(|problem| {
        problem.location.as_ref().map(|at| (at.path.clone(), at.line, at.column))
    });
    problems
}

/// Says what stands in the way, and what would be done.
pub fn show(
    plan: Option<&Plan>,
    problems: &[Problem],
    format: Format,
) -> Result<ExitCode, super::Error> {
    let text = match format {
        Format::Json => {
            let report = Report { version: 1, admitted: problems.is_empty(), problems, plan };
            serde_json::to_string_pretty(&report)? + "\n"
        }
        Format::Table => {
            problems.iter().for_each(|problem| exit::say(&format!("error: {problem}")));
            plan.map(table).unwrap_or_default()
        }
    };
    let printed = exit::print(text.as_bytes());
    Ok(match (plan, problems) {
        _ if printed != ExitCode::SUCCESS => printed,
        (Some(plan), []) if plan.has_changes() => ExitCode::from(CHANGES),
        (Some(_), []) => ExitCode::SUCCESS,
        _ => ExitCode::from(REFUSED),
    })
}

fn table(plan: &Plan) -> String {
    let mut text = String::new();
    let widest = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0);
    let names = widest(&mut plan.actions.iter().map(|action| action.vm.len()));
    let kinds = widest(&mut plan.actions.iter().map(|action| action.kind.as_str().len()));
    for action in &plan.actions {
        let kind = action.kind.as_str();
        let what = reason(action, plan.allocations.get(&action.vm));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:names$}  {kind:kinds$}  {what}", action.vm.as_str());
    }
    for note in &plan.notes {
        let _ = writeln!(text, "note: {note}");
    }
    let summary = summary(plan);
    let gap = if text.is_empty() { "" } else { "\n" };
    let _ = writeln!(text, "{gap}{summary}");
    text
}

fn reason(action: &Action, allocation: Option<&Allocation>) -> String {
    match (action.kind, allocation) {
        (ActionKind::Create, Some(allocation)) => describe(allocation),
        _ => action.reasons.join("; "),
    }
}

/// What a VM gets, in a line.
pub fn describe(allocation: &Allocation) -> String {
    let cpus = match &allocation.cpus {
        HostCpus::Dedicated { cpus, nodes, .. } => {
            format!("CPUs {cpus} of node {nodes} for itself")
        }
        HostCpus::Shared { cpus, min, max } => format!("{min} to {max} of the shared CPUs {cpus}"),
    };
    let memory = &allocation.memory;
    let mut text = format!("{cpus}; memory {}", memory.size);
    if memory.min < memory.size {
        let _ = write!(text, ", {} guaranteed", memory.min);
    }
    if let Some(page) = memory.hugepages {
        let _ = write!(text, " in pages of {page}");
    }
    let _ = write!(text, ", {} for the VMM", memory.overhead.approximate());
    if !allocation.unenforced.is_empty() {
        let missing: Vec<_> = allocation.unenforced.iter().copied().collect();
        let _ = write!(text, "; not enforced: {}", missing.join(", "));
    }
    text
}

fn summary(plan: &Plan) -> String {
    let count = |kind: ActionKind| plan.actions.iter().filter(|action| action.kind == kind).count();
    let kinds = [
        ActionKind::Create,
        ActionKind::Start,
        ActionKind::Change,
        ActionKind::Restart,
        ActionKind::Recreate,
        ActionKind::Stop,
        ActionKind::Remove,
        ActionKind::Gone,
        ActionKind::Refuse,
    ];
    let parts: Vec<String> = kinds
        .into_iter()
        .filter(|&kind| count(kind) > 0)
        .map(|kind| format!("{} {}", count(kind), kind.as_str()))
        .collect();
    match (plan.is_admitted(), parts.is_empty()) {
        (false, _) => {
            format!("Refused: see the errors. {}", parts.join(", ")).trim_end().to_owned()
        }
        (true, true) => "Nothing to do.".to_owned(),
        (true, false) => {
            format!("{}. Nothing has been done; carve apply does it.", parts.join(", "))
        }
    }
}

/// The VM is not one of the plan.
#[derive(Debug, thiserror::Error)]
#[error("there is no VM {name} in the plan; see carve plan for those there are")]
pub struct NoSuchVm {
    pub name: Name,
}
