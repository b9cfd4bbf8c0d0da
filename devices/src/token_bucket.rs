//! Rate limits of a device's traffic: token buckets for bytes and for operations, which a request
//! takes from together or not at all.
//!
//! Nothing here waits or knows a clock: [`RateLimiter::take`] is told the time and answers how long a
//! request has to wait. [`SharedLimiter`] is one such limiter for several workers, served in the order
//! in which they had to wait; [`LimitsHandle`] changes limits while they are in force.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::mutex::lock;

/// Longest a worker should wait before it asks again: limits may have been raised meanwhile.
pub const RECHECK: Duration = Duration::from_millis(100);

/// A bucket that somebody waits for goes on filling past its burst for so long after they could
/// have been served, and keeps that: late wake-ups do not cost throughput.
const LATENESS: Duration = Duration::from_millis(100);

const NANOS: i128 = 1_000_000_000;

/// How fast a bucket fills and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens (bytes or operations) a second; 0 counts as 1.
    pub per_second: u64,
    /// Tokens that may be taken at once after a time of rest, beyond what flows in meanwhile.
    pub burst: u64,
}

impl Rate {
    /// Tokens in units of 10⁻⁹, which flow in whole in every nanosecond: nothing is ever rounded.
    fn after(self, time: Duration) -> i128 {
        i128::try_from(time.as_nanos()).unwrap_or(i128::MAX).saturating_mul(self.per_nanosecond())
    }

    fn per_nanosecond(self) -> i128 {
        i128::from(self.per_second.max(1))
    }

    fn capacity(self) -> i128 {
        i128::from(self.burst) * NANOS
    }
}

/// Bounds on a device's traffic; what is `None` is not bounded.
///
/// In any span of time, a device that is kept busy passes `per_second` times its length, give or
/// take `burst`, one request, and what 0.1 s let flow in where the host woke its worker up late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes.
    pub bandwidth: Option<Rate>,
    /// Requests or packets.
    pub operations: Option<Rate>,
}

impl Limits {
    /// Whether nothing is bounded.
    pub fn is_unlimited(&self) -> bool {
        self.bandwidth.is_none() && self.operations.is_none()
    }
}

/// Limits that can be changed while limiters follow them.
#[derive(Debug, Default)]
pub struct LimitsHandle {
    generation: AtomicU64,
    unlimited: AtomicBool,
    limits: Mutex<Limits>,
}

impl LimitsHandle {
    /// A handle on `limits`.
    pub fn new(limits: Limits) -> Arc<Self> {
        let unlimited = AtomicBool::new(limits.is_unlimited());
        Arc::new(Self { generation: AtomicU64::new(0), unlimited, limits: Mutex::new(limits) })
    }

    /// The limits in force.
    pub fn get(&self) -> Limits {
        *lock(&self.limits)
    }

    /// Puts other limits in force. Requests that wait notice within [`RECHECK`]; debts are kept, so
    /// that changing limits often gains nothing.
    pub fn set(&self, limits: Limits) {
        let mut current = lock(&self.limits);
        *current = limits;
        self.unlimited.store(limits.is_unlimited(), Ordering::Release);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Whether nothing is bounded at present.
    pub fn is_unlimited(&self) -> bool {
        self.unlimited.load(Ordering::Acquire)
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

/// One bucket: filled up to its burst at first and after a time of rest.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    /// Tokens in units of 10⁻⁹; below zero: a debt.
    level: i128,
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        Self { rate, level: rate.capacity() }
    }

    /// Lets flow in what comes in `elapsed`. What overflows is lost, less of it if somebody is waiting;
    /// what is in already stays.
    fn fill(&mut self, elapsed: Duration, waiting: bool) {
        let spare = if waiting { self.rate.after(LATENESS) } else { 0 };
        let most = self.rate.capacity().saturating_add(spare).max(self.level);
        self.level = self.level.saturating_add(self.rate.after(elapsed)).min(most);
    }

    /// How long until `tokens` can be taken; zero: now.
    fn wait(&self, tokens: u64) -> Duration {
        let missing = i128::from(tokens.min(self.rate.burst)) * NANOS - self.level;
        // Rounded up: who waits so long finds enough.
        let step = self.rate.per_nanosecond();
        let nanos = missing.max(0).saturating_add(step - 1) / step;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn take(&mut self, tokens: u64) {
        self.level = self.level.saturating_sub(i128::from(tokens) * NANOS);
    }
}

/// Decides when requests may pass.
#[derive(Debug)]
pub struct RateLimiter {
    handle: Arc<LimitsHandle>,
    generation: u64,
    bandwidth: Option<Bucket>,
    operations: Option<Bucket>,
    /// When the buckets were filled last; none before the first request.
    filled: Option<Instant>,
    waiting: bool,
}

impl RateLimiter {
    /// A limiter with full buckets.
    pub fn new(limits: Limits) -> Self {
        Self::following(LimitsHandle::new(limits))
    }

    /// A limiter that follows changes made through `handle`.
    pub fn following(handle: Arc<LimitsHandle>) -> Self {
        let generation = handle.generation();
        let limits = handle.get();
        Self {
            handle,
            generation,
            bandwidth: limits.bandwidth.map(Bucket::new),
            operations: limits.operations.map(Bucket::new),
            filled: None,
            waiting: false,
        }
    }

    /// Through which to change the limits.
    pub fn handle(&self) -> &Arc<LimitsHandle> {
        &self.handle
    }

    /// Takes what one operation of `bytes` needs. One that is larger than the burst passes when the
    /// bucket is full, and leaves a debt.
    ///
    /// # Errors
    ///
    /// How long until it could pass if nothing else does; nothing has been taken. Ask again then,
    /// or after [`RECHECK`] if that is earlier.
    pub fn take(&mut self, now: Instant, bytes: u64) -> Result<(), Duration> {
        self.follow();
        if self.bandwidth.is_none() && self.operations.is_none() {
            return Ok(());
        }
        self.fill(now);
        let wait = self.wait(bytes);
        self.waiting = !wait.is_zero();
        if self.waiting {
            return Err(wait);
        }
        if let Some(bucket) = &mut self.bandwidth {
            bucket.take(bytes);
        }
        if let Some(bucket) = &mut self.operations {
            bucket.take(1);
        }
        Ok(())
    }

    fn wait(&self, bytes: u64) -> Duration {
        let bandwidth = self.bandwidth.as_ref().map(|bucket| bucket.wait(bytes));
        let operations = self.operations.as_ref().map(|bucket| bucket.wait(1));
        bandwidth.unwrap_or_default().max(operations.unwrap_or_default())
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = self.filled.map(|then| now.saturating_duration_since(then));
        // Two workers' clocks may be read in one order and arrive in another.
        self.filled = self.filled.max(Some(now));
        for bucket in [&mut self.bandwidth, &mut self.operations].into_iter().flatten() {
            bucket.fill(elapsed.unwrap_or_default(), self.waiting);
        }
    }

    /// Takes over limits if they were changed: buckets keep their level, up to what they now hold.
    fn follow(&mut self) -> bool {
        let generation = self.handle.generation();
        if generation == self.generation {
            return false;
        }
        self.generation = generation;
        let limits = self.handle.get();
        adjust(&mut self.bandwidth, limits.bandwidth);
        adjust(&mut self.operations, limits.operations);
        if limits.is_unlimited() {
            // Time without limits fills no bucket that comes later.
            (self.filled, self.waiting) = (None, false);
        }
        true
    }
}

fn adjust(bucket: &mut Option<Bucket>, rate: Option<Rate>) {
    *bucket = rate.map(|rate| match bucket.take() {
        Some(old) => Bucket { rate, level: old.level.min(rate.capacity()) },
        None => Bucket::new(rate),
    });
}

/// One limiter for several workers, such as the queues of a device. Who has to wait is served in the
/// order of arrival, so that small requests do not starve a large one.
#[derive(Debug)]
pub struct SharedLimiter {
    handle: Arc<LimitsHandle>,
    inner: Mutex<Shared>,
}

#[derive(Debug)]
struct Shared {
    limiter: RateLimiter,
    /// Workers that were told to wait, the first to be served in front; each is in it once at most.
    waiting: VecDeque<u16>,
    /// What the one in front needs.
    bytes: u64,
}

impl SharedLimiter {
    /// A limiter that follows `handle`.
    pub fn new(handle: Arc<LimitsHandle>) -> Self {
        let limiter = RateLimiter::following(Arc::clone(&handle));
        let inner = Mutex::new(Shared { limiter, waiting: VecDeque::new(), bytes: 0 });
        Self { handle, inner }
    }

    /// Through which to change the limits.
    pub fn handle(&self) -> &Arc<LimitsHandle> {
        &self.handle
    }

    /// [`RateLimiter::take`] on behalf of `worker`, a small number of its own. A worker that was told
    /// to wait and does not come back must [`leave`](Self::leave), or the others wait for it.
    ///
    /// # Errors
    ///
    /// As [`RateLimiter::take`].
    pub fn take(&self, worker: u16, now: Instant, bytes: u64) -> Result<(), Duration> {
        // No lock is taken where nothing is limited. Who still waits in the queue comes here too.
        if self.handle.is_unlimited() {
            return Ok(());
        }
        let mut shared = lock(&self.inner);
        let Shared { limiter, waiting, bytes: front_bytes } = &mut *shared;
        if limiter.follow() {
            // Some may have passed while nothing was limited, and will not come back.
            waiting.clear();
        }
        if waiting.front().is_some_and(|&front| front != worker) {
            if !waiting.contains(&worker) {
                waiting.push_back(worker);
            }
            limiter.fill(now);
            // Never zero, lest this worker spins until the one in front has woken up.
            return Err(limiter.wait(*front_bytes).max(Duration::from_micros(100)));
        }
        let taken = limiter.take(now, bytes);
        if taken.is_ok() {
            waiting.pop_front();
        } else {
            *front_bytes = bytes;
            if waiting.is_empty() {
                waiting.push_back(worker);
            }
        }
        limiter.waiting = !waiting.is_empty();
        taken
    }

    /// `worker` does not wait any more.
    pub fn leave(&self, worker: u16) {
        let mut shared = lock(&self.inner);
        shared.waiting.retain(|&other| other != worker);
        // The next one says what it needs when it asks again.
        (shared.bytes, shared.limiter.waiting) = (0, !shared.waiting.is_empty());
    }
}

#[cfg(test)]
#[path = "token_bucket_test.rs"]
mod token_bucket_test;
