//! What a guest's VMM can still do once its guest runs, seen from outside: by the kernel's word about each of its
//! threads, and by having threads try what they may not.
#![allow(clippy::unwrap_used, unsafe_code, missing_docs)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use support::host::{Host, clerk_of, run_of, thread, threads, until, zombie};
use support::ptrace::inject_call;
use support::{am_root, have_kvm, payload, program};

macro_rules! kvm_tests {
    ($(fn $name:ident() $body:block)+) => {
        $(#[test] fn $name() { if have_kvm() { $body } })+
    };
}

/// A detached guest that writes to a disk, and its VMM's process id.
struct Jailed {
    host: Host,
    pid: i32,
    _files: (tempfile::TempPath, tempfile::NamedTempFile),
}

impl Jailed {
    /// One whose guest drives every device there is; none where nobody built that guest.
    fn driving() -> Option<Self> {
        let guest = payload::bare_metal()?;
        let host = Host::new();
        let kernel = tempfile::NamedTempFile::new_in("/var/tmp").unwrap().into_temp_path();
        fs::copy(guest, &kernel).unwrap();
        let disk = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        disk.as_file().set_len(1 << 20).unwrap();
        let flags = format!(
            "--cmdline drive=1 --memory 64MiB --disk path={} --console file=console --vsock cid=3,socket=vsock --balloon --net tap=carvejail {}",
            disk.path().display(),
            if program("passt") { "--net user" } else { "" }
        );
        let run = run_of(&kernel, "web", "").replace("--memory 16MiB", &flags);
        host.carve(&run).ok();
        until(|| host.carve("logs web").out.contains("driving"));
        let pid = host.pid("web");
        Some(Self { host, pid, _files: (kernel, disk) }.violated())
    }

    fn start(flags: &str) -> Self {
        let host = Host::new();
        let kernel = payload::elf(payload::disk_pci());
        let disk = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        disk.as_file().set_len(1 << 20).unwrap();
        let flags = format!("--disk path={} {flags}", disk.path().display());
        host.carve(&run_of(&kernel, "web", &flags)).ok();
        let pid = host.pid("web");
        let jailed = Self { host, pid, _files: (kernel, disk) };
        let begun = Instant::now();
        for name in ["vcpu0", "block-q0", "api", "console", "nursery", "carve-vmm"] {
            while jailed.thread(name).is_none() {
                assert!(
                    begun.elapsed() < Duration::from_secs(20),
                    "no {name}: {}",
                    jailed.host.inspect("web")
                );
            }
        }
        jailed
    }

    /// One whose threads are to make forbidden calls.
    fn violated(mut self) -> Self {
        self.host.has_violations = true;
        self
    }

    fn proc(&self) -> PathBuf {
        Path::new("/proc").join(self.pid.to_string())
    }

    /// Those of its VMM; not those of the kernel's own.
    fn threads(&self) -> Vec<(String, PathBuf)> {
        let kernels = |name: &str| name.starts_with("kvm-") || name.starts_with("iou-");
        threads(self.pid).into_iter().filter(|(name, _)| !kernels(name)).collect()
    }

    fn thread(&self, name: &str) -> Option<i32> {
        thread(self.pid, name)
    }
}

/// The value of `key` in a status file of /proc.
fn status(folder: &Path, key: &str) -> Option<String> {
    let text = fs::read_to_string(folder.join("status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t"));
    line.map(str::to_owned)
}

/// How the kernel runs a thread that asks for no speculation (Documentation/userspace-api/spec_ctrl.rst), where it lets
/// threads choose: store bypass, and indirect branches.
fn without_speculation() -> [Option<String>; 2] {
    let asked = std::thread::spawn(|| {
        for what in [libc::PR_SPEC_STORE_BYPASS, libc::PR_SPEC_INDIRECT_BRANCH] {
            // SAFETY: changes how this thread is run.
            unsafe {
                libc::prctl(libc::PR_SET_SPECULATION_CTRL, what, libc::PR_SPEC_DISABLE, 0, 0)
            };
        }
        speculation(Path::new("/proc/thread-self"))
    });
    asked.join().unwrap()
}

fn speculation(thread: &Path) -> [Option<String>; 2] {
    ["Speculation_Store_Bypass", "SpeculationIndirectBranch"].map(|key| status(thread, key))
}

kvm_tests! {
    fn every_thread_is_filtered_and_has_no_rights_and_no_files() {
        if !am_root() {
            return;
        }
        let jailed = Jailed::start("");
        for (name, folder) in jailed.threads() {
            let is = |key: &str, value: &str| assert_eq!(status(&folder, key).as_deref(), Some(value), "{name}: {key}");
            is("Seccomp", "2");
            is("NoNewPrivs", "1");
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                is(set, "0000000000000000");
            }
            assert_eq!(speculation(&folder), without_speculation(), "{name}");
            // Nobody's user but its own.
            let uid: u32 = status(&folder, "Uid").unwrap().split_whitespace().next().unwrap().parse().unwrap();
            assert_eq!(uid, 0x7000_0000 + jailed.pid.unsigned_abs(), "{name}");
            assert_eq!(status(&folder, "Groups").unwrap().trim(), "", "{name}");
        }
        // As much memory locked as rings take, no cores, and no more threads than its devices need: a vCPU, a disk's
        // queue with what the kernel may begin for its 256 entries, and 64.
        let limits = fs::read_to_string(jailed.proc().join("limits")).unwrap();
        let limit = |name: &str| {
            let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().take(2).map(|word| word.parse().unwrap()).collect::<Vec<u64>>()
        };
        assert_eq!(limit("Max core file size"), [0, 0]);
        assert!(limit("Max locked memory").iter().all(|&bytes| bytes <= 8 << 20));
        assert_eq!(limit("Max processes"), [64 + 1 + 257; 2]);
        let root = jailed.proc().join("root");
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
        let error = fs::write(root.join("file"), "").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
        let environment = fs::read(jailed.proc().join("environ")).unwrap();
        assert!(environment.iter().all(|&byte| byte == 0), "{environment:?}");
        for space in ["mnt", "net", "ipc", "uts", "cgroup"] {
            let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/{space}")).unwrap();
            assert_ne!(of(&jailed.pid.to_string()), of("self"), "{space}");
        }
        // Guest memory is none of the memory that the kernel merges ("mg", proc_pid_smaps(5)).
        let maps = fs::read_to_string(jailed.proc().join("smaps")).unwrap();
        let flags: Vec<_> = maps.lines().filter_map(|line| line.strip_prefix("VmFlags: ")).collect();
        assert!(flags.len() > 10 && flags.iter().all(|flags| !flags.split(' ').any(|flag| flag == "mg")));
        // What belongs to the process is root's, as it may not be looked into.
        let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(jailed.proc().join("mem")).unwrap());
        assert_eq!(owner, 0);
        jailed.host.carve("kill web").ok();
    }

    fn a_thread_of_any_kind_that_makes_a_forbidden_call_ends_its_guest_and_says_so() {
        if !am_root() {
            return;
        }
        let threads = [
            ("carve-vmm", "main"),
            ("vcpu0", "vcpu"),
            ("block-q0", "block"),
            ("api", "api"),
            ("console", "console"),
            ("nursery", "nursery"),
            ("net0-0", "net"),
            ("virtio-console", "virtio-console"),
            ("balloon", "balloon"),
            ("rng", "rng"),
            ("vsock", "vsock"),
            ("passt", "passt"),
        ];
        for (number, (thread, role)) in threads.into_iter().enumerate() {
            if thread == "passt" && !program("passt") {
                continue;
            }
            let Some(jailed) = Jailed::driving() else { return };
            let names = || jailed.threads().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
            let tid = jailed.thread(thread).unwrap_or_else(|| panic!("no {thread}: {:?}", names()));
            let (call, name) = [(libc::SYS_execve, "execve"), (libc::SYS_ptrace, "ptrace")][number % 2];
            inject_call(tid, call);
            until(|| jailed.host.state("web") == "exited");
            // Its monitor writes it down once it is gone.
            until(|| jailed.host.inspect("web")["last_run"]["ended"].is_object());
            let ended = &jailed.host.inspect("web")["last_run"]["ended"];
            assert_eq!((ended["kind"].as_str(), ended["exit_code"].as_u64()), (Some("forbidden-call"), Some(159)), "{ended}");
            let message = ended["message"].as_str().unwrap();
            assert!(message.starts_with(&format!("the thread {role} made the system call {name} ({call};")), "{message}");
        }
    }

    fn who_hears_a_vmm_from_outside_its_jail_is_filtered_and_its_guest_outlives_a_violation() {
        if !am_root() {
            return;
        }
        let jailed = Jailed::start("").violated();
        let monitor = jailed.host.inspect("web")["monitor_pid"].as_i64().unwrap();
        let (clerk, monitor) = (clerk_of(jailed.pid), i32::try_from(monitor).unwrap());
        for (pid, process, call, name) in [
            (clerk, "clerk", libc::SYS_execve, "execve"),
            (monitor, "monitor", libc::SYS_ptrace, "ptrace"),
        ] {
            let folder = Path::new("/proc").join(pid.to_string());
            assert_eq!(threads(pid).len(), 1, "{process}");
            for (key, value) in [("Seccomp", "2"), ("NoNewPrivs", "1")] {
                assert_eq!(status(&folder, key).as_deref(), Some(value), "{process}: {key}");
            }
            inject_call(pid, call);
            until(|| !folder.exists() || zombie(pid.into()));
            let messages = jailed.host.messages("web");
            assert!(messages.contains(&format!("the thread {process} made the system call {name} ({call};")), "{messages}");
        }
        assert_eq!(jailed.host.state("web"), "running");
        jailed.host.carve("kill web").ok();
        until(|| jailed.host.inspect("web")["last_run"]["ended"].is_object());
    }

    fn what_is_forbidden_is_noted_but_done_while_lists_are_tried_out() {
        if !am_root() {
            return;
        }
        let jailed = Jailed::start("--seccomp log");
        inject_call(jailed.thread("api").unwrap(), libc::SYS_getppid);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(jailed.host.state("web"), "running");
        jailed.host.carve("kill web").ok();
    }

    fn without_a_jail_the_guest_runs_and_the_user_is_told() {
        let kernel = payload::elf(payload::power_off());
        let mut command = support::run(&kernel);
        command.args(["--jail", "off", "--seccomp", "off"]);
        let done = support::Running::start(&mut command).finish(Duration::from_secs(20)).expect(0);
        assert!(done.stderr.contains("--jail off") && done.stderr.contains("only for debugging"), "{}", done.stderr);
    }

    fn a_guest_is_reset_again_and_again_in_its_jail() {
        let kernel = payload::elf(payload::reset());
        let mut command = support::run(&kernel);
        let done = support::Running::start(command.args(["--jail", "strict"])).finish(Duration::from_secs(60)).expect(1);
        assert!(done.stderr.contains("rebooted 11 times"), "{}", done.stderr);
    }

    fn guests_that_run_side_by_side_are_different_users() {
        if !am_root() {
            return;
        }
        let (one, other) = (Jailed::start(""), Jailed::start(""));
        let user = |jailed: &Jailed| status(&jailed.proc(), "Uid").unwrap();
        assert_ne!(user(&one), user(&other));
    }
}
