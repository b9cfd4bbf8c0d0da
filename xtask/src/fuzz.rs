//! `xtask fuzz`: the targets of `fuzz/`, all or some of them, for as long as one likes.

use std::error::Error;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::workspace::Workspace;
use crate::{cargo, files, process};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Arguments of `xtask fuzz`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Which; all where none is named
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// How long to go on, all targets together (10, 5m, 1h)
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = crate::host::parse_duration)]
    time: Duration,
}

/// Where to look after a failure.
pub const WHERE: &str = "the input is under fuzz/artifacts";

/// Runs the task; an error where something was found.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let all = targets(workspace)?;
    let chosen = if arguments.targets.is_empty() { &all } else { &arguments.targets };
    if let Some(unknown) = chosen.iter().find(|target| !all.contains(target)) {
        return Err(format!("there is no target {unknown}; there are {}", all.join(", ")).into());
    }
    install(workspace)?;
    let each = arguments.time / u32::try_from(chosen.len())?;
    let mut failed = Vec::new();
    for target in chosen {
        println!("xtask: {target}, for {} s", each.as_secs());
        if process::run(&mut command(workspace, target, each)?).is_err() {
            failed.push(target.as_str());
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("{}: {WHERE}", failed.join(", ")).into()) }
}

fn folder(workspace: &Workspace) -> PathBuf {
    workspace.root().join("fuzz")
}

/// The names of all targets.
pub fn targets(workspace: &Workspace) -> Result<Vec<String>> {
    let sources = files::list(&folder(workspace).join("src/bin"))?;
    let names = sources.iter().filter_map(|source| source.file_stem()?.to_str());
    Ok(names.map(str::to_owned).collect())
}

/// Makes sure there is cargo-fuzz.
pub fn install(workspace: &Workspace) -> std::result::Result<(), process::Error> {
    if process::find("cargo-fuzz").is_some() {
        return Ok(());
    }
    eprintln!("xtask: installing cargo-fuzz (a minute)");
    process::run(cargo::command(workspace).args(["install", "--quiet", "--locked", "cargo-fuzz"]))
}

/// What builds all targets, on all processors: one after the other takes twice as long.
pub fn build(workspace: &Workspace) -> Command {
    let mut command = cargo::command(workspace);
    command.args(["fuzz", "build"]);
    as_fuzzer(&mut command);
    command
}

/// What builds a target, where that was not done, and runs it for `time`, from what it found before and the seeds.
pub fn command(workspace: &Workspace, target: &str, time: Duration) -> Result<Command> {
    let folder = folder(workspace);
    let corpus = folder.join("corpus").join(target);
    files::create_dir(&corpus)?;
    let mut command = cargo::command(workspace);
    command.args(["fuzz", "run", target]).arg(corpus);
    let seeds = folder.join("seeds").join(target);
    if seeds.is_dir() {
        command.arg(seeds);
    }
    command.arg("--").arg(format!("-max_total_time={}", time.as_secs()));
    // Nothing here may take so many seconds: a guest could make it. Long inputs from the start: a run may be short.
    command.args(["-timeout=60", "-len_control=0", "-verbosity=0"]);
    as_fuzzer(&mut command);
    Ok(command)
}

fn as_fuzzer(command: &mut Command) {
    // The sanitizers are part of this toolchain too, behind what else needs a nightly one.
    command.env("RUSTC_BOOTSTRAP", "1").env_remove("CARGO_TARGET_DIR");
}
