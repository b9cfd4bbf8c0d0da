//! Whether a worker's thread, woken up for a request, takes the processor from a vCPU at once, as the kernel has it by
//! default, or waits until the vCPU has nothing more to do (SCHED_BATCH, sched(7)). By then there are more requests, and what
//! one interrupt costs is for all of them.
//!
//! Where there are processors enough it makes no difference. Where each answer is waited for it costs time. So it is
//! tried only when being woken up takes a good part of all the time there is, and kept only while clearly more
//! bytes pass than before; where they do not it is left alone, longer each time.
#![allow(unsafe_code)] // sched_setscheduler(2), which C libraries may not have.

use std::time::{Duration, Instant};

use super::trials::{SPELL, Trials, cpu_time};

/// Wakings that are judged together.
const WINDOW: u32 = 64;
/// Wakings after which it shows that each answer is waited for.
const FIRST: u32 = 8;
/// Wakings are worth sparing where one comes within so many times of what it takes.
const DEAR: u32 = 10;
/// What has to pass more, in percent.
const GAIN: u64 = 110;
/// A stream has ended when nothing came for so long: longer than a thread waits for its processor.
const SILENCE: Duration = Duration::from_millis(50);

/// What there was from a point in time on.
#[derive(Clone, Copy, Debug)]
struct Count {
    since: Instant,
    /// Processor time of this thread, and bytes that had passed, by then.
    used: Duration,
    bytes: u64,
    wakings: u32,
}

impl Count {
    /// The time since then, and bytes a second.
    fn rate(&self, bytes: u64, now: Instant) -> (Duration, u64) {
        let time = now.saturating_duration_since(self.since);
        let passed = u128::from(bytes.wrapping_sub(self.bytes)) * 1_000_000;
        (time, u64::try_from(passed / time.as_micros().max(1)).unwrap_or(u64::MAX))
    }
}

/// A time in which no vCPU is interrupted.
#[derive(Debug)]
struct Spell {
    /// Bytes a second before.
    rate: u64,
    /// Windows that paid.
    windows: u32,
}

/// The preemption of vCPUs by one thread.
#[derive(Debug)]
pub(super) struct Preemption {
    /// None before the thread was first woken up; never, if it has no choice.
    count: Option<Count>,
    last: Option<Instant>,
    spell: Option<Spell>,
    trials: Trials,
    possible: Option<bool>,
}

impl Preemption {
    /// For the thread that says what it has [served](Self::served).
    pub(super) fn new() -> Self {
        Self { count: None, last: None, spell: None, trials: Trials::new(), possible: None }
    }

    /// This thread has done what it was woken up for; `bytes` have passed so far.
    pub(super) fn served(&mut self, bytes: u64) {
        // Somebody may have chosen a policy for this thread, a real-time one say.
        if !*self.possible.get_or_insert_with(|| policy() == libc::SCHED_OTHER) {
            return;
        }
        let before = self.spell.is_some();
        self.judge(bytes, Instant::now(), cpu_time);
        let now = self.spell.is_some();
        if now != before && !set_policy(if now { libc::SCHED_BATCH } else { libc::SCHED_OTHER }) {
            (self.spell, self.possible) = (None, Some(false));
        }
    }

    /// The same at a time, with a clock of the processor time used.
    fn judge(&mut self, bytes: u64, now: Instant, used: impl Fn() -> Duration) {
        let silent = self.last.is_some_and(|last| now.saturating_duration_since(last) > SILENCE);
        self.last = Some(now);
        let Some(count) = self.count.as_mut().filter(|_| !silent) else {
            self.count = Some(Count { since: now, used: used(), bytes, wakings: 0 });
            if self.spell.take().is_some_and(|spell| spell.windows > 0) {
                self.trials.ended(true);
            }
            return;
        };
        count.wakings += 1;
        let (wakings, first) = (count.wakings, count.wakings == FIRST);
        let whole = wakings == WINDOW;
        match &mut self.spell {
            None if whole => {
                let used = used();
                let each = used.saturating_sub(count.used) / wakings;
                let (time, rate) = count.rate(bytes, now);
                self.count = Some(Count { since: now, used, bytes, wakings: 0 });
                if self.trials.are_due() && time <= each * DEAR * wakings {
                    self.spell = Some(Spell { rate, windows: 0 });
                }
            }
            Some(spell) if whole || first && spell.windows == 0 => {
                let (_, rate) = count.rate(bytes, now);
                let least = if whole { GAIN } else { 100 };
                let pays = rate.saturating_mul(100) >= spell.rate.saturating_mul(least);
                if whole {
                    spell.windows += 1;
                }
                if !pays || spell.windows == SPELL {
                    self.spell = None;
                    self.trials.ended(pays);
                }
                if whole || !pays {
                    self.count = Some(Count { since: now, used: used(), bytes, wakings: 0 });
                }
            }
            _ => {}
        }
    }
}

/// The policy by which this thread is scheduled.
fn policy() -> i32 {
    // SAFETY: asks only.
    let policy = unsafe { libc::syscall(libc::SYS_sched_getscheduler, 0) };
    i32::try_from(policy).unwrap_or(-1)
}

fn set_policy(policy: i32) -> bool {
    // SAFETY: all zeros are parameters, which these policies have none of.
    let parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: changes how this thread is scheduled; the parameters are ours.
    let done =
        unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const parameters) };
    done == 0
}

#[cfg(test)]
#[path = "preemption_test.rs"]
mod preemption_test;
