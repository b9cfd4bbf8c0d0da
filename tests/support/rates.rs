//! How much is counted a second while it goes on.

use std::thread;
use std::time::{Duration, Instant};

use super::divided::assert_within;
use super::scene::say;

const SPAN: Duration = Duration::from_secs(10);
/// From when it has begun.
const SETTLE: Duration = Duration::from_secs(2);
/// For a guest on a busy host to begin.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often less may be counted: a busy machine keeps a guest from running for seconds, and no limit lets more through.
const SPANS: usize = 3;

/// Asserts that each counter counts as much in ten seconds as its limit a second says, within a twentieth: never more, and
/// as much in one of three times. They are read together, with the time that they are of.
#[track_caller]
pub fn assert_limits<const N: usize>(
    limits: [(&str, u64); N],
    mut read: impl FnMut() -> (Duration, [u64; N]),
) {
    let (deadline, (_, first)) = (Instant::now() + PATIENCE, read());
    // A second's worth has passed, and with it the burst.
    while read().1.iter().zip(first).zip(limits).any(|((now, first), limit)| now - first < limit.1)
    {
        assert!(Instant::now() < deadline, "{limits:?}: from {first:?} to {:?}", read().1);
        thread::sleep(Duration::from_millis(100));
    }
    for span in 1..=SPANS {
        thread::sleep(SETTLE);
        let (start, before) = read();
        thread::sleep(SPAN);
        let (end, after) = read();
        let mut is_reached = true;
        for (index, (what, limit)) in limits.into_iter().enumerate() {
            let rate = per_second(after[index] - before[index], end - start);
            say(&format!("{what}: {rate:.1} a second, of {limit}"));
            let limit = per_second(limit, Duration::from_secs(1));
            let least = if span == SPANS { 0.95 * limit } else { 0.0 };
            assert_within(rate, least..=1.05 * limit, what);
            is_reached &= rate >= 0.95 * limit;
        }
        if is_reached {
            return;
        }
    }
}

#[allow(clippy::cast_precision_loss)]
fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}
