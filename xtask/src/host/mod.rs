//! `xtask host -- COMMAND`: runs a command where KVM with hardware virtualization is usable: on this machine if it is
//! one, else inside an emulated host (QEMU's TCG emulates AMD SVM) that sees this machine's whole file system.

pub mod agent;
mod direct;
mod emulated;
mod inside;
mod prepare;
mod protocol;
pub mod qemu;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::workspace::Workspace;
use crate::{apt, files, initramfs, kernels, modules, process};

/// Set for the command: the writable folder whose files come back.
pub const SHARE_VARIABLE: &str = "CARVE_SHARE";
/// Set to `direct` or `emulated` to override what is detected.
const HOST_VARIABLE: &str = "CARVE_HOST";

/// Exit code where the time limit ended the command, as of timeout(1).
const TIMED_OUT: u8 = 124;

/// Why a command could not be run on a KVM host.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No kernels for the emulated host.
    #[error(transparent)]
    Kernels(#[from] kernels::Error),
    /// No modules for it.
    #[error(transparent)]
    Modules(#[from] modules::Error),
    /// No initramfs for it.
    #[error(transparent)]
    Initramfs(#[from] initramfs::Error),
    /// A file cannot be read or written.
    #[error(transparent)]
    Files(#[from] files::Error),
    /// A program failed.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// Something cannot be installed.
    #[error(transparent)]
    Apt(#[from] apt::Error),
    /// The emulated host's kernel lacks what it needs.
    #[error(
        "no kernel for the emulated host: it needs 9p and kvm-amd, which Debian's cloud kernels leave out; \
         set CARVE_HOST_KERNEL to one of {known}, or have CARVE_KERNELS name a tree with a full kernel"
    )]
    NoKernel {
        /// All there are.
        known: String,
    },
    /// QEMU is too old.
    #[error(
        "{} is QEMU {version}: the emulated host needs {} or newer, whose SVM emulation works. Install that, or set \
         CARVE_QEMU to such a qemu-system-x86_64",
        path.display(), qemu::OLDEST
    )]
    OldQemu {
        /// The QEMU found.
        path: PathBuf,
        /// Its version.
        version: String,
    },
    /// Processes cannot be started or talked to.
    #[error("cannot {doing}")]
    Io {
        /// What was tried, as a verb.
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The emulated host ended before the command did.
    #[error("the emulated host stopped before the command ended; the end of its log:\n{log}")]
    Stopped {
        /// The end of its kernel log and of what QEMU said.
        log: String,
    },
    /// The agent could not start the command.
    #[error("the emulated host could not run the command: {0}")]
    Agent(String),
    /// An argument that is not text.
    #[error("{what} is not UTF-8, which the emulated host needs")]
    NotText {
        /// Which of the arguments.
        what: String,
    },
}

/// Names the operation an I/O error belongs to.
fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { doing, source }
}

/// Arguments of `xtask host`.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Writable folder, made where missing, that the command finds at $CARVE_SHARE; by default a new one under
    /// target/xtask/share, deleted afterwards if nothing was left in it
    #[arg(long, value_name = "DIR")]
    pub share: Option<PathBuf>,
    /// End the command after so much time (90, 90s, 5m, 1h) with exit code 124
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub time_limit: Option<Duration>,
    /// Memory of the emulated host in MiB
    #[arg(long, value_name = "MIB", default_value_t = 6144)]
    pub memory: u32,
    /// Processors of the emulated host; with more than one, QEMU loses hosts that run nested guests
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub cpus: u32,
    /// NUMA nodes of the emulated host, between which processors and memory are divided evenly
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub nodes: u32,
    /// Run all of the emulated host on one of this machine's processors: slower, but QEMU's emulation of nested
    /// virtualization goes wrong where emulated processors run at once
    #[arg(long)]
    pub one_core: bool,
    /// Set a variable in the command's environment (the rest of which is ours)
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = parse_variable)]
    pub variables: Vec<(String, String)>,
    /// Give the command no standard input
    #[arg(long)]
    pub no_stdin: bool,
    /// Use the emulated host even where this machine has hardware virtualization
    #[arg(long)]
    pub emulated: bool,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

impl Arguments {
    /// The defaults for a command.
    pub fn new(command: Vec<String>) -> Self {
        Self {
            share: None,
            time_limit: None,
            memory: 6144,
            cpus: 1,
            nodes: 1,
            one_core: false,
            variables: Vec::new(),
            no_stdin: false,
            emulated: false,
            command,
        }
    }

    fn size(&self) -> qemu::Size {
        qemu::Size { cpus: self.cpus, memory: self.memory, nodes: self.nodes }
    }

    /// The environment of the command.
    fn environment(&self, share: &Share) -> BTreeMap<String, String> {
        let inherited = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        let mut environment: BTreeMap<_, _> = inherited.collect();
        environment.insert(SHARE_VARIABLE.into(), share.path.to_string_lossy().into_owned());
        environment.extend(self.variables.iter().cloned());
        environment
    }

    /// Whether to run the command on a terminal: only where we are entirely on one.
    fn on_terminal(&self) -> bool {
        !self.no_stdin
            && io::stdin().is_terminal()
            && io::stdout().is_terminal()
            && io::stderr().is_terminal()
    }
}

/// Runs the command and returns its exit code (128 + n where signal n killed it).
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<u8, Error> {
    let share = Share::make(workspace, arguments.share.as_deref())?;
    if arguments.emulated || !hardware_kvm() {
        emulated::run(workspace, arguments, &share)
    } else {
        direct::run(arguments, &share)
    }
}

/// Whether this machine runs unmodified guests itself: the processor's virtualization extension and access to KVM.
pub fn hardware_kvm() -> bool {
    match std::env::var(HOST_VARIABLE).as_deref() {
        Ok("direct") => return true,
        Ok("emulated") => return false,
        _ => {}
    }
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
    flags.split_whitespace().any(|flag| matches!(flag, "svm" | "vmx"))
        && OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok()
}

/// The writable folder.
#[derive(Debug)]
struct Share {
    path: PathBuf,
    ours: bool,
}

impl Share {
    fn make(workspace: &Workspace, given: Option<&Path>) -> Result<Self, Error> {
        let ours = given.is_none();
        let path = given.map_or_else(|| Self::new_folder(workspace), Path::to_owned);
        files::create_dir(&path)?;
        let path = path.canonicalize().map_err(files::at("resolve", &path))?;
        Ok(Self { path, ours })
    }

    /// A folder named by our process. Empty ones of processes that were killed are cleaned away.
    fn new_folder(workspace: &Workspace) -> PathBuf {
        let shares = workspace.cache("share");
        for folder in files::list(&shares).unwrap_or_default() {
            let process = folder.file_name().map(|name| Path::new("/proc").join(name));
            if process.is_some_and(|process| !process.exists()) {
                let _ = std::fs::remove_dir(&folder);
            }
        }
        shares.join(std::process::id().to_string())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // Fails, as it should, where the command left files in it.
        if self.ours && std::fs::remove_dir(&self.path).is_err() {
            eprintln!("xtask: the command's files are in {}", self.path.display());
        }
    }
}

/// Exit code for a process that ended with `code` or by `signal`.
fn exit_code(code: Option<i32>, signal: Option<i32>) -> u8 {
    let value = code.unwrap_or_else(|| 128 + signal.unwrap_or(0));
    u8::try_from(value & 0xff).unwrap_or(u8::MAX)
}

/// A number of seconds, or of the unit that follows it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let factor = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        unit => return Err(format!("unknown unit {unit:?}: use s, m or h")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{digits:?} is not a whole number"))?;
    Ok(Duration::from_secs(number.saturating_mul(factor)))
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod argument_test {
    use super::*;

    #[test]
    fn durations_take_a_unit() {
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3600)));
        assert!(parse_duration("1d").is_err() && parse_duration("s").is_err());
    }

    #[test]
    fn a_signal_shows_as_128_and_its_number() {
        assert_eq!(exit_code(Some(3), None), 3);
        assert_eq!(exit_code(None, Some(9)), 137);
    }
}
