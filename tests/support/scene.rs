//! A divided host on which one guest makes trouble, or not, and what everybody gets done meanwhile.

use std::cell::Cell;
use std::fs;
use std::io::Write;
use std::ops::Sub;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::divided::{Divided, assert_within, usage};
use super::host::until;
use super::{payload, work};

/// Turns with trouble, each after one without.
const PAIRS: usize = 5;
/// A turn in which the host stood still for more than this part of it is taken again: the machine that emulates the host
/// has something else to do then. So often at most.
const STILL: f64 = 0.1;
const AGAIN: u32 = 10;
/// How long the test sleeps at a time, and how late it is woken on a host where nothing is wrong.
const NAP: Duration = Duration::from_millis(20);
const LATE: Duration = Duration::from_millis(25);
/// Microseconds in a second, as control groups count.
const MICROS: f64 = 1e6;
/// CPU time of the quiet tenant where everybody wants all of it.
pub const SHARE: f64 = 0.25;
/// Control group of the noisy guest.
pub const NOISY: &str = "carve-noisy.slice/carve-noisy.scope";

/// Two tenants: one with a quarter of two CPUs, whose guests are one that works at a fixed rate and one that takes what it
/// can get; the other with the rest, and the guest that makes trouble, whose keys follow.
const HOST: &str = r#"
[host]
reserve = { memory = "1GiB" }
overcommit = { cpu = 3 }
[defaults]
memory = "32MiB"
[tenant.quiet]
cpus = 0.5
memory = "256MiB"
[tenant.noisy]
cpus = 1.5
memory = "1GiB"
[vm.steady]
tenant = "quiet"
kernel = "metronome"
cpu = { min = 0.3, max = 0.5 }
[vm.busy]
tenant = "quiet"
kernel = "busy"
vcpus = 2
cpu = { min = 0.2, max = 2 }
[vm.noisy]
tenant = "noisy"
"#;

/// What was done up to a moment, or between two.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    seconds: f64,
    /// Units of work.
    steady: f64,
    busy: f64,
    /// Seconds of CPU time.
    quiet: f64,
    noisy: f64,
    /// Of whatever else is counted.
    pub extra: f64,
}

impl Done {
    /// The part of the CPU time that the quiet tenant had, over a second.
    pub fn share(&self) -> f64 {
        self.quiet / (self.quiet + self.noisy) * self.seconds
    }
}

impl Sub for Done {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            seconds: self.seconds - before.seconds,
            steady: self.steady - before.steady,
            busy: self.busy - before.busy,
            quiet: self.quiet - before.quiet,
            noisy: self.noisy - before.noisy,
            extra: self.extra - before.extra,
        }
    }
}

/// Some turns of one kind.
#[derive(Debug)]
pub struct Turns(Vec<Done>);

impl Turns {
    fn sum(&self, of: impl Fn(&Done) -> f64) -> f64 {
        self.0.iter().map(of).sum()
    }

    /// The median over turns of what was done in a second.
    pub fn median(&self, of: impl Fn(&Done) -> f64) -> f64 {
        let mut rates: Vec<f64> = self.0.iter().map(|turn| of(turn) / turn.seconds).collect();
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    }
}

/// The host.
pub struct Scene {
    pub divided: Divided,
    steady: PathBuf,
    busy: PathBuf,
    /// Turns taken again.
    again: Cell<u32>,
}

impl Scene {
    /// `noisy` has keys of the noisy guest, and may go on with sections.
    #[track_caller]
    pub fn new(noisy: &str) -> Self {
        Self::on(Divided::new(), noisy)
    }

    /// The same where something is prepared already.
    #[track_caller]
    pub fn on(divided: Divided, noisy: &str) -> Self {
        payload::write_elf(work::metronome(), &divided.path("metronome"));
        payload::write_elf(work::busy(), &divided.path("busy"));
        payload::write_elf(payload::torrent(), &divided.path("torrent"));
        divided.write(&format!("{HOST}{noisy}"));
        divided.apply();
        divided.verify();
        let [steady, busy] = ["steady", "busy"].map(|name| log_of(&divided, name));
        until(|| dots(&steady) > 0.0 && dots(&busy) > 0.0);
        go_first();
        Self { divided, steady, busy, again: Cell::new(0) }
    }

    /// Units of work that a guest tells of, or what else its dots stand for.
    pub fn units_of(&self, name: &str) -> f64 {
        dots(&log_of(&self.divided, name))
    }

    fn turn(&self, length: Duration, extra: &impl Fn() -> u64) -> Done {
        let begun = Instant::now();
        let look = || Done {
            seconds: begun.elapsed().as_secs_f64(),
            steady: dots(&self.steady),
            busy: dots(&self.busy),
            quiet: usage("carve-quiet.slice") as f64 / MICROS,
            noisy: usage("carve-noisy.slice") as f64 / MICROS,
            extra: extra() as f64,
        };
        loop {
            let before = look();
            let still = sleep(length);
            let done = look() - before;
            if still.as_secs_f64() < STILL * done.seconds || self.again.get() == AGAIN {
                return done;
            }
            self.again.set(self.again.get() + 1);
        }
    }

    /// Turns as things are.
    pub fn turns(&self, length: Duration, count: usize, extra: impl Fn() -> u64) -> Turns {
        Turns((0..count).map(|_| self.turn(length, &extra)).collect())
    }

    /// Turns without and with trouble, one after the other: for the former, who makes it is paused. Says what came of
    /// them, asserts what holds whatever the trouble is, and returns the turns with it.
    #[track_caller]
    pub fn pairs(&self, what: &str, extra: impl Fn() -> u64) -> Turns {
        let (mut peace, mut trouble) = (Turns(Vec::new()), Turns(Vec::new()));
        for _ in 0..PAIRS {
            self.divided.carve("pause noisy").ok();
            peace.0.push(self.turn(length(), &extra));
            self.divided.carve("unpause noisy").ok();
            // What may be done at once after a rest is no part of a rate.
            thread::sleep(Duration::from_millis(200));
            trouble.0.push(self.turn(length(), &extra));
        }
        say(&format!(
            "{what}: medians of {PAIRS} pairs of turns; taken again: {}",
            self.again.get()
        ));
        let both = |of: fn(&Done) -> f64| {
            format!("{:.2} ({:.2} in peace)", trouble.median(of), peace.median(of))
        };
        say(&format!(
            "{what}: units a second at a fixed rate of {}: {}, of all that can be got: {}; CPUs of the quiet tenant: {}, of the noisy one: {}",
            work::RATE,
            both(|done| done.steady),
            both(|done| done.busy),
            both(|done| done.quiet),
            both(|done| done.noisy),
        ));
        let steady = trouble.sum(|done| done.steady) / trouble.sum(|done| done.seconds);
        assert!(steady >= 0.95 * work::RATE, "{steady} of {} units a second", work::RATE);
        let (quiet, noisy) = (trouble.sum(|done| done.quiet), trouble.sum(|done| done.noisy));
        assert_within(
            noisy / (quiet + noisy),
            0.0..=1.02 * (1.0 - SHARE),
            "share of the noisy tenant",
        );
        trouble
    }
}

/// Says what was measured, also where the harness keeps what a test prints to itself.
pub fn say(line: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{line}").unwrap();
}

/// Lets this thread go before all others of the host, so that it is late only where the host stands still. What it starts
/// does not.
fn go_first() {
    let first = libc::sched_param { sched_priority: 1 };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the kernel reads the parameter.
    let set = unsafe { libc::sched_setscheduler(0, policy, &raw const first) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

/// Sleeps; how long the host stood still meanwhile.
fn sleep(length: Duration) -> Duration {
    let begun = Instant::now();
    let mut still = Duration::ZERO;
    while begun.elapsed() < length {
        let nap = Instant::now();
        thread::sleep(NAP);
        still += nap.elapsed().saturating_sub(NAP + LATE);
    }
    still
}

/// How long a turn is.
fn length() -> Duration {
    let text = std::env::var("CARVE_INTERFERENCE_SECONDS");
    Duration::from_secs_f64(text.map_or(1.0, |text| text.parse().unwrap()))
}

/// What the console of a guest said, in the folder where Carve keeps what it knows of the guest.
pub fn log_of(divided: &Divided, name: &str) -> PathBuf {
    let seen = divided.host.inspect(name);
    divided.path("state/guests").join(seen["id"].as_str().unwrap()).join("console.log")
}

/// Units of work that a console's log tells of.
fn dots(log: &Path) -> f64 {
    fs::read(log).unwrap_or_default().iter().filter(|byte| **byte == b'.').count() as f64
}
