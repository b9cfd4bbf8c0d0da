//! `xtask test`: every check of the project, one step after the other, with a summary at the end. A failed step does not
//! keep the others from running.

mod boots;
mod kinds;
mod report;
mod steps;
mod stream;

use std::time::{Duration, Instant};

use report::{Outcome, Report};
use steps::Steps;

use crate::workspace::Workspace;

/// Arguments of `xtask test`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The everyday loop: format, lints, unit tests, KVM tests and one boot of one kernel
    #[arg(long)]
    quick: bool,
    /// Run only these steps
    #[arg(long, value_delimiter = ',', value_name = "STEP,…")]
    only: Vec<Step>,
    /// Run only tests whose names contain this, in steps that consist of tests
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// How long to run each fuzz target (4, 5m, 1h)
    #[arg(long, value_name = "TIME", default_value = "4", value_parser = crate::host::parse_duration)]
    fuzz_seconds: Duration,
}

/// The steps, in the order they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Step {
    /// Source is formatted as rustfmt would
    Format,
    /// clippy has no complaint
    Lints,
    /// Documentation builds without complaint
    Docs,
    /// Tests that need no KVM
    Unit,
    /// Tiny guests on this machine's own KVM
    Kvm,
    /// Stock kernels on a KVM host, emulated where this machine is none
    Boot,
    /// The static binary builds, needs no library, and runs
    Static,
    /// The same for the musl target, where the toolchain has it
    Musl,
    /// Licences and sources of dependencies are acceptable
    Deny,
    /// Parsers of untrusted input withstand a fuzzer for a while
    Fuzz,
}

impl Step {
    const ALL: [Self; 10] = [
        Self::Format,
        Self::Lints,
        Self::Docs,
        Self::Unit,
        Self::Kvm,
        Self::Boot,
        Self::Static,
        Self::Musl,
        Self::Deny,
        Self::Fuzz,
    ];
    const QUICK: [Self; 5] = [Self::Format, Self::Lints, Self::Unit, Self::Kvm, Self::Boot];

    fn name(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Lints => "lints",
            Self::Docs => "docs",
            Self::Unit => "unit",
            Self::Kvm => "kvm",
            Self::Boot => "boot",
            Self::Static => "static",
            Self::Musl => "musl",
            Self::Deny => "deny",
            Self::Fuzz => "fuzz",
        }
    }
}

/// Runs the task; whether all is well.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> bool {
    let chosen: &[Step] = match (&arguments.only[..], arguments.quick) {
        ([], true) => &Step::QUICK,
        ([], false) => &Step::ALL,
        (only, _) => only,
    };
    let mut steps = Steps::new(workspace, arguments);
    let mut report = Report::default();
    for step in Step::ALL.into_iter().filter(|step| chosen.contains(step)) {
        eprintln!("xtask: {}", step.name());
        let start = Instant::now();
        let outcome = match step {
            Step::Format => steps.format(),
            Step::Lints => steps.lints(),
            Step::Docs => steps.docs(),
            Step::Unit => steps.unit(),
            Step::Kvm => steps.kvm(),
            Step::Boot => steps.boot(),
            Step::Static => steps.static_build(),
            Step::Musl => steps.musl(),
            Step::Deny => steps.deny(),
            Step::Fuzz => steps.fuzz(),
        };
        let outcome = outcome.unwrap_or_else(|error| {
            Outcome::Failed(report::Counts::default(), crate::chain(error.as_ref()))
        });
        report.add(step.name(), outcome, start.elapsed());
    }
    println!("\n{report}");
    report.good()
}
