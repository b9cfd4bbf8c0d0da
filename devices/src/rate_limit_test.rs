//! The limiter under a flood, with the clock in the test's hands.

use super::*;

#[test]
fn the_first_ten_pass_then_one_a_minute_with_the_number_left_out() {
    let limit = RateLimitedLog::new();
    let admitted = |second: u64| limit.admit_at(Duration::from_secs(second));
    for _ in 0..10 {
        assert_eq!(admitted(0), Some(0));
    }
    for _ in 0..1000 {
        assert_eq!(admitted(59), None);
    }
    assert_eq!(admitted(60), Some(1000));
    assert_eq!(admitted(61), None);
    assert_eq!(admitted(3600), Some(1));
    assert_eq!(limit.total(), 1013);
}

#[test]
fn threads_flooding_together_get_no_more_than_the_burst() {
    let limit = RateLimitedLog::new();
    let admitted: usize = std::thread::scope(|scope| {
        let flood = || (0..10_000).filter(|_| limit.admit().is_some()).count();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(flood)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(admitted, 10);
    assert_eq!(limit.total(), 40_000);
}
