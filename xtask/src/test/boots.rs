//! The boot step: end-to-end tests on a KVM host, in as few host sessions as possible.
//!
//! An emulated host has one processor, because QEMU's emulation of nested virtualization crashes hosts that have more; as
//! many hosts run side by side as this machine has processors for. Even so a host may die or lose a guest now and then:
//! tests that a crash kept from ending are run again in a fresh host, and so is, once, a test that failed there. Both are
//! said aloud, and a test that fails twice has failed. On hardware nothing is run twice.

use std::collections::BTreeMap;
use std::error::Error;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::report::Counts;
use super::steps::{quoted, shell_path, stream_lines};
use crate::cargo::TestBinary;
use crate::process;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Host sessions at most.
const SESSIONS: usize = 4;
/// Tests of a session that run at once: most of a test is waiting for its guest.
const THREADS: u32 = 1;
/// How many of the slowest tests are named.
const SLOWEST: usize = 10;
/// What the script prints before the tests of a program.
const MARK: &str = "carve-tests: ";

/// A test: the index of its program, and its name.
type Test = (usize, String);

/// How often a test has failed, or that it has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Pending { failures: u32 },
    Passed { failures: u32 },
    Ignored,
    Failed,
}

/// The tests of a run and what became of them.
pub struct Boots<'a> {
    programs: &'a [TestBinary],
    states: BTreeMap<Test, State>,
    retries: u32,
    /// How long each run of a test took.
    times: Vec<(Duration, String)>,
}

impl<'a> Boots<'a> {
    /// All tests of `programs` that `chosen` accepts; each may fail `retries` times before it counts as failed.
    pub fn list(
        programs: &'a [TestBinary],
        retries: u32,
        chosen: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        let mut states = BTreeMap::new();
        for (index, program) in programs.iter().enumerate() {
            let mut list = Command::new(&program.path);
            let names = process::output(list.args(["--list", "--format", "terse"]))?;
            let names = names.lines().filter_map(|line| line.strip_suffix(": test"));
            for name in names.filter(|name| chosen(name)) {
                states.insert((index, name.to_owned()), State::Pending { failures: 0 });
            }
        }
        Ok(Self { programs, states, retries, times: Vec::new() })
    }

    /// Runs `hosts` sessions at a time, each made by `host` from a shell script, until every test has an end.
    pub fn run(&mut self, hosts: usize, host: impl Fn(&str) -> Result<Command>) -> Result<()> {
        for session in 0..SESSIONS {
            let scripts: Vec<_> = (0..hosts).map(|share| self.script(share, hosts)).collect();
            if scripts.iter().all(String::is_empty) {
                return Ok(());
            }
            if session > 0 {
                println!("xtask: running again in a fresh host: {}", self.pending().join(", "));
            }
            let commands: Vec<_> = scripts
                .iter()
                .filter(|script| !script.is_empty())
                .map(|script| host(script))
                .collect::<Result<_>>()?;
            let shared = Mutex::new(&mut *self);
            thread::scope(|scope| {
                for mut command in commands {
                    let shared = &shared;
                    scope.spawn(move || watch(&mut command, shared));
                }
            });
        }
        Ok(())
    }

    fn note(&mut self, program: usize, name: &str, verdict: Verdict) {
        let Some(state) = self.states.get_mut(&(program, name.to_owned())) else { return };
        let State::Pending { failures } = *state else { return };
        *state = match verdict {
            Verdict::Ok => State::Passed { failures },
            Verdict::Ignored => State::Ignored,
            Verdict::Failed if failures < self.retries => State::Pending { failures: failures + 1 },
            Verdict::Failed => State::Failed,
        };
    }

    /// Runs every `of`th pending test, from the one numbered `share` on.
    fn script(&self, share: usize, of: usize) -> String {
        let pending = self.states.iter().filter(|(_, s)| matches!(s, State::Pending { .. }));
        let mine: Vec<_> = pending.map(|(test, _)| test).skip(share).step_by(of).collect();
        let mut script = String::new();
        for (index, program) in self.programs.iter().enumerate() {
            let names = mine.iter().filter(|(program, _)| *program == index);
            let names: Vec<_> = names.map(|(_, name)| quoted(name)).collect();
            if !names.is_empty() {
                let (folder, path) = (shell_path(&program.directory), shell_path(&program.path));
                let names = names.join(" ");
                script += &format!("echo {}\n", quoted(&format!("{MARK}{}", program.name)));
                script +=
                    &format!("cd {folder} && {path} --test-threads {THREADS} --exact {names}\n");
            }
        }
        script
    }

    fn pending(&self) -> Vec<&str> {
        let pending = self.states.iter().filter(|(_, s)| matches!(s, State::Pending { .. }));
        pending.map(|((_, name), _)| name.as_str()).collect()
    }

    /// The tests that took longest, the slowest first: where a shorter run would be had.
    pub fn slowest(&self) -> Vec<String> {
        let mut times: Vec<_> = self.times.iter().collect();
        times.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
        let named =
            |(time, name): &(Duration, String)| format!("{name} {:.0} s", time.as_secs_f64());
        times.into_iter().take(SLOWEST).map(named).collect()
    }

    /// How many tests ended how, and the names of those that failed, or passed only when run again.
    pub fn result(&self) -> (Counts, Vec<&str>, Vec<&str>) {
        let (mut counts, mut failed, mut unsteady) = (Counts::default(), vec![], vec![]);
        for ((_, name), state) in &self.states {
            match state {
                State::Passed { failures } => {
                    counts.passed += 1;
                    if *failures > 0 {
                        unsteady.push(name.as_str());
                    }
                }
                State::Ignored => counts.skipped += 1,
                State::Pending { .. } | State::Failed => {
                    counts.failed += 1;
                    failed.push(name.as_str());
                }
            }
        }
        (counts, failed, unsteady)
    }
}

/// Runs one session and notes how its tests end. A session that cannot be run leaves its tests pending.
fn watch(command: &mut Command, boots: &Mutex<&mut Boots<'_>>) {
    let mut current = None;
    let mut verdicts = Verdicts::default();
    let mut began = Instant::now();
    let done = stream_lines(command, |line| {
        let mut boots = boots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = line.strip_prefix(MARK) {
            began = Instant::now();
            current = boots.programs.iter().position(|program| program.name == name.trim());
        } else if let (Some(program), Some((name, verdict))) = (current, verdicts.read(line)) {
            boots.note(program, &name, verdict);
            boots.times.push((began.elapsed(), name));
            began = Instant::now();
        }
    });
    if let Err(error) = done {
        println!("xtask: {error}");
    }
}

/// How the harness says a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    Ignored,
    Failed,
}

/// Reads `test NAME ... ok`, also where a program that the test started said something in between.
#[derive(Debug, Default)]
struct Verdicts {
    /// The test whose end is still to come.
    open: Option<String>,
}

impl Verdicts {
    fn read(&mut self, line: &str) -> Option<(String, Verdict)> {
        let line = line.trim();
        let begun = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "));
        let rest = match begun {
            Some((name, rest)) => {
                self.open = Some(name.to_owned());
                rest
            }
            None => line,
        };
        let verdict = match rest {
            "ok" => Verdict::Ok,
            "FAILED" => Verdict::Failed,
            other if begun.is_some() && other.starts_with("ignored") => Verdict::Ignored,
            _ => return None,
        };
        Some((self.open.take()?, verdict))
    }
}

#[cfg(test)]
mod boots_test {
    use super::*;

    fn boots(retries: u32) -> Boots<'static> {
        let states = BTreeMap::from([((0, "a".to_owned()), State::Pending { failures: 0 })]);
        Boots { programs: &[], states, retries, times: Vec::new() }
    }

    fn read(lines: &[&str]) -> Option<(String, Verdict)> {
        let mut verdicts = Verdicts::default();
        lines.iter().fold(None, |_, line| verdicts.read(line))
    }

    #[test]
    fn verdicts_are_read_off_the_harness() {
        let of = |verdict| Some(("a_b".to_owned(), verdict));
        assert_eq!(read(&["test a_b ... ok\n"]), of(Verdict::Ok));
        assert_eq!(read(&["test a_b ... FAILED"]), of(Verdict::Failed));
        assert_eq!(read(&["test a_b ... ignored, slow"]), of(Verdict::Ignored));
        assert_eq!(read(&["test a_b has been running for over 60 seconds"]), None);
        assert_eq!(read(&["test result: ok. 1 passed"]), None);
    }

    #[test]
    fn what_others_say_in_between_hides_no_verdict() {
        let said = "test a_b ... kill: (7): No such process";
        assert_eq!(read(&[said]), None);
        assert_eq!(read(&[said, "more", "ok"]), Some(("a_b".to_owned(), Verdict::Ok)));
        assert_eq!(read(&[said, "FAILED"]), Some(("a_b".to_owned(), Verdict::Failed)));
        assert_eq!(read(&["ok"]), None);
        assert_eq!(read(&["test a_b ... ok", "ok"]), None);
    }

    #[test]
    fn a_test_that_fails_twice_has_failed_and_one_that_recovers_is_named() {
        let mut twice = boots(1);
        twice.note(0, "a", Verdict::Failed);
        twice.note(0, "a", Verdict::Failed);
        assert_eq!(twice.result().1, ["a"]);
        let mut recovers = boots(1);
        recovers.note(0, "a", Verdict::Failed);
        recovers.note(0, "a", Verdict::Ok);
        let (counts, failed, unsteady) = recovers.result();
        assert_eq!((counts.passed, failed.len(), unsteady), (1, 0, vec!["a"]));
    }

    #[test]
    fn without_retries_the_first_failure_counts() {
        let mut boots = boots(0);
        boots.note(0, "a", Verdict::Failed);
        assert_eq!(boots.result().0.failed, 1);
    }

    #[test]
    fn a_test_that_never_ended_has_failed() {
        assert_eq!(boots(1).result().1, ["a"]);
    }
}
