//! What a step of `xtask test` came to, and the summary of all. Counts are read off what test programs print.

use std::fmt;
use std::time::Duration;

/// How many tests ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Passed.
    pub passed: u64,
    /// Failed.
    pub failed: u64,
    /// Not run, or not able to test anything here.
    pub skipped: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl Counts {
    /// No test at all was seen.
    pub fn none(self) -> bool {
        self == Self::default()
    }

    /// Adds what one line of output says, of cargo-nextest's summary or the standard harness's.
    pub fn read(&mut self, line: &str) {
        let line = without_escapes(line);
        let line = line.trim();
        let is_summary = line.starts_with("test result:")
            || (line.starts_with("Summary [") && line.contains(" run:"));
        if !is_summary {
            return;
        }
        let words: Vec<_> = line.split([' ', ';', ',']).filter(|word| !word.is_empty()).collect();
        for pair in words.windows(2) {
            let Ok(number) = pair[0].parse::<u64>() else { continue };
            match pair[1] {
                "passed" => self.passed += number,
                "failed" | "timed" => self.failed += number,
                "skipped" | "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }
}

/// Removes the terminal's colour sequences.
fn without_escapes(line: &str) -> String {
    let mut plain = String::new();
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == '\x1b' {
            characters.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(character);
        }
    }
    plain
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It held; with the counts of its tests if it consists of tests.
    Passed(Counts),
    /// It did not, for this reason.
    Failed(Counts, String),
    /// It cannot be done here, for this reason.
    Skipped(String),
}

impl Outcome {
    /// Its share of the total. A step that is not made of tests counts as one.
    fn counts(&self) -> Counts {
        match self {
            Self::Passed(counts) if counts.none() => Counts { passed: 1, ..*counts },
            Self::Passed(counts) => *counts,
            Self::Failed(counts, _) => Counts { failed: counts.failed.max(1), ..*counts },
            Self::Skipped(_) => Counts { skipped: 1, ..Counts::default() },
        }
    }
}

/// All steps so far.
#[derive(Debug, Default)]
pub struct Report {
    steps: Vec<(&'static str, Outcome, Duration)>,
}

impl Report {
    /// Adds a step.
    pub fn add(&mut self, step: &'static str, outcome: Outcome, took: Duration) {
        self.steps.push((step, outcome, took));
    }

    /// Whether no step failed.
    pub fn good(&self) -> bool {
        self.total().failed == 0
    }

    fn total(&self) -> Counts {
        let mut total = Counts::default();
        for (_, outcome, _) in &self.steps {
            let counts = outcome.counts();
            total.passed += counts.passed;
            total.failed += counts.failed;
            total.skipped += counts.skipped;
        }
        total
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (step, outcome, took) in &self.steps {
            let tests = |counts: &Counts| match *counts {
                counts if counts.none() => String::new(),
                Counts { passed, failed: 0, skipped: 0 } => format!("{passed} tests"),
                Counts { passed, failed, skipped } => {
                    format!("{passed} passed, {failed} failed, {skipped} skipped")
                }
            };
            let (word, detail) = match outcome {
                Outcome::Passed(counts) => ("passed", tests(counts)),
                Outcome::Failed(counts, reason) => {
                    let tests = tests(counts);
                    let separator = if tests.is_empty() { "" } else { ": " };
                    ("FAILED", format!("{reason}{separator}{tests}"))
                }
                Outcome::Skipped(reason) => ("skipped", reason.clone()),
            };
            writeln!(f, "{step:10} {word:8} {:6.1} s  {detail}", took.as_secs_f64())?;
        }
        let Counts { passed, failed, skipped } = self.total();
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
#[path = "report_test.rs"]
mod report_test;
