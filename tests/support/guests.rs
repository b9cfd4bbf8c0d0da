//! Stock kernels to boot: the guests that `cargo xtask guest` makes, listed in a manifest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use super::{Finished, Running, carve};

/// A boot of an emulated guest takes seconds; one of 8 vCPUs beside another may take twenty.
pub const BOOT: Duration = Duration::from_secs(300);

/// For what moves a lot of data through an emulated guest.
pub const LONG: Duration = Duration::from_secs(900);

/// What `cargo xtask guest` made.
fn manifest() -> &'static Value {
    static MANIFEST: OnceLock<Value> = OnceLock::new();
    MANIFEST.get_or_init(|| {
        let folder = std::env::var_os("CARVE_GUESTS").map(PathBuf::from);
        let folder = folder.expect("CARVE_GUESTS: the folder that `cargo xtask guest` filled");
        let text = std::fs::read_to_string(folder.join("manifest.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    })
}

/// Kernels of the manifest, by name.
fn kernels() -> &'static BTreeMap<String, Value> {
    static KERNELS: OnceLock<BTreeMap<String, Value>> = OnceLock::new();
    KERNELS.get_or_init(|| {
        let kernels = manifest()["kernels"].as_array().unwrap();
        kernels.iter().map(|k| (k["id"].as_str().unwrap().to_owned(), k.clone())).collect()
    })
}

/// The disk image with a Debian root that is called `kind`: `ext4` and `btrfs` are raw, `qcow2` is one.
#[track_caller]
pub fn root_image(kind: &str) -> &'static Path {
    let image = manifest()["roots"]["images"][kind].as_str();
    Path::new(image.unwrap_or_else(|| panic!("no root {kind}: run `cargo xtask guest` as root")))
}

/// The busybox of the guests, which runs anywhere.
#[track_caller]
pub fn busybox() -> &'static Path {
    Path::new(manifest()["busybox"].as_str().unwrap())
}

/// The default kernel of the tests.
pub const DEFAULT: &str = "debian-6.1-cloud";

/// Appended to scripts: shows what the kernel complained about. The brackets keep the command line, which the log
/// holds too, from matching.
const COMPLAINTS: &str = "\nstatus=$?; dmesg | grep -E -A30 'WARNIN[G]:|BU[G]:|UBSA[N]|Call Trac[e]|soft locku[p]'; exit $status";

/// A guest to be booted: one of the stock kernels, what it is to run, and more arguments.
#[derive(Clone)]
pub struct Guest {
    kernel: PathBuf,
    initrd: PathBuf,
    arguments: Vec<String>,
    cmdline: String,
}

impl Guest {
    /// Kernel `id` with its ordinary initramfs.
    #[track_caller]
    pub fn new(id: &str) -> Self {
        let Some(kernel) = kernels().get(id) else {
            panic!("no kernel {id}; there are {:?}", kernels().keys())
        };
        let kernel = kernel["kernel"].as_str().unwrap().into();
        let guest =
            Self { kernel, initrd: PathBuf::new(), arguments: vec![], cmdline: String::new() };
        guest.initrd(id, "standard")
    }

    /// Kernel `id` that runs its script on the Debian root `kind`, without systemd. The image is shared by all tests and
    /// read-only, being `/dev/vda`; there is room in `/tmp`.
    #[track_caller]
    pub fn debian(id: &str, kind: &str) -> Self {
        let disk = format!("--disk path={},readonly", root_image(kind).display());
        Self::new(id).with(&disk).cmdline("root=/dev/vda ro init=/bin/carve-test")
    }

    /// Another initramfs of kernel `id`: `tiny` or `huge`.
    pub fn initrd(mut self, id: &str, kind: &str) -> Self {
        self.initrd = kernels()[id]["initrds"][kind].as_str().unwrap().into();
        self
    }

    /// Another kernel file.
    pub fn kernel(mut self, path: impl Into<PathBuf>) -> Self {
        self.kernel = path.into();
        self
    }

    pub fn kernel_path(&self) -> &PathBuf {
        &self.kernel
    }

    pub fn initrd_path(&self) -> &PathBuf {
        &self.initrd
    }

    /// More arguments of `carve run`, separated by spaces.
    pub fn with(mut self, arguments: &str) -> Self {
        self.arguments.extend(arguments.split_whitespace().map(str::to_owned));
        self
    }

    /// More words on the kernel command line.
    pub fn cmdline(mut self, words: &str) -> Self {
        self.cmdline = format!("{} {words}", self.cmdline);
        self
    }

    /// The command that boots it and runs `script` in the guest; without one, a shell.
    pub fn command(&self, script: Option<&str>) -> Command {
        let mut command = carve();
        command.args(["run", "--log-level", "error", "--kernel"]).arg(&self.kernel);
        command.arg("--initrd").arg(&self.initrd).args(&self.arguments);
        // Quiet, because a polled console is what an emulated guest spends its time on; complaints
        // are looked for in the kernel's own log at the end.
        let run = script
            .map(|script| format!(" carve.run={}", percent(&format!("{script}{COMPLAINTS}"))));
        command.arg("--cmdline").arg(format!("quiet{}{}", self.cmdline, run.unwrap_or_default()));
        command
    }

    /// Boots it, runs `script`, and waits for the power-off.
    #[track_caller]
    pub fn run(&self, script: &str) -> Finished {
        self.run_within(BOOT, script)
    }

    /// The same for scripts that take longer.
    #[track_caller]
    pub fn run_within(&self, limit: Duration, script: &str) -> Finished {
        let finished = Running::start(&mut self.command(Some(script))).finish(limit);
        assert_clean(&finished.text());
        finished
    }

    /// Starts it without waiting.
    pub fn start(&self, script: Option<&str>) -> Running {
        Running::start(&mut self.command(script))
    }
}

/// What means something to the kernel or to the guest's init as %XX, the form the latter decodes; the rest stays as it
/// is, since a command line has 2047 bytes.
fn percent(script: &str) -> String {
    script
        .bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(b).to_string(),
            b if b"-._,:;=+/@$|<>()[]{}*?!&^~#".contains(&b) => char::from(b).to_string(),
            other => format!("%{other:02x}"),
        })
        .collect()
}

/// Asserts that the kernel complained about nothing.
#[track_caller]
pub fn assert_clean(log: &str) {
    for bad in [
        "WARNING:",
        "BUG:",
        "UBSAN",
        "Call Trace",
        "soft lockup",
        "Oops",
        "rcu_sched self-detected",
    ] {
        assert!(!log.contains(bad), "{bad} in the guest's log:\n{log}");
    }
}

/// The value after `key=` in the guest's output.
#[track_caller]
pub fn value<'a>(log: &'a str, key: &str) -> &'a str {
    let pattern = format!("{key}=");
    let found = log.lines().rev().find_map(|line| line.trim().strip_prefix(&pattern));
    found.unwrap_or_else(|| panic!("no {pattern} in the guest's output:\n{log}")).trim()
}
