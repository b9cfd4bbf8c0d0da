//! Hosts whose file systems or memory are full, with guests of a few instructions on this host's own KVM.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::host::{Host, run_of, spinning, until};
use support::payload;

/// A small file system, there until this is dropped.
struct Small(PathBuf);

impl Small {
    /// Of `size` at `path`; nothing where that is not allowed.
    fn mount(path: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(path);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("skipped: a file system cannot be mounted");
        }
        mounted.then(|| Self(path.to_owned()))
    }

    fn fill(&self) {
        assert!(fs::write(self.0.join("fill"), vec![1; 16 << 20]).is_err());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A control group with little memory, there until this is dropped.
struct Group(PathBuf);

impl Group {
    /// With so much memory; nothing where there can be none.
    fn with_memory(bytes: u32) -> Option<Self> {
        let name = format!("carve-test-{}", std::process::id());
        let groups = Path::new("/sys/fs/cgroup");
        let first_version = groups.join("memory");
        let (group, limit) = match first_version.exists() {
            true => (first_version.join(name), "memory.limit_in_bytes"),
            false => (groups.join(name), "memory.max"),
        };
        let made = fs::create_dir(&group).and_then(|()| {
            let group = Self(group);
            fs::write(group.0.join(limit), bytes.to_string())?;
            Ok(group)
        });
        made.inspect_err(|error| eprintln!("skipped: there is no control group: {error}")).ok()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

support::kvm_tests! {
    fn a_guest_that_is_killed_for_lack_of_memory_is_told_from_one_that_somebody_killed() {
        let host = Host::new();
        let Some(group) = Group::with_memory(24 << 20) else { return };
        let kernel = payload::elf(payload::spin());
        let arguments = run_of(&kernel, "big", "--prefault").replace("16MiB", "256MiB");
        let carve = host.command(&arguments);
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(group.0.join("cgroup.procs"));
        shell.arg(carve.get_program()).args(carve.get_args());
        shell.envs(carve.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let said = shell.output().unwrap();
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(!said.status.success() && text.contains("ran out of memory"), "{text}");
        assert_eq!(host.inspect("big")["last_run"]["ended"]["kind"], "out-of-memory");

        let _kernel = spinning(&host, "small", "");
        host.kill_9("small", &["pid"]);
        // Its monitor writes it down once it is gone.
        until(|| host.inspect("small")["last_run"]["ended"].is_object());
        assert_eq!(host.inspect("small")["last_run"]["ended"]["kind"], "killed");
    }

    fn the_end_of_a_guest_tells_that_its_disk_found_no_room() {
        let host = Host::new();
        let Some(small) = Small::mount(&host.root.path().join("disks"), "64k") else { return };
        let disk = small.0.join("data.raw");
        fs::File::create(&disk).unwrap().set_len(1 << 20).unwrap();
        let kernel = payload::elf(payload::disk_pci());
        // It powers off when a write fails.
        host.carve(&run_of(&kernel, "db", &format!("--disk {}", disk.display()))).ok();
        assert_eq!(host.carve("wait db").ok(), "0");
        let run = host.inspect("db")["last_run"].clone();
        let (ended, shortage) = (&run["ended"], &run["no_room"][0]);
        assert_eq!((&ended["kind"], &shortage["disk"]), (&"powered-off".into(), &"disk0".into()), "{run}");
        let words = format!("no room left for its disk disk0 ({})", disk.display());
        assert!(ended["message"].as_str().unwrap().contains(&words), "{run}");
        let told = host.carve("events --since 10m --until 0s -f event=disk-full").ok();
        let told: Value = serde_json::from_str(&told).unwrap();
        assert_eq!((&told["details"]["disk"], &told["details"]["path"]), (&"disk0".into(), &disk.to_str().unwrap().into()));
        // The next run is another matter.
        fs::remove_file(&disk).unwrap();
        fs::File::create(&disk).unwrap().set_len(32 << 10).unwrap();
        host.carve("start db").ok();
        assert_eq!(host.inspect("db")["last_run"]["no_room"], Value::Null);
    }

    fn guests_whose_files_are_on_a_full_disk_are_ended_and_removed_all_the_same() {
        let host = Host::new();
        let Some(small) = Small::mount(&host.root.path().join("state"), "512k") else { return };
        let kernels = [
            spinning(&host, "stopped", ""),
            spinning(&host, "killed", "--restart always"),
            spinning(&host, "removed", ""),
            spinning(&host, "lost", "--rm"),
        ];
        small.fill();
        host.carve(&run_of(&kernels[0], "new", "")).refused(&["No space left"]);
        host.carve("stop -t 0 stopped").ok();
        host.carve("kill killed").ok();
        host.carve("rm -f removed").ok();
        host.kill_9("lost", &["pid", "monitor_pid"]);
        let states = ["stopped", "killed", "removed", "lost"].map(|name| host.state(name));
        assert_eq!(states, ["exited", "exited", "none", "none"]);
        let ended = host.inspect("stopped")["last_run"]["ended"].clone();
        assert_eq!(ended["exit_code"], 137, "{ended}");
        host.carve("rm stopped killed").ok();
        assert!(host.guests().is_empty() && host.processes().is_empty());
        // The monitor may have been killed while it removed its guest: whoever prunes finishes that.
        host.carve("prune -f").ok();
        let run = host.root.path().join("run");
        let left = Command::new("find").arg(&run).args(["-mindepth", "1"]).output().unwrap().stdout;
        assert_eq!(String::from_utf8_lossy(&left), "", "what is left of who is gone");
    }
}
