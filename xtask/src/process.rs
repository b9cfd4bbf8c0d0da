//! Running other programs to their end: errors carry the command line, the status and what it printed.
//! Programs that run beside us (QEMU, the command of `xtask host`) are started by their owners.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// A program that could not be run or that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program is not there or not executable.
    #[error("cannot run {program}: is it installed and in PATH?")]
    Start {
        /// Name of the program.
        program: String,
        /// Why it cannot be run.
        source: io::Error,
    },
    /// The program ran and reported failure.
    #[error("{command} failed ({status}){}", printed(output))]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it printed on its standard error, where that was kept.
        output: String,
    },
}

/// Result of running a program.
pub type Result<T> = std::result::Result<T, Error>;

/// Runs a program with our standard output as its standard error, so that progress is seen but
/// nothing mixes into the output of a task.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .stderr(io::stderr())
        .status()
        .map_err(|source| start_error(command, source))?;
    check(command, status, String::new())
}

/// Runs a program silently; what it printed is shown only where it fails.
pub fn run_quietly(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs a program and returns its standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().map_err(|source| start_error(command, source))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut explanation = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if explanation.is_empty() {
        explanation = text.trim().to_owned();
    }
    check(command, output.status, explanation)?;
    Ok(text)
}

/// Finds a program in `PATH` and the administrator's directories.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// The same command once more, with its arguments and the variables set for it.
pub fn again(command: &Command) -> Command {
    let mut again = Command::new(command.get_program());
    again.args(command.get_args());
    again.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    again
}

/// The command line as a reader would type it (without quoting).
pub fn shown(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect();
    words.join(" ")
}

fn start_error(command: &Command, source: io::Error) -> Error {
    Error::Start { program: command.get_program().to_string_lossy().into_owned(), source }
}

fn check(command: &Command, status: ExitStatus, output: String) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    Err(Error::Failed { command: shown(command), status, output })
}

fn printed(output: &str) -> String {
    const LINES: usize = 20;
    if output.is_empty() {
        return String::new();
    }
    let lines: Vec<_> = output.lines().collect();
    format!(":\n{}", lines[lines.len().saturating_sub(LINES)..].join("\n"))
}
