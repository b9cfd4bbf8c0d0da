//! `carve apply`: a host as its file says.

use std::process::ExitCode;

use resources::config;
use resources::plan::ActionKind;
use serde::Serialize;
use vmm::guests::Store;
use vmm::ledger::{self, Applied, ApplyOptions, Step};

use super::{host_file, plan};
use crate::cli::Format;
use crate::cli::host::ApplyArgs;
use crate::exit;

/// The exit code when a VM is not as it is to be.
pub const FAILED: u8 = 1;

/// The answer as JSON. Fields are only ever added within a version.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    pub version: u32,
    pub steps: &'a [Step],
}

/// Applies the file.
///
/// # Errors
///
/// Files or host cannot be read, or the ledger or limits not be written.
pub fn run(args: &ApplyArgs) -> Result<ExitCode, super::Error> {
    let (layers, config) = match host_file::load(&args.host_file) {
        Ok(loaded) => loaded,
        Err(host_file::Error::Config(config::Error { problems })) => {
            return plan::show(None, &problems, args.format);
        }
        Err(error) => return Err(error.into()),
    };
    let options = ApplyOptions {
        prune: args.prune,
        volumes: args.volumes,
        timeout: args.stop.timeout(),
        kvm_device: std::path::absolute(&args.kvm.kvm_device)?,
    };
    let say = |step: &Step| {
        if args.format == Format::Table {
            tell(step);
        }
    };
    match ledger::apply(&Store::of_user()?, &config, &options, &say)? {
        Err(refused) => {
            let problems = plan::problems(&layers, &refused.plan);
            plan::show(Some(&refused.plan), &problems, args.format)
        }
        Ok(Applied { plan, steps }) => {
            if args.format == Format::Table {
                for note in &plan.notes {
                    exit::say(&format!("note: {note}"));
                }
                for action in plan.actions.iter().filter(|action| action.kind == ActionKind::Gone) {
                    exit::say(&format!(
                        "note: {} is not in the file; {}",
                        action.vm,
                        action.reasons.join("; ")
                    ));
                }
            }
            end(&steps, args.format)
        }
    }
}

/// Shows steps as JSON, and answers with the exit code of them all.
pub fn end(steps: &[Step], format: Format) -> Result<ExitCode, super::Error> {
    if format == Format::Json {
        let text = serde_json::to_string_pretty(&Report { version: 1, steps })? + "\n";
        let printed = exit::print(text.as_bytes());
        if printed != ExitCode::SUCCESS {
            return Ok(printed);
        }
    }
    let failed = steps.iter().any(|step| step.error.is_some());
    Ok(if failed { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}

/// Says what became of a VM, as soon as that is known.
pub fn tell(step: &Step) {
    let Step { vm, kind, error } = step;
    match error {
        Some(error) => exit::say(&format!("error: {vm}: {}: {error}", kind.as_str())),
        // Nobody may be left to read it; the others are acted on all the same.
        None => drop(exit::print(format!("{vm}: {}\n", done(*kind)).as_bytes())),
    }
}

fn done(kind: ActionKind) -> &'static str {
    match kind {
        ActionKind::Create => "created",
        ActionKind::Start => "started",
        ActionKind::Change => "changed",
        ActionKind::Restart => "restarted",
        ActionKind::Recreate => "made anew",
        ActionKind::Stop => "stopped",
        ActionKind::Remove => "removed",
        ActionKind::Gone | ActionKind::Refuse => "left alone",
    }
}
