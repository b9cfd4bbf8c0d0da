//! The `carve` command: reads its arguments, runs one verb, answers with an exit code.
//!
//! What a verb does stands in its own file under `verbs/`; what a VM is, in the
//! libraries. Here is only the way in and out.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod cli;
mod exit;
mod log;
mod terminal;
mod verbs;

use std::process::ExitCode;
use std::time::Instant;

use cli::Verb;

fn main() -> ExitCode {
    let start = Instant::now();
    if verbs::completions::answer() {
        return ExitCode::SUCCESS;
    }
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(refused) => return refused,
    };
    if let Err(error) = log::init(&cli.log) {
        return exit::own_error(&error);
    }
    let done = match cli.verb {
        Verb::Run(args) => return verbs::run::run(&args, start),
        Verb::Create(args) => verbs::create::run(&args),
        Verb::Start(args) => verbs::start::run(&args),
        Verb::Stop(args) => verbs::stop::run(&args),
        Verb::Restart(args) => verbs::restart::run(&args),
        Verb::Kill(args) => verbs::kill::run(&args),
        Verb::Pause(args) => verbs::pause::run(&args.which, true),
        Verb::Unpause(args) => verbs::pause::run(&args.which, false),
        Verb::Rm(args) => verbs::rm::run(&args),
        Verb::Ps(args) => verbs::ps::run(&args),
        Verb::Inspect(args) => verbs::inspect::run(&args),
        Verb::Serve(args) => verbs::serve::run(&args),
        Verb::ApiSpec(args) => verbs::api_spec::run(&args),
        Verb::Metrics => verbs::metrics::run(),
        Verb::Logs(args) => verbs::logs::run(&args),
        Verb::Attach(args) => verbs::attach::run(&args),
        Verb::Events(args) => verbs::events::run(&args),
        Verb::Wait(args) => verbs::wait::run(&args),
        Verb::Rename(args) => verbs::rename::run(&args),
        Verb::Update(args) => verbs::update::run(&args),
        Verb::Stats(args) => verbs::stats::run(&args),
        Verb::Tui => verbs::tui::run(),
        Verb::Prune(args) => verbs::prune::run(&args),
        Verb::Monitor(args) => verbs::monitor::run(&args),
        Verb::Vmm(args) => return verbs::vmm::run(&args, start),
        Verb::Plan(args) => verbs::plan::run(&args),
        Verb::Apply(args) => verbs::apply::run(&args),
        Verb::Down(args) => verbs::down::run(&args),
        Verb::Verify(args) => verbs::verify::run(&args),
        Verb::Enter(args) => verbs::enter::run(&args),
        Verb::Capacity(args) => verbs::capacity::run(&args),
        Verb::Why(args) => verbs::why::run(&args),
        Verb::Inventory(args) => verbs::inventory::run(&args),
        Verb::Config(args) => verbs::config::run(&args),
        Verb::Schema(args) => verbs::schema::run(&args),
        Verb::Doctor(args) => verbs::doctor::run(&args),
        Verb::Completions(args) => verbs::completions::run(&args),
        Verb::Man(args) => verbs::man::run(&args),
    };
    done.unwrap_or_else(|error| exit::own_error(error.as_ref()))
}
