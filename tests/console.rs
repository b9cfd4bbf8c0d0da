//! The consoles of guests without a terminal: their logs, and those who attach to them.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::termios::tcgetattr;
use support::host::{Host, run_of, until};
use support::payload;
use support::pty::Pty;

/// A command that goes on, and what it prints.
struct Going {
    child: Child,
    input: Option<ChildStdin>,
    seen: Arc<Mutex<String>>,
}

impl Going {
    fn start(host: &Host, arguments: &str) -> Self {
        let mut command = host.command(arguments);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let seen = Arc::new(Mutex::new(String::new()));
        let (mut output, shared) = (child.stdout.take().unwrap(), Arc::clone(&seen));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                shared.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Self { input: child.stdin.take(), child, seen }
    }

    fn kind(&mut self, text: &str) {
        self.input.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    #[track_caller]
    fn shows(&self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while *self.seen.lock().unwrap() != text {
            assert!(Instant::now() < deadline, "not {text:?}: {:?}", self.seen.lock().unwrap());
            thread::sleep(Duration::from_millis(2));
        }
    }

    #[track_caller]
    fn ends(mut self, code: i32) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "it goes on");
            thread::sleep(Duration::from_millis(2));
        }
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(code), "{said}");
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A detached guest with the payload `code`.
fn guest(host: &Host, code: &[u8]) -> tempfile::TempPath {
    let kernel = payload::elf(code);
    host.carve(&run_of(&kernel, "web", "")).ok();
    kernel
}

support::kvm_tests! {
    fn the_log_has_what_a_guest_said_in_all_its_runs() {
        let host = Host::new();
        let _kernel = guest(&host, payload::hello());
        host.carve("wait web").ok();
        assert_eq!(host.carve("logs web").out, "hello\n");
        host.carve("start web").ok();
        host.carve("logs --follow web").ok();
        host.carve("wait web").ok();
        assert_eq!(host.carve("logs web").out, "hello\nhello\n");
        assert_eq!(host.carve("logs --tail 1 web").out, "hello\n");
        assert_eq!(host.carve("logs -n all --since 1h web").out, "hello\nhello\n");
        assert_eq!(host.carve("logs --until 1h web").out, "");
        let timed = host.carve("logs -t web").out;
        assert_eq!(timed.lines().filter(|line| line.ends_with("Z hello") && line.starts_with("20")).count(), 2);
        host.carve("logs -n some web").refused(&["some", "all"]);
        host.carve("logs nobody").refused(&["no guest nobody"]);
    }

    fn not_a_byte_is_missing_of_a_guest_that_says_all_it_has_at_once_and_ends() {
        let host = Host::new();
        let _kernel = guest(&host, payload::flood());
        host.carve("wait web").ok();
        let log = host.carve("logs web").out;
        assert_eq!(log.len(), 4096 * 64);
        assert!(log.lines().all(|line| line.starts_with("0123456789abc") && line.len() == 63));
    }

    fn a_log_goes_on_where_a_killed_monitor_left_it() {
        let host = Host::new();
        let _kernel = guest(&host, payload::echo());
        let mut attached = Going::start(&host, "attach web");
        attached.kind("one ");
        attached.shows("one ");
        until(|| host.carve("logs web").out == "one ");
        host.kill_9("web", &["monitor_pid"]);
        attached.kind("two ");
        attached.shows("one two ");
        // This finds the monitor dead, and starts another.
        host.carve("ps").ok();
        attached.kind("three");
        attached.shows("one two three");
        until(|| host.carve("logs web").out.len() >= 13);
        assert_eq!(host.carve("logs web").out, "one two three");
        // What was said is kept also of a guest that is killed.
        host.carve("kill web").ok();
        attached.ends(137);
        assert_eq!(host.carve("logs web").out, "one two three");
    }

    fn a_torrent_fills_two_files_and_goes_on() {
        const LIMIT: u64 = 8 << 20;
        let host = Host::new();
        let kernel = payload::elf(payload::torrent());
        host.carve(&run_of(&kernel, "web", "").replace("run -d", "create")).ok();
        let folder = host.inspect("web")["state_folder"].as_str().unwrap().to_owned();
        let size = |file: &str| fs::metadata(format!("{folder}/{file}")).map_or(0, |it| it.len());
        // Almost full, and so is what was set aside before.
        let old = "from the run before\n".repeat((usize::try_from(LIMIT).unwrap() - 20_000) / 20);
        fs::write(format!("{folder}/console.log"), &old).unwrap();
        fs::write(format!("{folder}/console.log.1"), &old).unwrap();
        host.carve("start web").ok();
        until(|| size("console.log") < LIMIT / 2 && size("console.log") > 30_000);
        assert!((old.len() as u64..=LIMIT).contains(&size("console.log.1")));
        let log = host.carve("logs web").out;
        let (before, now) = log.split_once("0123").unwrap();
        assert_eq!(before, old);
        assert!(!now.contains("lost") && now.len() > 30_000);
        assert_eq!(host.carve("logs -n 2 web").out.lines().count(), 2);
        host.carve("kill web").ok();
    }

    fn who_follows_gets_what_comes_and_is_released_at_the_end() {
        let host = Host::new();
        let _kernel = guest(&host, payload::echo());
        let following = Going::start(&host, "logs -f web");
        let mut attached = Going::start(&host, "attach web");
        attached.kind("hi");
        following.shows("hi");
        attached.kind("q");
        following.shows("hiq");
        following.ends(0);
        attached.ends(0);
    }

    fn several_are_attached_at_once_and_all_may_type() {
        let host = Host::new();
        let _kernel = guest(&host, payload::echo());
        let (mut first, mut second) = (Going::start(&host, "attach web"), Going::start(&host, "attach web"));
        first.kind("a");
        first.shows("a");
        second.shows("a");
        second.kind("b");
        first.shows("ab");
        second.shows("ab");
        let looking = Going::start(&host, "attach --no-stdin web");
        looking.shows("ab");
        // Who has nothing more to type goes on to look.
        first.input = None;
        second.kind("q");
        for one in [first, second, looking] {
            one.shows("abq");
            one.ends(0);
        }
        host.carve("attach web").refused(&["web does not run", "carve start"]);
    }

    fn the_end_of_a_guest_that_is_removed_with_it_is_told_to_who_watched() {
        let host = Host::new();
        let kernel = payload::elf(payload::echo());
        for (code, end) in [(137, "kill web"), (143, "kill -s TERM web")] {
            host.carve(&run_of(&kernel, "web", "--rm")).ok();
            let (mut attached, waiting) = (Going::start(&host, "attach web"), Going::start(&host, "wait web"));
            attached.kind("hi");
            attached.shows("hi");
            host.carve(end).ok();
            attached.ends(code);
            waiting.shows(&format!("{code}\n"));
            waiting.ends(0);
            until(|| host.guests().is_empty());
        }
    }

    fn the_detach_keys_leave_a_terminal_as_it_was_and_the_guest_running() {
        let host = Host::new();
        let _kernel = guest(&host, payload::echo());
        for (flags, keys) in [("", "\x10\x11"), ("--detach-keys ctrl-a,d", "\x01d")] {
            let pty = Pty::open();
            let modes = || format!("{:?}", tcgetattr(&pty.terminal).unwrap());
            let found = modes();
            let mut command = host.command(&format!("attach {flags} web"));
            command.stdin(pty.terminal.try_clone().unwrap()).stdout(pty.terminal.try_clone().unwrap());
            let mut child = command.stderr(Stdio::null()).spawn().unwrap();
            until(|| modes() != found);
            // Ctrl-C and half of the keys are for the guest.
            let (mut user, half) = (&pty.user, &keys[..1]);
            user.write_all(format!("\x03{half}.").as_bytes()).unwrap();
            let (mut seen, expected) = (Vec::new(), format!("\x03{half}."));
            while !seen.ends_with(expected.as_bytes()) {
                let mut buffer = [0; 100];
                let count = user.read(&mut buffer).unwrap();
                seen.extend_from_slice(&buffer[..count]);
            }
            user.write_all(keys.as_bytes()).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(0));
            assert_eq!(modes(), found);
            assert_eq!(host.state("web"), "running");
        }
        host.carve("attach --detach-keys ctrl-1 web").refused(&["ctrl-1", "is no key"]);
    }

    fn a_guest_is_started_and_shown_from_its_first_byte() {
        let host = Host::new();
        let kernel = payload::elf(payload::hello());
        host.carve(&run_of(&kernel, "web", "").replace("run -d", "create")).ok();
        for _ in 0..3 {
            let said = host.carve("start -a web");
            assert_eq!((said.code, said.out.as_str()), (0, "hello\n"), "{said:?}");
        }
        let faulty = payload::elf(payload::triple_fault());
        host.carve(&run_of(&faulty, "bad", "").replace("run -d", "create")).ok();
        assert_eq!(host.carve("start --attach bad").code, 1);
        host.carve("start -a web bad").refused(&["one guest"]);
    }
}
