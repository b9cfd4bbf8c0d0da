//! The fixture of tests that run the binary: start it, talk to it, wait for it, bounded in time.
#![allow(dead_code, unsafe_code)] // Each test target uses its own part; signals of child processes.

pub mod conformance;
pub mod disks;
pub mod divided;
pub mod guests;
pub mod host;
pub mod inside;
pub mod networks;
#[macro_use]
pub mod payload;
pub mod ptrace;
pub mod pty;
pub mod rates;
pub mod scene;
pub mod user;
pub mod work;

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use self::pty::Pty;

/// The binary under test: CARVE_BIN, or the one built with the tests.
pub fn carve() -> Command {
    let built = option_env!("CARGO_BIN_EXE_carve").map(PathBuf::from);
    let path = std::env::var_os("CARVE_BIN").map(PathBuf::from).or(built);
    let mut command = Command::new(path.expect("a carve binary: set CARVE_BIN"));
    command.env("CARVE_ROOT", store());
    // Tests may run under `nohup` or in the background of a shell, which ignore some of these; Carve keeps to that.
    on_ending_signals(&mut command, libc::SIG_DFL);
    command
}

/// Where this test process keeps its guests, removed when it ends.
pub fn store() -> &'static Path {
    static STORE: LazyLock<PathBuf> = LazyLock::new(|| {
        extern "C" fn remove() {
            let _ = std::fs::remove_dir_all(&*STORE);
        }
        // SAFETY: the function does not unwind, and needs nothing that is gone by then.
        unsafe { libc::atexit(remove) };
        std::env::temp_dir().join(format!("carve-tests-{}", std::process::id()))
    });
    &STORE
}

/// Makes `command` start with `action`, `SIG_DFL` or `SIG_IGN`, for the signals that end Carve.
pub fn on_ending_signals(command: &mut Command, action: libc::sighandler_t) {
    let set = move || {
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
            // SAFETY: no handler is installed, only one of the two fixed actions.
            if unsafe { libc::signal(signal, action) } == libc::SIG_ERR {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: signal(2) is async-signal-safe, and the closure does nothing else.
    unsafe { command.pre_exec(set) };
}

/// Whether this machine has a KVM to test on; where it has none the reason is printed, and
/// CARVE_REQUIRE_KVM makes that a failure.
pub fn have_kvm() -> bool {
    let opened = std::fs::File::options().read(true).write(true).open("/dev/kvm");
    let Err(error) = opened else { return true };
    assert!(std::env::var_os("CARVE_REQUIRE_KVM").is_none(), "/dev/kvm: {error}");
    eprintln!("skipped: /dev/kvm cannot be opened: {error}");
    false
}

/// Declares tests that run where there is a KVM.
#[allow(unused_macros)] // Each test target uses its own part.
macro_rules! kvm_tests {
    ($($(#[$attribute:meta])* fn $name:ident() $body:block)+) => {
        $($(#[$attribute])* #[test] fn $name() { if $crate::support::have_kvm() { $body } })+
    };
}
#[allow(unused_imports)]
pub(crate) use kvm_tests;

/// Declares tests that run on PCI and on MMIO: functions that take the transport, and what else is given.
#[allow(unused_macros)] // Each test target uses its own part.
macro_rules! on_pci_and_mmio {
    ($($name:ident: $test:ident($($argument:expr),*);)+) => {
        mod pci {
            use super::*;
            $(#[test] fn $name() { $test("pci" $(, $argument)*); })+
        }
        mod mmio {
            use super::*;
            $(#[test] fn $name() { $test("mmio" $(, $argument)*); })+
        }
    };
}
#[allow(unused_imports)]
pub(crate) use on_pci_and_mmio;

/// What a finished process left.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
    pub took: Duration,
}

impl Finished {
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Asserts the exit code; shows everything when it is another.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(
            self.status.code(),
            Some(code),
            "{:?}\nstdout: {}\nstderr: {}",
            self.status,
            self.text(),
            self.stderr
        );
        self
    }
}

/// A process whose output is collected while it runs, killed when it takes too long or is dropped.
pub struct Running {
    child: Child,
    start: Instant,
    /// To a thread that writes: a process that does not read must not block the test for ever.
    input: Option<mpsc::Sender<Vec<u8>>>,
    output: mpsc::Receiver<Vec<u8>>,
    errors: mpsc::Receiver<Vec<u8>>,
    seen: Vec<u8>,
}

fn collect(mut from: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if sender.send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Writes what is sent, in order, until the sender is gone or nobody reads any more.
fn feed(mut to: impl Write + Send + 'static) -> mpsc::Sender<Vec<u8>> {
    let (sender, receiver) = mpsc::channel::<Vec<u8>>();
    thread::spawn(move || receiver.iter().try_for_each(|bytes| to.write_all(&bytes)));
    sender
}

impl Running {
    /// Starts `command` with its three streams connected to the test.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self::with(child, input, output)
    }

    /// Starts `command` on a terminal, whose user is the test.
    pub fn start_on(command: &mut Command, pty: &Pty) -> Self {
        let child = command
            .stdin(pty.terminal.try_clone().unwrap())
            .stdout(pty.terminal.try_clone().unwrap())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Self::with(child, pty.user.try_clone().unwrap(), pty.user.try_clone().unwrap())
    }

    fn with(
        mut child: Child,
        input: impl Write + Send + 'static,
        output: impl Read + Send + 'static,
    ) -> Self {
        let (input, output) = (Some(feed(input)), collect(output));
        let errors = collect(child.stderr.take().unwrap());
        Self { child, start: Instant::now(), input, output, errors, seen: Vec::new() }
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.input.as_ref().unwrap().send(bytes.to_vec()).unwrap();
    }

    pub fn close_input(&mut self) {
        self.input = None;
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: a signal to our own child, which has not been waited for yet.
        assert_eq!(unsafe { libc::kill(self.pid(), signal) }, 0);
    }

    /// Waits until the output holds `text`; returns everything so far.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> String {
        self.wait_for_count(text, 1, limit)
    }

    /// Waits until the output holds `text` that many times; returns everything so far.
    #[track_caller]
    pub fn wait_for_count(&mut self, text: &str, count: usize, limit: Duration) -> String {
        let deadline = Instant::now() + limit;
        loop {
            let seen = String::from_utf8_lossy(&self.seen);
            if seen.matches(text).count() >= count {
                return seen.into_owned();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen.extend(bytes),
                Err(_) => panic!("{text:?} did not come within {limit:?}; output: {seen}"),
            }
        }
    }

    /// Its output so far.
    pub fn seen(&mut self) -> String {
        self.seen.extend(self.output.try_iter().flatten());
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// Whether it has ended.
    pub fn exited(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for the process and all of its output.
    #[track_caller]
    pub fn finish(mut self, limit: Duration) -> Finished {
        let deadline = self.start + limit;
        self.input = None;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                let (out, err) = (drain(&self.output), drain(&self.errors));
                let stdout = [std::mem::take(&mut self.seen), out].concat();
                panic!(
                    "still running after {limit:?}\nstdout: {}\nstderr: {}",
                    String::from_utf8_lossy(&stdout),
                    String::from_utf8_lossy(&err)
                );
            }
            self.seen.extend(self.output.try_iter().flatten());
            thread::sleep(Duration::from_millis(1));
        };
        let took = self.start.elapsed();
        let stdout = [std::mem::take(&mut self.seen), drain(&self.output)].concat();
        let stderr = String::from_utf8_lossy(&drain(&self.errors)).into_owned();
        Finished { status, stdout, stderr, took }
    }
}

fn drain(receiver: &mpsc::Receiver<Vec<u8>>) -> Vec<u8> {
    let mut all = Vec::new();
    while let Ok(bytes) = receiver.recv_timeout(Duration::from_secs(2)) {
        all.extend(bytes);
    }
    all
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program of the machine to its end, and returns what it printed.
#[track_caller]
pub fn tool(command: &str) -> String {
    let mut words = command.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    let output = command.args(words).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}{errors}", output.status);
    text
}

/// The control socket of the guest `name`.
#[track_caller]
pub fn socket_of(name: &str) -> PathBuf {
    let output = carve().args(["inspect", name]).output().unwrap();
    let all: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    all[0]["socket"].as_str().unwrap().into()
}

/// Whether there is the program `name`; CARVE_REQUIRE_TOOLS makes its absence a failure.
pub fn program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(name).exists());
    assert!(found || std::env::var_os("CARVE_REQUIRE_TOOLS").is_none(), "there is no {name}");
    if !found {
        eprintln!("skipped: there is no program {name}");
    }
    found
}

/// Whether this machine, which may be emulated, virtualizes in hardware.
pub fn is_hardware_virtualization() -> bool {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    cpus.split_whitespace().any(|flag| matches!(flag, "svm" | "vmx"))
}

/// Whether this process is root's.
pub fn am_root() -> bool {
    // SAFETY: always succeeds.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("skipped: only root can do this");
    }
    root
}

/// `len` bytes that no two places share.
pub fn pattern(len: usize) -> Vec<u8> {
    let word = |index: u32| index.wrapping_mul(0x9e37_79b9).to_le_bytes();
    (0..u32::try_from(len / 4).unwrap()).flat_map(word).collect()
}

/// The MD5 digest of `bytes` in hexadecimal digits, by the machine's own tool.
#[track_caller]
pub fn md5sum(bytes: &[u8]) -> String {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let sum = tool(&format!("md5sum {}", file.path().display()));
    sum.split_whitespace().next().unwrap().to_owned()
}

/// `carve run --kernel KERNEL` with no surprises from the user's environment.
pub fn run(kernel: &Path) -> Command {
    let mut command = carve();
    command.args(["run", "--log-level", "error", "--kernel"]).arg(kernel);
    command
}
