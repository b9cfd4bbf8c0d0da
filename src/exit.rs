//! How the process ends: exit codes, the last message and the exit record.

use std::error::Error;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;
use vmm::{End, Outcome, explain};

/// Carve itself failed, usage errors included: as with Docker, a code that programs rarely
/// choose.
pub const OWN_ERROR: u8 = 125;

/// The codes, for `carve run --help`.
pub const HELP: &str = "\
Exit codes:
  0      the guest powered off, or rebooted with --no-reboot
  1      the guest's kernel panicked, a vCPU crashed, or the guest rebooted again and again
  125    Carve itself failed, wrong usage included
  130    you quit with Ctrl-A x
  128+N  signal N ended the run
  With --debug-exit a byte V that the guest writes to the debug-exit port ends the run with
  (V * 2 + 1) modulo 256.";

/// The exit record cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Writing failed.
    #[error("the exit record cannot be written to {}; give --exit-record a file in a folder you may write to", .path.display())]
    Write {
        /// Where to.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What `--exit-record` writes. Fields are only ever added within a version.
#[derive(Debug, Serialize)]
pub struct Record {
    version: u32,
    end: RecordedEnd,
    message: String,
    exit_code: u8,
    resets: u32,
    /// Microseconds from the start to each step.
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum RecordedEnd {
    Guest(End),
    Own { kind: &'static str },
}

impl Record {
    /// The record of a run that came to an end of its own.
    pub fn of(outcome: &Outcome, with_timings: bool) -> Self {
        let micros = |at: std::time::Duration| u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
        let timings = || {
            outcome.timings.iter().map(|(step, at)| (step.to_owned(), micros(at).into())).collect()
        };
        Self {
            version: 1,
            end: RecordedEnd::Guest(outcome.end.clone()),
            message: outcome.end.message(),
            exit_code: outcome.end.code(),
            resets: outcome.resets,
            timings: with_timings.then(timings),
        }
    }

    /// The record of a run that failed for a reason of Carve's.
    pub fn of_error(message: String) -> Self {
        Self {
            version: 1,
            end: RecordedEnd::Own { kind: "error" },
            message,
            exit_code: OWN_ERROR,
            resets: 0,
            timings: None,
        }
    }

    /// Writes the record to `path`. A regular file appears whole or not at all; anything else
    /// (a pipe, `/dev/fd/3`) is written to.
    ///
    /// # Errors
    ///
    /// [`RecordError::Write`].
    pub fn write(&self, path: &Path) -> Result<(), RecordError> {
        let failed = |source| RecordError::Write { path: path.to_owned(), source };
        write_record(path, &self.text().map_err(failed)?)
    }

    /// What is written.
    pub fn text(&self) -> io::Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        Ok(text)
    }
}

/// Writes the text of a record as [`Record::write`] does.
///
/// # Errors
///
/// [`RecordError::Write`].
pub fn write_record(path: &Path, text: &[u8]) -> Result<(), RecordError> {
    let failed = |source| RecordError::Write { path: path.to_owned(), source };
    if is_special(path) {
        let target = OpenOptions::new().write(true).open(path);
        return target.and_then(|mut file| file.write_all(text)).map_err(failed);
    }
    // A link to the record stays a link.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(name);
    fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, &path)).map_err(|error| {
        let _ = fs::remove_file(&temporary);
        failed(error)
    })
}

/// Makes sure, before a long run, that a record can be written to `path` after it, and removes
/// that of an earlier run, so that none is ever taken for this one's.
///
/// # Errors
///
/// [`RecordError::Write`].
pub fn prepare_record(path: &Path) -> Result<(), RecordError> {
    if is_special(path) {
        return Ok(());
    }
    let failed = |source| RecordError::Write { path: path.to_owned(), source };
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => return Err(failed(io::ErrorKind::IsADirectory.into())),
        Ok(_) => fs::remove_file(path).map_err(failed)?,
        Err(_) => {}
    }
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    use rustix::fs::{Access, access};
    access(folder, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| failed(error.into()))
}

/// Whether `path` exists and is neither a file nor a folder.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

/// Shows an error of Carve's own and answers with the exit code for it.
pub fn own_error(error: &(dyn Error + 'static)) -> ExitCode {
    say(&format!("error: {}", explain(error)));
    ExitCode::from(OWN_ERROR)
}

/// Tells the user something on standard error.
pub fn say(text: &str) {
    // In one write, so that lines of several processes do not mix. Nothing is left to tell it
    // to if standard error is closed.
    let _ = io::stderr().write_all(format!("carve: {text}\n").as_bytes());
}

/// Prints a verb's result. A reader that has enough (`| head`) is no error.
pub fn print(text: &[u8]) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            say(&format!("error: standard output cannot be written to: {error}"));
            ExitCode::from(OWN_ERROR)
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Writes the record of a `carve run` whose arguments were refused, where they name a file for it.
pub fn record_usage_error(message: &str) {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|verb| verb != "run") {
        return;
    }
    let mut target = None;
    while let Some(argument) = arguments.next() {
        let argument = argument.as_encoded_bytes();
        if argument == b"--exit-record" {
            target = arguments.next();
        } else if let Some(path) = argument.strip_prefix(b"--exit-record=") {
            use std::os::unix::ffi::OsStringExt;
            target = Some(OsString::from_vec(path.to_vec()));
        }
    }
    if let Some(path) = target.map(PathBuf::from) {
        // What follows the first paragraph repeats the usage.
        let message = message.split("\n\n").next().unwrap_or_default();
        let message = message.strip_prefix("error: ").unwrap_or(message).to_owned();
        if let Err(error) = Record::of_error(message).write(&path) {
            say(&format!("error: {}", explain(&error)));
        }
    }
}

#[cfg(test)]
#[path = "exit_test.rs"]
mod exit_test;
