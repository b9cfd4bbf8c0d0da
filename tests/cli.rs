//! The command line as its users meet it, as far as that needs no KVM: usage, errors, config
//! files, exit codes and records, completions, manual pages, and the terminal after an error.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::termios::{Termios, tcgetattr};
use tempfile::TempDir;

/// An empty folder to run `carve` in.
struct Sandbox(TempDir);

impl Sandbox {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> &Self {
        fs::write(self.path().join(name), content).unwrap();
        self
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_carve"));
        command.args(arguments).current_dir(self.path()).stdin(Stdio::null());
        command.env("XDG_CACHE_HOME", self.path().join("cache"));
        command.env("CARVE_ROOT", self.path().join("guests"));
        command
    }

    fn carve(&self, arguments: &[&str]) -> Ended {
        self.command(arguments).output().unwrap().into()
    }

    /// `carve run` of a kernel that is there, on a KVM device that is not.
    fn run(&self, arguments: &[&str]) -> Ended {
        self.write("kernel", "not a kernel");
        let all = [&["run", "--kernel", "kernel", "--kvm-device", "/none"], arguments].concat();
        self.carve(&all)
    }

    fn record(&self) -> serde_json::Value {
        serde_json::from_str(&self.read("record")).unwrap()
    }
}

/// How a `carve` ended.
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Ended {
    /// Ended by an error of Carve's that says all of `parts`, and nothing on standard output.
    #[track_caller]
    fn refused(&self, parts: &[&str]) {
        assert_eq!(self.code, Some(125), "{}", self.err);
        assert!(self.err.contains("carve: error: "), "{}", self.err);
        for part in parts {
            assert!(self.err.contains(part), "{part:?} is not in: {}", self.err);
        }
        assert_eq!(self.out, "");
    }
}

#[test]
fn help_and_version_are_no_errors() {
    let sandbox = Sandbox::new();
    for arguments in [&["--help"][..], &["-h"], &["help"], &["run", "--help"], &["--version"]] {
        let ended = sandbox.carve(arguments);
        assert_eq!(ended.code, Some(0), "{arguments:?}");
        assert!(ended.out.contains("carve") && ended.err.is_empty(), "{arguments:?}");
    }
    let help = sandbox.carve(&["run", "--help"]).out;
    for part in ["--kernel <FILE>", "Exit codes:", "125", "Ctrl-A x", "[default: 512MiB]"] {
        assert!(help.contains(part), "{part} is not in: {help}");
    }
}

#[test]
fn wrong_usage_is_125_and_says_what_to_do() {
    let sandbox = Sandbox::new();
    let nothing = sandbox.carve(&[]);
    assert_eq!((nothing.code, nothing.out.as_str()), (Some(125), ""));
    assert!(nothing.err.contains("Usage: carve"), "{}", nothing.err);

    sandbox.carve(&["fly"]).refused(&["'fly'", "--help"]);
    sandbox.carve(&["run", "--kernal", "x"]).refused(&["'--kernal'", "similar", "'--kernel'"]);
    sandbox.carve(&["run", "--kernel"]).refused(&["--kernel <FILE>", "--help"]);
    sandbox.carve(&["completions", "dos"]).refused(&["'dos'", "bash"]);
}

#[test]
fn values_of_flags_are_refused_with_value_reason_and_remedy() {
    let sandbox = Sandbox::new();
    for (flag, value, parts) in [
        ("--memory", "12q", ["`12q`", "`q`, which is no unit", "as in 512MiB"]),
        ("--memory", "much", ["`much`", "does not start with a number", "such as 512MiB"]),
        ("--memory", "17000p", ["`17000p`", "more than 16EiB", "write a smaller"]),
        ("--memory", "512", ["memory is 512B", "at least 2MiB", "did you mean 512MiB?"]),
        ("--memory", "2000001k", ["2000001KiB", "4KiB pages", "use 2000000KiB or 2000004KiB"]),
        ("--memory", "100t", ["memory is 100TiB", "this host has", "ask for less with --memory"]),
        ("--cpus", "0", ["vcpus is 0", "1 to 4096", "choose"]),
        ("--cpus", "many", ["'many'", "--cpus <NUMBER>", "--help"]),
        ("--topology", "dies=2", ["`dies=2`", "`dies` is not sockets", "write it as in"]),
        ("--topology", "cores=0", ["cores=0", "at least 1", "leave out"]),
        ("--hugepages", "4MiB", ["4MiB", "do not exist", "use 2MiB or 1GiB"]),
        ("--hugepages", "1g", ["512MiB", "1GiB pages", "use 1GiB or 2GiB"]),
        ("--memory-backing", "disk", ["'disk'", "anonymous", "memfd"]),
        ("--boot-protocol", "bios", ["'bios'", "linux64", "pvh"]),
        ("--name", "My_VM", ["`My_VM`", "other characters", "such as web-1"]),
        ("--cmdline", "a\nb", ["cmdline", "control character '\\n'", "separate"]),
        ("--initrd", "", ["--initrd <FILE>", "a value is required", "--help"]),
        ("--initrd", "none", ["initrd none", "does not exist", "leave it out"]),
        ("--config", "none", ["config file none", "No such file", "check --config"]),
        ("--log-level", "loud", ["'loud'", "error, warn", "--help"]),
        ("--log-file", "none/log", ["none/log", "No such file", "give --log-file"]),
        ("--exit-record", "none/r", ["none/r", "No such file", "give --exit-record"]),
    ] {
        sandbox.run(&[flag, value]).refused(&parts);
    }
    sandbox.run(&["--cpus", "3", "--topology", "cores=2"]).refused(&[
        "sockets=1,cores=2,threads=1 makes 2 vCPUs",
        "vcpus is 3",
        "make the two agree",
    ]);
}

#[test]
fn a_kernel_that_cannot_be_one_is_told_from_the_file_alone() {
    let sandbox = Sandbox::new();
    sandbox.carve(&["run"]).refused(&["no kernel is given", "--kernel FILE"]);
    sandbox.carve(&["run", "--kernel", "none"]).refused(&["none does not exist", "vmlinux"]);
    sandbox.carve(&["run", "--kernel", "."]).refused(&["is a folder", "give --kernel"]);
    sandbox.carve(&["run", "--kernel", "/dev/null"]).refused(&["a device or a pipe"]);
    // Root reads everything.
    if !rustix::process::geteuid().is_root() {
        sandbox.write("secret", "");
        let closed = fs::Permissions::from_mode(0o0);
        fs::set_permissions(sandbox.path().join("secret"), closed).unwrap();
        sandbox.carve(&["run", "--kernel", "secret"]).refused(&["may not be read", "chmod a+r"]);
    }
}

#[test]
fn errors_in_a_config_file_are_marked_in_it() {
    let sandbox = Sandbox::new();
    for (content, place, parts) in [
        ("vcpu = 4", "1:1", ["unknown key `vcpu`", "did you mean `vcpus`?", "1 | vcpu = 4"]),
        ("\n [memory]\n szie = 1", "3:2", ["`memory.szie`", "`memory.size`", "  |  ^^^^"]),
        ("vcpus = \"4\"", "1:9", ["`vcpus`", "string \"4\"", "it takes: whole number from 1"]),
        ("vcpus = 0", "1:9", ["vcpus is 0", "1 to 4096", "        ^"]),
        ("memory = 512", "1:10", ["512B", "at least 2MiB", "did you mean 512MiB?"]),
        ("memory = \"1x\"", "1:10", ["`memory`", "`x`, which is no unit", "use k, m, g"]),
        ("hugepages = \"1GiB\"", "1:13", ["512MiB", "1GiB pages", "use 1GiB or 2GiB"]),
        ("topology.cores = 2\nvcpus = 3", "1:1", ["makes 2", "vcpus is 3", "make the two agree"]),
        ("initrd = \"\"", "1:10", ["initrd is an empty path", "name a file", "leave initrd out"]),
        ("vcpus = [", "1:10", ["not TOML", "1 | vcpus = [", "^"]),
    ] {
        let shown = format!("carve: error: vm.toml:{place}: ");
        let ended = sandbox.write("vm.toml", content).run(&["--config", "vm.toml"]);
        ended.refused(&[&[shown.as_str()], &parts[..]].concat());
    }
}

#[test]
fn paths_in_a_config_file_start_at_the_file() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path().join("inner")).unwrap();
    sandbox.write("inner/vm.toml", "kernel = \"../none\"");
    sandbox.carve(&["run", "--config", "inner/vm.toml"]).refused(&["inner/../none does not exist"]);
}

#[test]
fn flags_win_over_the_config_file() {
    let sandbox = Sandbox::new();
    sandbox.write("vm.toml", "kernel = \"none\"\nvcpus = 0\nmemory = \"100TiB\"");
    let flags = ["--config", "vm.toml", "--cpus", "1", "--memory", "64MiB"];
    // All that is left is the KVM device.
    sandbox.run(&flags).refused(&["/none", "does not exist", "--kvm-device"]);
}

#[test]
fn errors_are_recorded_too() {
    let sandbox = Sandbox::new();
    for (arguments, reason) in [
        (&["--cpus", "0"][..], "vcpus is 0"),
        (&["--cpus", "x"], "invalid value 'x'"),
        (&["--config", "none"], "No such file"),
        (&[], "/none"),
    ] {
        sandbox.write("record", "old");
        sandbox.run(&[&["--exit-record", "record"], arguments].concat()).refused(&[reason]);
        let record = sandbox.record();
        assert_eq!((&record["version"], &record["exit_code"]), (&1.into(), &125.into()));
        assert_eq!(record["end"]["kind"], "error");
        assert!(record["message"].as_str().unwrap().contains(reason), "{record}");
    }
}

#[test]
fn messages_go_to_the_log_file_if_there_is_one() {
    let sandbox = Sandbox::new();
    let ended = sandbox.run(&["--log-file", "log", "--log-level", "trace"]);
    ended.refused(&["/none"]);
    assert_eq!(ended.err.lines().count(), 1, "only the error itself: {}", ended.err);
    let log = sandbox.read("log");
    assert!(log.lines().all(|line| line.contains("Z ")), "each line has its time: {log}");
}

#[test]
fn a_kvm_without_hardware_virtualization_is_warned_about() {
    let sandbox = Sandbox::new();
    let warned = sandbox.run(&[]).err.contains("no hardware virtualization");
    assert_eq!(warned, !resources::inventory::hardware_virtualization());
    let silenced = sandbox.run(&["--log-level", "error"]).err;
    assert!(!silenced.contains("warning"), "{silenced}");
}

#[test]
fn the_doctor_judges_the_host_the_same_in_both_forms() {
    let sandbox = Sandbox::new();
    let table = sandbox.carve(&["doctor", "--kvm-device", "/none"]);
    assert_eq!(table.code, Some(1));
    assert!(table.out.contains("FAIL  KVM") && table.out.contains("not fit"), "{}", table.out);
    assert!(table.out.lines().any(|line| line.trim_start().starts_with("-> ")), "{}", table.out);

    let json = sandbox.carve(&["doctor", "--kvm-device", "/none", "--format", "json"]);
    assert_eq!(json.code, Some(1));
    let report: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((&report["version"], &report["fit"]), (&1.into(), &false.into()));
    for finding in report["findings"].as_array().unwrap() {
        let lacking = finding["status"] != "ok";
        assert!(!lacking || finding["remedy"].is_string(), "no remedy: {finding}");
    }
}

#[test]
fn the_guide_has_the_sizes_of_the_lists_of_system_calls() {
    let sizes = Sandbox::new().carve(&["doctor", "--seccomp", "--format", "json"]);
    let sizes: Vec<serde_json::Value> = serde_json::from_str(&sizes.out).unwrap();
    let guide = include_str!("../docs/user/security.md");
    for (role, row) in [("main", "| main (vmm) | "), ("api", "| api | "), ("vcpu", "| vCPU | ")] {
        let size = sizes.iter().find(|size| size["role"] == role).unwrap();
        let told = guide.lines().find_map(|line| line.strip_prefix(row)).unwrap();
        let told = told.replace(" calls", "").replace(" rules", "");
        let counted = format!("{}, {} |", size["calls"], size["rules"]);
        assert!(told.starts_with(&counted), "{role}: {counted} in {told}");
    }
}

#[test]
fn shells_complete_verbs_flags_and_names_of_guests() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = sandbox.carve(&["completions", shell]);
        assert!(script.code == Some(0) && script.out.contains("CARVE_COMPLETE"), "{shell}");
        sandbox.write(shell, script.out);
    }
    sandbox.write("kernel", "");
    assert_eq!(sandbox.carve(&["create", "--name", "web", "--kernel", "kernel"]).code, Some(0));
    let program = sandbox.command(&[]).get_program().to_owned();
    let complete = |words: &str| {
        let script = "source ./bash; COMP_WORDS=($WORDS); \
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMP_TYPE=9; _clap_complete_carve carve \"${COMP_WORDS[COMP_CWORD]}\"; echo \"${COMPREPLY[@]}\"";
        let folder = std::path::Path::new(&program).parent().unwrap();
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
        let mut bash = Command::new("bash");
        bash.args(["-c", script]).env("WORDS", words).env("PATH", path).current_dir(sandbox.path());
        bash.env("CARVE_ROOT", sandbox.path().join("guests"));
        let output = bash.output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(complete("carve unpa"), "unpause");
    assert_eq!(complete("carve run --kern"), "--kernel");
    assert_eq!(complete("carve stop w"), "web");
}

#[test]
fn every_command_has_its_manual_page() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.carve(&["man", "--dir", "pages"]).code, Some(0));
    for page in ["carve.1", "carve-run.1", "carve-doctor.1", "carve-completions.1"] {
        assert!(sandbox.read(&format!("pages/{page}")).contains(".TH"), "{page}");
    }
    assert!(sandbox.read("pages/carve-run.1").contains("Exit codes:"));
    let main = sandbox.carve(&["man"]);
    assert!(main.code == Some(0) && main.out.contains(".TH carve 1"), "{}", main.out);
    sandbox.carve(&["man", "--dir", "/proc/none"]).refused(&["/proc/none", "give --dir"]);
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let sandbox = Sandbox::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = sandbox.command(&["completions", "bash"]).stdout(writer).output().unwrap();
    assert!(status.status.success() && status.stderr.is_empty(), "{status:?}");
}

#[test]
fn a_terminal_is_left_as_it_was_found_after_an_error() {
    let sandbox = Sandbox::new();
    let (_user, terminal) = terminal();
    let before = modes(&tcgetattr(&terminal).unwrap());
    sandbox.write("kernel", "not a kernel");
    let output = sandbox
        .command(&["run", "--kernel", "kernel", "--kvm-device", "/none"])
        .stdin(terminal.try_clone().unwrap())
        .stdout(terminal.try_clone().unwrap())
        .output()
        .unwrap();
    Ended::from(output).refused(&["/none"]);
    assert_eq!(modes(&tcgetattr(&terminal).unwrap()), before);
    let flags = rustix::fs::fcntl_getfl(&terminal).unwrap();
    assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK), "left non-blocking");
}

/// A new pseudo-terminal: the user's end and the program's.
fn terminal() -> (fs::File, fs::File) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&user).unwrap();
    unlockpt(&user).unwrap();
    let name = ptsname(&user, Vec::new()).unwrap();
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
    let terminal = rustix::fs::open(name, flags, rustix::fs::Mode::empty()).unwrap();
    (user.into(), terminal.into())
}

fn modes(termios: &Termios) -> String {
    format!("{termios:?}")
}
