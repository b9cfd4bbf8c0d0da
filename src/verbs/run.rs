//! `carve run`: one guest in the foreground, its serial console on the terminal.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use resources::config::{self, VmConfig};
use rustix::io::fcntl_dupfd_cloexec;
use vmm::{Console, Outcome, RunOptions};

use crate::cli::RunArgs;
use crate::exit::{self, Record, RecordError};
use crate::{preflight, terminal};

/// Why a guest did not run to an end of its own.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the config file {} cannot be read; check --config", .path.display())]
    ReadConfig { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Preflight(#[from] preflight::Error),
    #[error(transparent)]
    Terminal(#[from] terminal::Error),
    #[error(
        "standard input or output cannot be duplicated; raise the limit of open files (ulimit -n)"
    )]
    Duplicate(#[source] io::Error),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Vmm(#[from] vmm::Error),
    #[error("a bug in Carve ended the run; please report it with the message above")]
    Panicked,
}

/// Runs a guest and answers with the exit code of its end.
pub fn run(args: &RunArgs, start: Instant) -> ExitCode {
    // A panic has been shown by then; its exit code and record are those of any own error.
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| guest(args, start)))
        .unwrap_or(Err(Error::Panicked));
    // From here on the terminal is the user's again.
    let (record, code) = match &outcome {
        Ok(outcome) => {
            if args.timings {
                exit::say(&format!("timings:\n{}", outcome.timings));
            }
            let code = outcome.end.code();
            if code != 0 {
                exit::say(&outcome.end.message());
            }
            (Record::of(outcome, args.timings), ExitCode::from(code))
        }
        Err(error) => (Record::of_error(vmm::explain(error)), exit::own_error(error)),
    };
    // A record that could not be prepared has been complained about.
    match &args.exit_record {
        Some(path) if !matches!(outcome, Err(Error::Record(_))) => {
            record.write(path).map_or_else(|error| exit::own_error(&error), |()| code)
        }
        _ => code,
    }
}

fn guest(args: &RunArgs, start: Instant) -> Result<Outcome, Error> {
    if let Some(path) = &args.exit_record {
        exit::prepare_record(path)?;
    }
    let config = configuration(args)?;
    preflight::check(&config)?;
    if !resources::inventory::hardware_virtualization() {
        tracing::warn!(
            "this host's KVM has no hardware virtualization: a stock kernel will not get through \
             its boot here; `carve doctor` says more"
        );
    }
    let raw = terminal::Raw::enter()?;
    let console = Console {
        input: Some(duplicate(io::stdin().as_fd())?),
        output: duplicate(io::stdout().as_fd())?,
        escapes: raw.is_some(),
    };
    let options = RunOptions {
        config,
        console,
        kvm_device: args.kvm.kvm_device.clone(),
        kernel_cache: kernel_cache(|name| std::env::var_os(name).map(PathBuf::from)),
        start,
        control: vmm::Control::default(),
        announce: exit::say,
    };
    Ok(vmm::run(options)?)
}

/// The flags over the config file, complete and valid.
fn configuration(args: &RunArgs) -> Result<VmConfig, Error> {
    let file = match &args.config {
        None => None,
        Some(path) => {
            let content = fs::read(path)
                .map_err(|source| Error::ReadConfig { path: path.clone(), source })?;
            Some(config::File::parse(path, content)?)
        }
    };
    Ok(config::load(file.as_ref(), args.vm.spec())?)
}

fn duplicate(descriptor: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    // Past the standard ones, which stay what they are.
    fcntl_dupfd_cloexec(descriptor, 3).map_err(|error| Error::Duplicate(error.into()))
}

/// The cache folder, where extracted kernels are kept, by the XDG Base Directory Specification; nowhere
/// for a user who has no home.
fn kernel_cache(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    // The specification wants relative paths ignored.
    let absolute = |path: &PathBuf| path.is_absolute();
    let base = variable("XDG_CACHE_HOME")
        .filter(absolute)
        .or_else(|| Some(variable("HOME").filter(absolute)?.join(".cache")))?;
    Some(base.join(Path::new("carve")))
}

#[cfg(test)]
mod run_test {
    use super::*;

    #[test]
    fn kernels_are_cached_where_xdg_says() {
        let with = |xdg: Option<&str>, home: Option<&str>| {
            kernel_cache(|name| (if name == "HOME" { home } else { xdg }).map(PathBuf::from))
        };
        assert_eq!(with(Some("/c"), Some("/h")), Some("/c/carve".into()));
        assert_eq!(with(None, Some("/h")), Some("/h/.cache/carve".into()));
        assert_eq!(with(Some("relative"), Some("/h")), Some("/h/.cache/carve".into()));
        assert_eq!(with(Some(""), None), None);
    }
}
