//! `xtask demo`: from a fresh checkout to the prompt of a stock Debian guest.

use std::io::{self, IsTerminal};

use crate::cargo::{self, Profile};
use crate::workspace::Workspace;
use crate::{guest, host, percent};

/// What the guest shows where there is nobody to type.
const SHOW: &str = "uname -a; nproc; free; cat /proc/cmdline";

/// Why there is nothing to see.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Carve does not build.
    #[error(transparent)]
    Cargo(#[from] cargo::Error),
    /// There is no guest.
    #[error(transparent)]
    Guest(#[from] guest::Error),
    /// There is no host.
    #[error(transparent)]
    Host(#[from] host::Error),
    /// A path that cannot be passed on.
    #[error("{} is not UTF-8: move the checkout to a path that is", path.display())]
    NotText {
        /// The path.
        path: std::path::PathBuf,
    },
}

/// Arguments of `xtask demo`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Kernel to boot, by the name `xtask guest` lists it under
    #[arg(long, value_name = "ID")]
    kernel: Option<String>,
    /// More arguments of `carve run`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    carve: Vec<String>,
}

/// Runs the task; the exit code is that of `carve run`.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<u8, Error> {
    eprintln!("demo: 1/3 building Carve (the first time a minute or two)");
    let carve = cargo::build_carve(workspace, Profile::Release, None)?;
    eprintln!("demo: 2/3 fetching Debian's kernels (the first time half a minute)");
    let manifest = guest::obtain(workspace, false)?;
    let guest = manifest.guest(arguments.kernel.as_deref())?;
    let place = if host::hardware_kvm() {
        "on this machine's KVM (a second)"
    } else {
        "in an emulated KVM host, as this machine has no hardware virtualization (some 15 s)"
    };
    eprintln!("demo: 3/3 booting {} {place}", guest.id);

    let interactive = io::stdin().is_terminal() && io::stdout().is_terminal();
    let text = |path: &std::path::Path| {
        path.to_str().map(str::to_owned).ok_or_else(|| Error::NotText { path: path.to_owned() })
    };
    let mut command = vec![
        text(&carve)?,
        "run".into(),
        "--kernel".into(),
        text(&guest.kernel)?,
        "--initrd".into(),
        text(&guest.initrds["standard"])?,
    ];
    if interactive {
        eprintln!("demo: leave the guest with `exit` or Ctrl-D");
    } else {
        command.push("--cmdline".into());
        command.push(format!("quiet carve.run={}", percent::encode(SHOW)));
    }
    command.extend(arguments.carve.iter().cloned());
    let mut host = host::Arguments::new(command);
    host.no_stdin = !interactive;
    Ok(host::run(workspace, &host)?)
}
