//! The boot step: end-to-end tests on KVM hosts, each of which takes the next test as soon as it has done one.
//!
//! An emulated host has one processor, because QEMU's emulation of nested virtualization crashes hosts that have more; as
//! many hosts run side by side as this machine has processors for. Even so a host may die or lose a guest now and then:
//! tests that a crash kept from ending are run again in a fresh host, and so is, once, a test that failed there. Both are
//! said aloud, and a test that fails twice has failed. On hardware nothing is run twice.

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::io;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::report::Counts;
use super::steps::{quoted, shell_path};
use super::stream::{Answer, converse};
use crate::cargo::TestBinary;
use crate::process;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Hosts that may die under a test.
const LOSSES: u32 = 3;
/// How many of the slowest tests are named.
const SLOWEST: usize = 15;
/// What a host does: one test after the other, as it is told, and says when a test's program has ended.
const FEED: &str =
    "while IFS= read -r test; do eval \"$test\" < /dev/null; echo; echo carve-tests: next; done";
/// That, as it is said.
const NEXT: &str = "carve-tests: next";

/// A test: the index of its program, and its name.
type Test = (usize, String);

/// How often a test has failed or lost its host, or what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Pending { failures: u32, losses: u32 },
    Passed { failures: u32 },
    Ignored,
    Failed,
}

/// The tests of a run and what became of them.
pub struct Boots<'a> {
    programs: &'a [TestBinary],
    states: BTreeMap<Test, State>,
    /// Those that no host has taken.
    waiting: VecDeque<Test>,
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
        let mut waiting = VecDeque::new();
        for (index, program) in programs.iter().enumerate() {
            let mut list = Command::new(&program.path);
            let names = process::output(list.args(["--list", "--format", "terse"]))?;
            let names = names.lines().filter_map(|line| line.strip_suffix(": test"));
            waiting.extend(names.filter(|name| chosen(name)).map(|name| (index, name.to_owned())));
        }
        let pending = State::Pending { failures: 0, losses: 0 };
        let states = waiting.iter().map(|test| (test.clone(), pending)).collect();
        Ok(Self { programs, states, waiting, retries, times: Vec::new() })
    }

    /// Whether there is none to run.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// Runs all tests, on up to `hosts` hosts at a time. `host` runs a command, which is added to it, on a host.
    pub fn run(&mut self, hosts: usize, host: &Command) -> io::Result<()> {
        let hosts = hosts.min(self.waiting.len());
        let boots = Mutex::new(self);
        thread::scope(|scope| {
            let lanes: Vec<_> = (0..hosts).map(|_| scope.spawn(|| lane(&boots, host))).collect();
            let ends = lanes.into_iter().map(|lane| lane.join().unwrap_or(Ok(())));
            ends.collect()
        })
    }

    /// The line that runs a test, for [`FEED`].
    fn line(&self, (program, name): &Test) -> String {
        let program = &self.programs[*program];
        let (folder, path) = (shell_path(&program.directory), shell_path(&program.path));
        format!("cd {folder} && {path} --exact {}", quoted(name))
    }

    /// Notes how a test ended, or that its host did.
    fn note(&mut self, test: &Test, verdict: Verdict) {
        let Some(state) = self.states.get_mut(test) else { return };
        let State::Pending { failures, losses } = *state else { return };
        *state = match verdict {
            Verdict::Ok => State::Passed { failures },
            Verdict::Ignored => State::Ignored,
            Verdict::Failed if failures < self.retries => {
                State::Pending { failures: failures + 1, losses }
            }
            Verdict::Lost if losses < LOSSES => State::Pending { failures, losses: losses + 1 },
            Verdict::Failed | Verdict::Lost => State::Failed,
        };
        if matches!(state, State::Pending { .. }) {
            println!("xtask: to be run again in a fresh host: {}", test.1);
            self.waiting.push_back(test.clone());
        }
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

fn lock<'a, T>(shared: &'a Mutex<T>) -> MutexGuard<'a, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has one host after the other run tests, until none waits.
fn lane(boots: &Mutex<&mut Boots<'_>>, host: &Command) -> io::Result<()> {
    loop {
        let Some(test) = lock(boots).waiting.pop_front() else { return Ok(()) };
        let mut command = process::again(host);
        command.args(["--", "sh", "-c", FEED]);
        session(&mut command, test, boots)?;
    }
}

/// Has one host run tests, `first` and then those that wait, until none does or a test has failed in it: who knows what
/// that left.
fn session(command: &mut Command, first: Test, boots: &Mutex<&mut Boots<'_>>) -> io::Result<()> {
    let line = lock(boots).line(&first);
    let mut current = Some(first);
    let mut verdicts = Verdicts::default();
    let mut verdict = None;
    let mut began = Instant::now();
    converse(command, &line, |line| {
        if line.trim() != NEXT {
            verdict = verdicts.read(line).or(verdict);
            return Answer::Silence;
        }
        let Some(test) = current.take() else { return Answer::End };
        let mut boots = lock(boots);
        boots.times.push((began.elapsed(), test.1.clone()));
        // A program that says nothing more was killed.
        let verdict = verdict.take().unwrap_or(Verdict::Failed);
        boots.note(&test, verdict);
        (verdicts, began) = (Verdicts::default(), Instant::now());
        current = if verdict == Verdict::Failed { None } else { boots.waiting.pop_front() };
        current.as_ref().map_or(Answer::End, |test| Answer::Line(boots.line(test)))
    })?;
    if let Some(test) = current {
        lock(boots).note(&test, Verdict::Lost);
    }
    Ok(())
}

/// How the harness says a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    Ignored,
    Failed,
    /// It does not: its host has ended.
    Lost,
}

/// Reads `test NAME ... ok`, also where a program that the test started said something in between.
#[derive(Debug, Default)]
struct Verdicts {
    /// Whether a test has begun.
    open: bool,
}

impl Verdicts {
    fn read(&mut self, line: &str) -> Option<Verdict> {
        let line = line.trim();
        let begun = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "));
        self.open |= begun.is_some();
        let verdict = match begun.map_or(line, |(_, rest)| rest) {
            "ok" => Verdict::Ok,
            "FAILED" => Verdict::Failed,
            other if begun.is_some() && other.starts_with("ignored") => Verdict::Ignored,
            _ => return None,
        };
        std::mem::take(&mut self.open).then_some(verdict)
    }
}

#[cfg(test)]
mod boots_test {
    use super::*;

    fn boots(retries: u32) -> Boots<'static> {
        let states = BTreeMap::from([(test(), State::Pending { failures: 0, losses: 0 })]);
        Boots { programs: &[], states, waiting: VecDeque::new(), retries, times: Vec::new() }
    }

    fn test() -> Test {
        (0, "a".to_owned())
    }

    fn after(retries: u32, verdicts: &[Verdict]) -> Boots<'static> {
        let mut boots = boots(retries);
        for verdict in verdicts {
            boots.note(&test(), *verdict);
        }
        boots
    }

    fn read(lines: &[&str]) -> Option<Verdict> {
        let mut verdicts = Verdicts::default();
        lines.iter().fold(None, |_, line| verdicts.read(line))
    }

    #[test]
    fn verdicts_are_read_off_the_harness() {
        assert_eq!(read(&["test a_b ... ok\n"]), Some(Verdict::Ok));
        assert_eq!(read(&["test a_b ... FAILED"]), Some(Verdict::Failed));
        assert_eq!(read(&["test a_b ... ignored, slow"]), Some(Verdict::Ignored));
        assert_eq!(read(&["test a_b has been running for over 60 seconds"]), None);
        assert_eq!(read(&["test result: ok. 1 passed"]), None);
    }

    #[test]
    fn what_others_say_in_between_hides_no_verdict() {
        let said = "test a_b ... kill: (7): No such process";
        assert_eq!(read(&[said]), None);
        assert_eq!(read(&[said, "more", "ok"]), Some(Verdict::Ok));
        assert_eq!(read(&[said, "FAILED"]), Some(Verdict::Failed));
        assert_eq!(read(&["ok"]), None);
        assert_eq!(read(&["test a_b ... ok", "ok"]), None);
    }

    #[test]
    fn a_test_that_fails_twice_has_failed_and_one_that_recovers_is_named() {
        let twice = after(1, &[Verdict::Failed, Verdict::Failed]);
        assert_eq!(twice.result().1, ["a"]);
        let recovers = after(1, &[Verdict::Failed, Verdict::Ok]);
        let (counts, failed, unsteady) = recovers.result();
        assert_eq!((counts.passed, failed.len(), unsteady), (1, 0, vec!["a"]));
    }

    #[test]
    fn without_retries_the_first_failure_counts() {
        assert_eq!(after(0, &[Verdict::Failed]).result().0.failed, 1);
    }

    #[test]
    fn a_test_that_loses_its_host_waits_for_another_but_not_for_ever() {
        let lost = after(0, &[Verdict::Lost; LOSSES as usize]);
        assert_eq!(
            (lost.waiting.len(), lost.states[&test()] == State::Failed),
            (LOSSES as usize, false)
        );
        assert_eq!(after(0, &[Verdict::Lost, Verdict::Ok]).result().0.passed, 1);
        assert_eq!(after(0, &[Verdict::Lost; LOSSES as usize + 1]).result().1, ["a"]);
    }

    #[test]
    fn a_test_that_never_ended_has_failed() {
        assert_eq!(boots(1).result().1, ["a"]);
    }

    #[test]
    fn hosts_run_tests_until_none_waits_and_none_goes_on_after_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        let program = |name: &str, script: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\ncd {}\n{script}\n", folder.path().display()))
                .unwrap();
            process::run(Command::new("chmod").arg("+x").arg(&path)).unwrap();
            path
        };
        // What runs a command on a host, and a program with three tests.
        let host = program("host", "echo >> started; shift; exec \"$@\"");
        let tests = program(
            "tests",
            "case $2 in good) true ;; once) test -e again || { touch again; false; } ;; *) false ;; esac \
             && echo \"test $2 ... ok\" || echo \"test $2 ... FAILED\"",
        );
        let programs = [TestBinary {
            package: String::new(),
            directory: folder.path().to_owned(),
            name: String::new(),
            integration: true,
            path: tests,
        }];
        let waiting: VecDeque<_> = ["good", "once", "bad"].map(|name| (0, name.to_owned())).into();
        let pending = State::Pending { failures: 0, losses: 0 };
        let states = waiting.iter().map(|test| (test.clone(), pending)).collect();
        let mut boots =
            Boots { programs: &programs, states, waiting, retries: 1, times: Vec::new() };
        boots.run(1, &Command::new(&host)).unwrap();
        let (counts, failed, unsteady) = boots.result();
        assert_eq!((counts.passed, failed, unsteady), (2, vec!["bad"], vec!["once"]));
        let started = std::fs::read_to_string(folder.path().join("started")).unwrap();
        assert_eq!(started.lines().count(), 3, "a new host after each failure but the last");
    }
}
