//! The packages of the root file systems, installed into a folder by mmdebstrap from the machine's own mirror.

use std::path::Path;
use std::process::Command;

use super::Error;
use crate::apt::{Apt, Suite};
use crate::process;
use crate::workspace::Workspace;

const PROGRAM: &str = "mmdebstrap";
const REMEDY: &str = "It builds the root file systems of guests that boot from disks.";

/// Besides the essential ones and what they depend on.
const PACKAGES: [&str; 17] = [
    "btrfs-progs",
    "busybox-static",
    "dbus",
    "e2fsprogs",
    "ethtool",
    "fdisk",
    "fio",
    "iperf3",
    "iproute2",
    "iputils-ping",
    "login",
    "mount",
    "procps",
    "socat",
    "systemd-sysv",
    "udev",
    "util-linux",
];
/// What nobody reads in a test guest.
const EXCLUDED: [&str; 5] = [
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/lintian/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
];

/// What decides the contents.
pub fn description() -> String {
    format!("{PACKAGES:?}{EXCLUDED:?}")
}

/// Installs Debian, the machine's own release, into the new folder `tree`.
pub fn install(workspace: &Workspace, tree: &Path) -> Result<(), Error> {
    let apt = Apt::open(workspace, REMEDY)?;
    if process::find(PROGRAM).is_none() {
        apt.install(&[PROGRAM], Suite::Stable)?;
    }
    eprintln!("xtask: installing Debian for guests that boot from disks (some 80 s)");
    let mut command = Command::new(process::find(PROGRAM).unwrap_or_else(|| PROGRAM.into()));
    command.args(["--mode=root", "--variant=essential", "--format=directory", "--quiet"]);
    command.args(["--aptopt=Apt::Install-Recommends \"false\"", "--aptopt=Acquire::Retries \"2\""]);
    command.args(EXCLUDED.map(|pattern| format!("--dpkgopt=path-exclude={pattern}")));
    command.arg(format!("--include={}", PACKAGES.join(",")));
    command.arg(apt.codename()).arg(tree).arg(apt.sources());
    Ok(process::run_quietly(command.env("LC_ALL", "C.UTF-8"))?)
}
