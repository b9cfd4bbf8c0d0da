//! `bench lifecycle`: what a user waits for who starts, lists, pauses, stops and removes guests, and what a
//! guest costs while it does nothing. Guests of a few instructions, on this machine's own KVM.

mod pauses;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::memory::{Private, private_kib};
use super::stats::{median, ms};
use super::{Result, elf};
use crate::cargo::{self, Profile};
use crate::workspace::Workspace;

/// Memory of guests that are started and stopped.
const MEMORY: &str = "128MiB";

/// The name of the guest that goes through all verbs.
const NAME: &str = "measured";

/// Arguments of `bench lifecycle`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Counted lives of a guest
    #[arg(long, default_value_t = 40)]
    rounds: usize,
    /// Guests that run while they are listed
    #[arg(long, default_value_t = 100)]
    guests: usize,
    /// The carve binary; built where it is not given
    #[arg(long, value_name = "FILE")]
    carve: Option<PathBuf>,
    /// Where the disk is of the guest that is paused with I/O in flight
    #[arg(long, default_value = "/dev/shm", value_name = "DIRECTORY")]
    directory: PathBuf,
}

pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let carve = match &arguments.carve {
        Some(carve) => carve.clone(),
        None => cargo::build_carve(workspace, Profile::Release, None)?,
    };
    let host = Host { carve, root: tempfile::tempdir()? };
    let (idle, power_off) = (host.root.path().join("idle"), host.root.path().join("power-off"));
    std::fs::write(&idle, elf::of(elf::IDLE))?;
    std::fs::write(&power_off, elf::of(elf::POWER_OFF))?;
    println!("load of the machine before: {}", load());
    lives(&host, arguments.rounds, &idle, &power_off)?;
    pauses::measure(workspace, &host, arguments.rounds, &arguments.directory)?;
    many(&host, arguments, &idle)?;
    println!("load of the machine after: {}", load());
    Ok(())
}

/// A guest's life again and again, verb by verb, beside a run in the foreground that powers off at once.
fn lives(host: &Host, rounds: usize, idle: &Path, power_off: &Path) -> Result<()> {
    let verbs: [(&str, Vec<&str>); 6] = [
        ("run, to the process's end", vec!["run", "--rm", "--memory", MEMORY, "--kernel"]),
        ("run -d", vec!["run", "-d", "--name", NAME, "--memory", MEMORY, "--kernel"]),
        ("pause", vec!["pause", NAME]),
        ("unpause", vec!["unpause", NAME]),
        ("stop -t 0", vec!["stop", "-t", "0", NAME]),
        ("rm", vec!["rm", NAME]),
    ];
    let mut took = vec![Vec::new(); verbs.len()];
    let mut alone = Vec::new();
    for round in 0..=rounds {
        for (index, (name, words)) in verbs.iter().enumerate() {
            let mut command = host.command(words);
            match *name {
                "run -d" => drop(command.arg(idle)),
                _ if index == 0 => drop(command.arg(power_off)),
                _ => {}
            }
            let time = timed(&mut command)?;
            // The first round warms caches.
            if round > 0 {
                took[index].push(ms(time));
            }
            if *name == "run -d" && round > 0 {
                alone.push(host.private(NAME)?);
            }
        }
    }
    println!("commands from exec to their end, 1 vCPU, {MEMORY}, {rounds} rounds, medians");
    let took: Vec<_> = took.into_iter().map(median).collect();
    for ((name, _), took_now) in verbs.iter().zip(&took) {
        println!("{name:26} {took_now:8.2} ms   {:5.2} of the first", took_now / took[0]);
    }
    print_memory("one guest alone", alone);
    Ok(())
}

/// Many guests at once: how long they take to list, and what each costs then.
fn many(host: &Host, arguments: &Arguments, idle: &Path) -> Result<()> {
    let count = arguments.guests;
    let name = |number: usize| format!("guest-{number}");
    for number in 0..count {
        let words = ["run", "-d", "--name", &name(number), "--memory", MEMORY, "--kernel"];
        timed(host.command(&words).arg(idle))?;
    }
    let list = |words: &[&str]| -> Result<f64> {
        let times: Result<Vec<_>> =
            (0..arguments.rounds).map(|_| Ok(ms(timed(&mut host.command(words))?))).collect();
        Ok(median(times?))
    };
    let listed = host.output(&["ps", "-q"])?.lines().count();
    println!(
        "{listed} guests run: ps {:.2} ms, ps --format json {:.2} ms, metrics {:.2} ms",
        list(&["ps"])?,
        list(&["ps", "--format", "json"])?,
        list(&["metrics"])?
    );
    let private: Result<Vec<_>> =
        (0..count.min(20)).map(|number| host.private(&name(number))).collect();
    print_memory(&format!("one of {listed}"), private?);
    Ok(())
}

fn print_memory(whose: &str, private: Vec<Private>) {
    let of = |which: fn(&Private) -> f64| median(private.iter().map(which).collect()) / 1024.0;
    println!(
        "memory beside guest RAM, VMM and monitor together, {whose}: {:.2} MiB private dirty, {:.2} MiB private \
         clean, {:.2} MiB proportional",
        of(|private| private.dirty),
        of(|private| private.clean),
        of(|private| private.proportional)
    );
}

/// Guests in a folder of their own; those that are left are removed in the end.
struct Host {
    carve: PathBuf,
    root: tempfile::TempDir,
}

impl Host {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.carve);
        command.env("CARVE_ROOT", self.root.path()).args(["--log-level", "error"]).args(words);
        command.stdin(Stdio::null());
        command
    }

    fn output(&self, words: &[&str]) -> Result<String> {
        let output = self.command(words).output()?;
        if !output.status.success() {
            return Err(failed(words, &output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Memory of both processes of the guest `name`, beside its RAM.
    fn private(&self, name: &str) -> Result<Private> {
        let report: Value = serde_json::from_str(&self.output(&["inspect", name])?)?;
        let mut sum = Private::default();
        for key in ["pid", "monitor_pid"] {
            let pid = report[0][key].as_i64().ok_or_else(|| format!("{name} has no {key}"))?;
            let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps"))?;
            let private = private_kib(&smaps, 128 << 10);
            sum.dirty += private.dirty;
            sum.clean += private.clean;
            sum.proportional += private.proportional;
        }
        Ok(sum)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let Ok(left) = self.output(&["ps", "-aq"]) else { return };
        for id in left.lines() {
            let _ = self.output(&["rm", "-f", id]);
        }
    }
}

/// How long `command` takes, which has to succeed.
fn timed(command: &mut Command) -> Result<Duration> {
    let start = Instant::now();
    let output = command.output()?;
    let took = start.elapsed();
    if !output.status.success() {
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        return Err(failed(&words, &output.stderr));
    }
    Ok(took)
}

fn failed<W: AsRef<str>>(words: &[W], stderr: &[u8]) -> Box<dyn std::error::Error> {
    let words: Vec<_> = words.iter().map(AsRef::as_ref).collect();
    format!("carve {}: {}", words.join(" "), String::from_utf8_lossy(stderr).trim()).into()
}

/// Averages over one, five and fifteen minutes (proc_loadavg(5)).
fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}
