//! Rate limits in virtual time.

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn rate(per_second: u64, burst: u64) -> Option<Rate> {
    Some(Rate { per_second, burst })
}

fn bandwidth(per_second: u64, burst: u64) -> Limits {
    Limits { bandwidth: rate(per_second, burst), operations: None }
}

/// Requests of `bytes` one after the other from `start` on, each waited for and woken up `late`, until
/// `end`: how many passed.
fn passed(
    limiter: &mut RateLimiter,
    start: Instant,
    end: Instant,
    bytes: u64,
    late: Duration,
) -> u64 {
    let (mut now, mut count) = (start, 0);
    while now < end {
        match limiter.take(now, bytes) {
            Ok(()) => count += 1,
            Err(wait) => now += wait.max(Duration::from_nanos(1)) + late,
        }
    }
    count
}

/// What is taken in ten seconds, as a share of what the limit allows.
fn share_of_ten_busy_seconds(rate: Rate, bytes: u64, late: Duration) -> f64 {
    let mut limiter = RateLimiter::new(bandwidth(rate.per_second, rate.burst));
    let start = Instant::now();
    // The bucket is full at first; what counts is what passes afterwards.
    let busy = start + SECOND;
    passed(&mut limiter, start, busy, bytes, late);
    let count = passed(&mut limiter, busy, busy + 10 * SECOND, bytes, late);
    count as f64 * bytes as f64 / (rate.per_second as f64 * 10.0)
}

#[test]
fn waking_up_later_than_a_burst_lasts_costs_nothing() {
    let (bytes, late) = (1_000, Duration::from_millis(2));
    let share =
        share_of_ten_busy_seconds(Rate { per_second: 1 << 30, burst: 1 << 20 }, bytes, late);
    assert!((share - 1.0).abs() < 0.001, "{share}");
}

#[test]
fn without_limits_everything_passes() {
    let mut limiter = RateLimiter::new(Limits::default());
    assert!((0..1000).all(|_| limiter.take(Instant::now(), u64::MAX).is_ok()));
}

#[test]
fn a_burst_passes_at_once_and_what_follows_waits() {
    let mut limiter = RateLimiter::new(bandwidth(1000, 500));
    let now = Instant::now();
    assert_eq!(limiter.take(now, 400), Ok(()));
    assert_eq!(limiter.take(now, 400), Err(Duration::from_millis(300)));
    assert_eq!(limiter.take(now, 100), Ok(()));
    assert_eq!(limiter.take(now + Duration::from_millis(399), 400), Err(Duration::from_millis(1)));
    assert_eq!(limiter.take(now + Duration::from_millis(400), 400), Ok(()));
}

#[test]
fn a_request_larger_than_the_burst_leaves_a_debt() {
    let mut limiter = RateLimiter::new(bandwidth(1000, 100));
    let now = Instant::now();
    assert_eq!(limiter.take(now, 1100), Ok(()));
    assert_eq!(limiter.take(now, 1), Err(Duration::from_millis(1001)));
    assert_eq!(limiter.take(now + SECOND, 1), Err(Duration::from_millis(1)));
    // A second large one has to wait for a full bucket.
    assert_eq!(limiter.take(now + SECOND, 1100), Err(Duration::from_millis(100)));
}

#[test]
fn bytes_and_operations_are_taken_together_or_not_at_all() {
    let mut limiter =
        RateLimiter::new(Limits { bandwidth: rate(1000, 1000), operations: rate(1, 1) });
    let now = Instant::now();
    assert_eq!(limiter.take(now, 10), Ok(()));
    for _ in 0..1000 {
        assert_eq!(limiter.take(now, 10), Err(SECOND));
    }
    assert_eq!(limiter.take(now + SECOND, 1000), Ok(()), "bytes were taken while waiting");
}

#[test]
fn rest_fills_the_bucket_to_its_burst_only() {
    let mut limiter = RateLimiter::new(bandwidth(1000, 500));
    let now = Instant::now();
    assert_eq!(limiter.take(now, 500), Ok(()));
    let later = now + Duration::from_secs(3600);
    assert_eq!(limiter.take(later, 500), Ok(()));
    assert_eq!(limiter.take(later, 1), Err(Duration::from_millis(1)));
}

#[test]
fn a_clock_read_out_of_order_gives_nothing() {
    let mut limiter = RateLimiter::new(bandwidth(1000, 1));
    let now = Instant::now() + SECOND;
    assert_eq!(limiter.take(now, 1), Ok(()));
    assert!(limiter.take(now - SECOND, 1).is_err());
    assert!(limiter.take(now, 1).is_err(), "the same second was counted twice");
}

#[test]
fn extreme_rates_neither_overflow_nor_pass_for_ever() {
    let mut limiter = RateLimiter::new(bandwidth(u64::MAX, u64::MAX));
    let now = Instant::now();
    for i in 0..10 {
        let _ = limiter.take(now + i * Duration::from_secs(1 << 30), u64::MAX);
    }
    let mut limiter = RateLimiter::new(bandwidth(0, 0));
    assert_eq!(limiter.take(now, u64::MAX), Ok(()));
    assert!(limiter.take(now, u64::MAX).is_err());
}

#[test]
fn a_limit_changed_while_running_holds_from_then_on() {
    let mut limiter = RateLimiter::new(bandwidth(1000, 100));
    let (start, ten) = (Instant::now(), 10 * SECOND);
    passed(&mut limiter, start, start + SECOND, 10, Duration::ZERO);
    limiter.handle().set(bandwidth(5000, 100));
    let count = passed(&mut limiter, start + SECOND, start + SECOND + ten, 10, Duration::ZERO);
    assert!((4990..=5015).contains(&count), "{count}");
    limiter.handle().set(Limits::default());
    assert_eq!(limiter.take(start, u64::MAX), Ok(()));
}

#[test]
fn a_change_of_limits_does_not_forgive_a_debt() {
    let mut limiter = RateLimiter::new(bandwidth(1000, 100));
    let now = Instant::now();
    assert_eq!(limiter.take(now, 2100), Ok(()));
    limiter.handle().set(bandwidth(1000, 200));
    assert_eq!(limiter.take(now, 100), Err(Duration::from_millis(2100)));
}

#[test]
fn workers_that_wait_are_served_in_turn() {
    let shared = SharedLimiter::new(LimitsHandle::new(bandwidth(1000, 100)));
    let now = Instant::now();
    let at = |millis| now + Duration::from_millis(millis);
    assert_eq!(shared.take(0, now, 100), Ok(()));
    assert!(shared.take(1, now, 100).is_err());
    // There is enough for the small request, but the large one was first.
    assert!(shared.take(0, at(50), 10).is_err());
    assert_eq!(shared.take(1, at(100), 100), Ok(()));
    assert_eq!(shared.take(0, at(110), 10), Ok(()));
}

#[test]
fn a_worker_that_leaves_holds_nobody_up() {
    let handle = LimitsHandle::new(bandwidth(1000, 100));
    let shared = SharedLimiter::new(Arc::clone(&handle));
    let now = Instant::now();
    assert_eq!(shared.take(0, now, 100), Ok(()));
    assert!(shared.take(1, now, 100).is_err());
    assert!(shared.take(0, now, 10).is_err());
    shared.leave(1);
    assert_eq!(shared.take(0, now + Duration::from_millis(10), 10), Ok(()));
    // Nor does one that passed while there were no limits.
    assert!(shared.take(1, now + Duration::from_millis(10), 100).is_err());
    handle.set(Limits::default());
    assert_eq!(shared.take(1, now, 100), Ok(()));
    handle.set(bandwidth(1000, 100));
    assert_eq!(shared.take(0, now + SECOND, 10), Ok(()));
}

proptest! {
    #[test]
    fn ten_busy_seconds_pass_what_the_limit_says(
        per_second in 1000u64..1 << 34,
        burst_millis in 1u64..200,
        micros_a_request in 1u64..40_000,
        late in 0u64..2_000,
    ) {
        let burst = per_second * burst_millis / 1000;
        let bytes = (per_second * micros_a_request / 1_000_000).max(1);
        let rate = Rate { per_second, burst };
        let share = share_of_ten_busy_seconds(rate, bytes, Duration::from_micros(late));
        prop_assert!((share - 1.0).abs() < 0.05, "{share}");
    }

    #[test]
    fn no_span_of_time_passes_more_than_flows_in(
        per_second in 1u64..1_000_000,
        burst in 0u64..100_000,
        steps in proptest::collection::vec((0u64..50_000, 1u64..50_000), 1..300),
    ) {
        let mut limiter = RateLimiter::new(bandwidth(per_second, burst));
        let (start, mut now, mut total) = (Instant::now(), Duration::ZERO, 0u64);
        for (micros, bytes) in steps {
            now += Duration::from_micros(micros);
            if limiter.take(start + now, bytes).is_ok() {
                let flowed = per_second as f64 * now.as_secs_f64() + burst as f64;
                prop_assert!(total as f64 <= flowed + 1e-3, "{total} of {flowed} before the last request");
                total += bytes;
            }
        }
    }
}
