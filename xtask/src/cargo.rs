//! Asking cargo to build, and where it put what it built.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::process;
use crate::workspace::Workspace;

/// Why a build gave nothing to run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// cargo said so.
    #[error("{command} failed: see its messages above")]
    Build {
        /// The command line.
        command: String,
    },
    /// cargo did not build what was asked for.
    #[error("{command} built no program called {name}")]
    NoProgram {
        /// The command line.
        command: String,
        /// The program's name.
        name: String,
    },
    /// cargo could not be run.
    #[error(transparent)]
    Process(#[from] process::Error),
}

/// How to optimise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Quick to build.
    Dev,
    /// What users get.
    Release,
}

/// A program with tests in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestBinary {
    /// Package the tests belong to.
    pub package: String,
    /// Folder of the package, where its tests expect to be run.
    pub directory: PathBuf,
    /// Name of the target.
    pub name: String,
    /// Whether this is a target of its own under `tests/`, not the unit tests of a library or program.
    pub integration: bool,
    /// The program.
    pub path: PathBuf,
}

/// cargo, in the workspace, with the toolchain it names.
pub fn command(workspace: &Workspace) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace.root());
    command
}

/// The target of release binaries where the portable one, musl, is not asked for, and the variable with the compiler
/// flags for it.
const GNU: &str = "x86_64-unknown-linux-gnu";
const GNU_FLAGS: &str = "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS";

/// Manifest of the bare-metal program of benchmarks, which is a workspace of its own.
pub const PAYLOAD: &str = "xtask/payload/Cargo.toml";

/// Builds the `carve` program; a release is always fully static. `target` is another than the machine's own.
///
/// The target is named even where it is the machine's own: only then do the flags leave procedural macros alone, which
/// cannot be static.
pub fn build_carve(
    workspace: &Workspace,
    profile: Profile,
    target: Option<&str>,
) -> Result<PathBuf, Error> {
    const NAME: &str = "carve";
    let mut command = command(workspace);
    command.args(["build", "--package", NAME, "--bin", NAME]);
    if profile == Profile::Release {
        command.args(["--release", "--target", target.unwrap_or(GNU)]);
        command.env(GNU_FLAGS, "-C target-feature=+crt-static");
    }
    let shown = process::shown(&command);
    artifacts(&mut command)?
        .into_iter()
        .find(|artifact| artifact.target.name == NAME)
        .and_then(|artifact| artifact.executable)
        .ok_or_else(|| Error::NoProgram { command: shown, name: NAME.to_owned() })
}

/// A command of cargo's for the bare-metal program.
pub fn for_payload(workspace: &Workspace, verb: &str) -> Command {
    let mut command = command(workspace);
    command
        .args([verb, "--quiet", "--locked", "--release", "--target", GNU, "--manifest-path"])
        .arg(workspace.root().join(PAYLOAD))
        .arg("--target-dir")
        .arg(workspace.cache("payload"))
        // Those of the caller are for programs with an operating system.
        .env_remove("RUSTFLAGS");
    command
}

/// Builds the bare-metal program; its ELF file, which a PVH loader takes.
pub fn build_payload(workspace: &Workspace) -> Result<PathBuf, Error> {
    process::run(&mut for_payload(workspace, "build"))?;
    Ok(workspace.cache("payload").join(GNU).join("release/payload"))
}

/// Builds tests: those that `chosen`, flags of `cargo test`, names.
pub fn build_tests(workspace: &Workspace, chosen: &[&str]) -> Result<Vec<TestBinary>, Error> {
    let mut command = command(workspace);
    command.args(["test", "--no-run"]).args(chosen);
    let binaries = artifacts(&mut command)?.into_iter().filter(|artifact| artifact.profile.test);
    let binaries = binaries.filter_map(|artifact| {
        let directory = artifact.manifest_path.parent()?.to_owned();
        // `path+file:///DIR#NAME@VERSION`, or without the name where the folder is called so.
        let id = artifact.package_id;
        let end = id.rsplit(['#', '/']).next()?;
        let package = match end.split_once('@') {
            Some((name, _)) => name.to_owned(),
            None => directory.file_name()?.to_str()?.to_owned(),
        };
        Some(TestBinary {
            package,
            directory,
            integration: artifact.target.kind.iter().any(|kind| kind == "test"),
            name: artifact.target.name,
            path: artifact.executable?,
        })
    });
    Ok(binaries.collect())
}

#[derive(Debug, Deserialize)]
struct Artifact {
    package_id: String,
    manifest_path: PathBuf,
    target: Target,
    profile: ArtifactProfile,
    executable: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct ArtifactProfile {
    test: bool,
}

/// Runs a build and returns what it made or found made already.
fn artifacts(command: &mut Command) -> Result<Vec<Artifact>, Error> {
    let shown = process::shown(command);
    let start = |source| process::Error::Start { program: "cargo".to_owned(), source };
    let mut child = command
        .arg("--message-format=json-render-diagnostics")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(start)?;
    let mut artifacts = Vec::new();
    for line in child.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines()) {
        // Messages of other kinds lack these fields.
        if let Ok(artifact) = serde_json::from_str(&line.unwrap_or_default()) {
            artifacts.push(artifact);
        }
    }
    let status = child.wait().map_err(start)?;
    if status.success() { Ok(artifacts) } else { Err(Error::Build { command: shown }) }
}
