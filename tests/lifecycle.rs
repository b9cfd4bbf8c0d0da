//! Guests from their creation to their removal, by the commands a user types, with guests of a few
//! instructions on this host's own KVM.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::{Duration, Instant};

use serde_json::Value;
use support::host::{Host, run_of, spinning, until};
use support::{have_kvm, payload};

support::kvm_tests! {
    fn a_detached_guest_runs_until_it_is_stopped_and_is_there_until_it_is_removed() {
        let host = Host::new();
        let kernel = payload::elf(payload::spin());
        let id = host.carve(&run_of(&kernel, "web", "--label tier=front")).ok();
        let listed = host.guests();
        assert_eq!((listed.len(), &listed[0]["id"], &listed[0]["state"]), (1, &Value::from(id.clone()), &"running".into()));
        assert_eq!(listed[0]["labels"]["tier"], "front");
        assert_eq!(host.carve("ps -q").ok(), id);
        // It hears no power button.
        assert_eq!(host.carve("stop -t 0 web").ok(), "web");
        assert_eq!(host.carve("ps -q").ok(), "");
        let report = host.inspect(&id[..5]);
        assert_eq!((report["state"].as_str(), report["last_run"]["ended"]["exit_code"].as_u64()), (Some("exited"), Some(137)));
        assert!(host.processes().is_empty(), "{:?}", host.processes());
        host.carve("rm web").ok();
        assert!(host.guests().is_empty());
        assert_eq!(std::fs::read_dir(host.root.path().join("run")).unwrap().count(), 0);
        let journal = std::fs::read_to_string(host.root.path().join("state/events.ndjson")).unwrap();
        let events: Vec<_> = journal.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["event"].clone()).collect();
        assert_eq!(events, ["created", "started", "power-button", "exited", "removed"]);
    }

    fn a_guest_is_created_started_waited_for_and_started_again() {
        let host = Host::new();
        let kernel = payload::elf(payload::power_off());
        host.carve(&run_of(&kernel, "job", "").replace("run -d", "create")).ok();
        assert_eq!((host.state("job").as_str(), host.carve("wait job").ok().as_str()), ("created", "0"));
        for run in 1..=2 {
            host.carve("start job").ok();
            assert_eq!(host.carve("wait job").ok(), "0");
            until(|| host.state("job") == "exited");
            let report = host.inspect("job");
            assert_eq!((report["last_run"]["run"].as_u64(), report["last_run"]["ended"]["kind"].as_str()), (Some(run), Some("powered-off")));
        }
    }

    fn what_keeps_a_guest_from_starting_is_said_by_the_command_that_starts_it() {
        let host = Host::new();
        let kernel = payload::elf(payload::spin());
        host.carve(&run_of(&kernel, "web", "").replace("run -d", "create")).ok();
        let path = kernel.to_path_buf();
        drop(kernel);
        host.carve("start web").refused(&["web could not be started", path.to_str().unwrap(), "No such file"]);
        assert_eq!(host.state("web"), "exited");
        assert_eq!(host.inspect("web")["last_run"]["ended"]["exit_code"], 125);
        let kernel = payload::elf(payload::spin());
        host.carve(&run_of(&kernel, "db", "--kvm-device /dev/null")).refused(&["db could not be started", "/dev/null"]);
        assert!(host.processes().is_empty(), "{:?}", host.processes());
    }

    fn names_belong_to_one_guest_at_a_time() {
        let host = Host::new();
        let kernel = spinning(&host, "web", "");
        host.carve(&run_of(&kernel, "web", "")).refused(&["the name web is taken"]);
        host.carve("rename web front").ok();
        host.carve("kill web").refused(&["no guest web"]);
        host.carve(&run_of(&kernel, "web", "")).ok();
        host.carve("rename front web").refused(&["taken"]);
        host.carve("kill front web").ok();
        host.carve("prune").ok();
        assert!(host.guests().is_empty());
    }

    fn verbs_refuse_what_makes_no_sense_and_say_what_would() {
        let host = Host::new();
        host.carve("stop nobody").refused(&["no guest nobody", "carve ps -a"]);
        let _kernel = spinning(&host, "web", "");
        host.carve("rm web").refused(&["web is running", "carve stop", "-f"]);
        host.carve("start web").ok();
        host.carve("unpause web").refused(&["web"]);
        host.carve("kill web").ok();
        host.carve("kill web").refused(&["web is exited", "carve start"]);
        host.carve("pause web").refused(&["web is exited"]);
        host.carve("stop web").ok();
        let both = host.carve("rm nobody web");
        assert_eq!((both.code, both.out.as_str()), (1, "web\n"), "{both:?}");
        host.carve("run -d --rm --restart always --kernel x").refused(&["--rm", "--restart"]);
        host.carve("run --restart always --kernel /dev/null").refused(&["-d"]);
    }

    fn what_hands_are_used_to_from_containers_works() {
        let host = Host::new();
        let _kernel = spinning(&host, "web", "");
        let id = host.carve("ls -q --no-trunc").ok();
        assert_eq!(host.carve("inspect --format json web").ok(), host.carve(&format!("inspect {id}")).ok());
        host.carve("stop --time 0 web").ok();
        assert_eq!(host.carve("prune -f").ok(), "web");
        host.carve("rm nobody").refused(&["no guest nobody"]);
        host.carve("rm -f nobody").ok();
    }

    fn ends_are_explained() {
        let host = Host::new();
        let kernel = payload::elf(payload::triple_fault());
        host.carve(&run_of(&kernel, "faulty", "")).ok();
        assert_eq!(host.carve("wait faulty").ok(), "1");
        let ended = host.inspect("faulty")["last_run"]["ended"].clone();
        assert_eq!(ended["kind"], "crashed");
        assert!(ended["message"].as_str().unwrap().contains("triple fault"), "{ended}");
        let _kernel = spinning(&host, "web", "");
        host.carve("kill web").ok();
        assert_eq!(host.inspect("web")["last_run"]["ended"]["message"], "the guest was killed on request");
    }

    fn a_killed_monitor_is_replaced_and_the_guest_goes_on() {
        let host = Host::new();
        let _kernel = spinning(&host, "web", "--rm");
        let before = host.inspect("web");
        host.kill_9("web", &["monitor_pid"]);
        assert_eq!(host.state("web"), "running");
        until(|| host.inspect("web")["monitor_pid"].is_i64());
        let after = host.inspect("web");
        assert_eq!(before["pid"], after["pid"]);
        assert_ne!(before["monitor_pid"], after["monitor_pid"]);
        // The new one does what the old one would have done.
        host.kill_9("web", &["pid"]);
        until(|| host.state("web") == "none" && host.processes().is_empty());
    }

    fn a_guest_whose_processes_were_all_killed_is_put_right_by_the_next_command() {
        let host = Host::new();
        let _kernel = spinning(&host, "web", "");
        let _other = spinning(&host, "gone", "--rm");
        for name in ["web", "gone"] {
            host.kill_9(name, &["monitor_pid", "pid"]);
        }
        assert_eq!((host.state("web").as_str(), host.state("gone").as_str()), ("exited", "none"));
        let ended = host.inspect("web")["last_run"]["ended"].clone();
        assert_eq!((ended["kind"].as_str(), ended["exit_code"].as_u64()), (Some("killed"), Some(137)));
        host.carve("start web").ok();
        assert_eq!(host.state("web"), "running");
    }

    fn policies_start_guests_again() {
        let host = Host::new();
        let faulty = payload::elf(payload::triple_fault());
        host.carve(&run_of(&faulty, "twice", "--restart on-failure:2")).ok();
        until(|| host.inspect("twice")["last_run"]["restarts"] == 2 && host.state("twice") == "exited");
        let done = payload::elf(payload::power_off());
        host.carve(&run_of(&done, "once", "--restart on-failure")).ok();
        until(|| host.state("once") == "exited" && host.inspect("once")["monitor_pid"].is_null());
        assert_eq!(host.inspect("once")["last_run"]["restarts"], 0);
        host.carve(&run_of(&done, "always", "--restart always")).ok();
        until(|| host.inspect("always")["last_run"]["restarts"].as_u64() >= Some(3));
        // Also while it waits for its next start.
        host.carve("stop always").ok();
        assert_eq!(host.state("always"), "exited");
        assert!(host.processes().is_empty(), "{:?}", host.processes());
    }

    fn a_guest_is_started_again_whose_monitor_died_while_waiting() {
        let host = Host::new();
        let done = payload::elf(payload::power_off());
        host.carve(&run_of(&done, "always", "--restart always")).ok();
        until(|| host.state("always") == "restarting" && host.inspect("always")["last_run"]["restarts"].as_u64() >= Some(3));
        host.kill_9("always", &["monitor_pid", "pid"]);
        let runs = || host.inspect("always")["last_run"]["run"].as_u64().unwrap();
        let before = runs();
        until(|| runs() > before);
    }

    fn filters_and_quiet_lists_serve_scripts() {
        let host = Host::new();
        let kernel = payload::elf(payload::spin());
        for (name, flags) in [("web-1", "--label tier=front"), ("web-2", "--label tier=back"), ("db", "-l tier=back -l main")] {
            host.carve(&run_of(&kernel, name, flags).replace("run -d", "create")).ok();
        }
        let names = |filters: &str| {
            let list: Value = serde_json::from_str(&host.carve(&format!("ps -a --format json {filters}")).ok()).unwrap();
            let guests = list["guests"].as_array().unwrap().clone();
            guests.iter().map(|guest| guest["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names("--filter name=web"), ["web-1", "web-2"]);
        assert_eq!(names("--filter label=tier=back"), ["web-2", "db"]);
        assert_eq!(names("--filter label=tier=back --filter label=main"), ["db"]);
        assert_eq!(names("--filter state=running"), [""; 0]);
        assert_eq!(host.carve("ps -q --filter state=created").ok().lines().count(), 3);
        assert_eq!(host.carve("ps").ok().lines().count(), 1);
    }

    fn fifty_commands_at_once_neither_block_nor_break_each_other() {
        let host = Host::new();
        let kernel = payload::elf(payload::spin());
        let _web = host.carve(&run_of(&kernel, "web", "").replace("run -d", "create")).ok();
        let verbs = ["start web", "stop -t 0 web", "kill web", "ps -a", "restart -t 0 web", "inspect web", "rename web web"];
        let mut children: Vec<_> = (0..50)
            .map(|number| match number % 8 {
                7 => host.command(&run_of(&kernel, "same", "")).spawn().unwrap(),
                verb => host.command(verbs[verb]).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap(),
            })
            .collect();
        let start = Instant::now();
        for child in &mut children {
            while child.try_wait().unwrap().is_none() {
                assert!(start.elapsed() < Duration::from_secs(100), "a command hangs");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let guests = host.guests();
        assert_eq!(guests.len(), 2, "{guests:?}");
        host.carve("rm -f web same").ok();
        assert!(host.processes().is_empty(), "{:?}", host.processes());
    }

    fn thirty_guests_are_started_paused_resumed_and_removed_in_parallel() {
        let host = Host::new();
        let kernel = payload::elf(payload::spin());
        let each = |command: &(dyn Fn(String) -> String + Sync)| {
            std::thread::scope(|scope| {
                for number in 0..30 {
                    let host = &host;
                    scope.spawn(move || host.carve(&command(format!("guest-{number}"))).ok());
                }
            });
        };
        let count = |state| host.carve(&format!("ps -q --filter state={state}")).ok().lines().count();
        each(&|name| run_of(&kernel, &name, ""));
        assert_eq!(count("running"), 30);
        each(&|name| format!("pause {name}"));
        assert_eq!(count("paused"), 30);
        each(&|name| format!("unpause {name}"));
        assert_eq!(count("running"), 30);
        each(&|name| format!("rm -f {name}"));
        assert!(host.guests().is_empty() && host.processes().is_empty());
    }
}

/// What a guest should be like after the verbs so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Model {
    None,
    Created,
    Running,
    Paused,
    Exited,
}

impl Model {
    fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Exited => "exited",
        }
    }

    /// What follows when `verb` is done in this state, and whether it is to succeed.
    fn after(self, verb: &str) -> (Self, bool) {
        use Model::{Created, Exited, None, Paused, Running};
        match (verb, self) {
            ("rm -f", None) => (None, true),
            ("create", None) => (Created, true),
            ("run", None) => (Running, true),
            ("create" | "run", other) | (_, other @ None) => (other, false),
            ("start", Created | Exited) | ("restart", _) => (Running, true),
            ("start", other) => (other, true),
            ("stop", Running | Paused) | ("kill", Running | Paused) => (Exited, true),
            ("stop", other) => (other, true),
            ("pause", Running) => (Paused, true),
            ("unpause", Paused) => (Running, true),
            ("rm", Created | Exited) | ("rm -f", _) => (None, true),
            (_, other) => (other, false),
        }
    }
}

/// A small generator of numbers, so that a failure can be repeated (CARVE_SEED).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        // Knuth's MMIX generator; its high bits are good enough to choose verbs by.
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

#[test]
fn a_thousand_random_verbs_with_killed_processes_in_between_do_what_a_model_does() {
    if !have_kvm() {
        return;
    }
    let seed = std::env::var("CARVE_SEED").map_or(20_261, |seed| seed.parse().unwrap());
    let mut random = Random(seed);
    let host = Host::new();
    let kernel = payload::elf(payload::spin());
    let verbs =
        ["create", "run", "start", "stop", "kill", "restart", "pause", "unpause", "rm", "rm -f"];
    let names = ["one", "two", "three"];
    let mut models = [Model::None; 3];
    for step in 0..1000 {
        let which = random.below(names.len());
        let (name, model) = (names[which], models[which]);
        if random.below(6) == 0 && matches!(model, Model::Running | Model::Paused) {
            let killed: &[&str] = match random.below(3) {
                0 => &["monitor_pid"],
                1 => &["pid"],
                _ => &["monitor_pid", "pid"],
            };
            host.kill_9(name, killed);
            if killed.contains(&"pid") {
                models[which] = Model::Exited;
                let start = Instant::now();
                while host.state(name) != "exited" {
                    let context = format!(
                        "CARVE_SEED={seed}, step {step}: {killed:?} of {name}, which was {model:?}"
                    );
                    assert!(
                        start.elapsed() < Duration::from_secs(20),
                        "{context}: {}",
                        host.inspect(name)
                    );
                }
            }
            continue;
        }
        let verb = verbs[random.below(verbs.len())];
        let said = host.carve(&match verb {
            "create" => run_of(&kernel, name, "").replace("run -d", "create"),
            "run" => run_of(&kernel, name, ""),
            "stop" | "restart" => format!("{verb} -t 0 {name}"),
            verb => format!("{verb} {name}"),
        });
        let (after, succeeds) = model.after(verb);
        let context =
            format!("CARVE_SEED={seed}, step {step}: {verb} {name}, which was {model:?}: {said:?}");
        assert_eq!(said.code == 0, succeeds, "{context}");
        assert_eq!(host.state(name), after.word(), "{context}");
        models[which] = after;
    }
}

#[test]
fn limits_that_cannot_be_enforced_are_shown_where_guests_are() {
    // A host that can enforce all of them shows none.
    let can = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    if !have_kvm() || can {
        return;
    }
    let host = Host::new();
    payload::write_elf(payload::halt(), &host.root.path().join("halt"));
    let file = |enforce: &str| {
        let text =
            format!("[vm.a]\nkernel = \"halt\"\nmemory = \"16MiB\"\nenforce = \"{enforce}\"\n");
        std::fs::write(host.root.path().join("carve.toml"), text).unwrap();
        host.carve("apply carve.toml")
    };
    file("strict").refused(&["[controller-missing]", "best-effort"]);
    file("best-effort").ok();
    let table = host.carve("ps").ok();
    assert!(table.contains("(No limits of cpu, cpuset, hugetlb, io, memory"), "{table}");
    let listed = host.guests()[0]["unenforced"].as_array().unwrap()[..5].to_vec();
    assert_eq!(listed, ["cpu", "cpuset", "hugetlb", "io", "memory"]);
    assert_eq!(host.inspect("a")["unenforced"], host.guests()[0]["unenforced"]);
    // What was not asked of the kernel is not missed.
    assert!(!host.carve("verify").out.contains("oom_score_adj"));
    host.carve("stop -t 0 a").ok();
    assert_eq!(host.guests()[0].get("unenforced"), None);
}
