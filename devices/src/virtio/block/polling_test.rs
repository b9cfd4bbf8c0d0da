use super::*;

const fn possible() -> Polling {
    Polling { credit: 0, possible: true }
}

/// How many looks of a worker whose requests all come after `time` find nothing, for each 1,000 of them.
fn looks_in_vain(time: Duration) -> usize {
    let mut polling = possible();
    let mut vain = 0;
    for _ in 0..1000 {
        if polling.pays() {
            if time <= LOOK {
                polling.hit();
                continue;
            }
            polling.missed();
            vain += 1;
        }
        polling.slept(time);
    }
    vain
}

#[test]
fn requests_that_come_soon_are_looked_for() {
    let mut polling = possible();
    for _ in 0..MISS {
        assert!(!polling.pays());
        polling.slept(LOOK);
    }
    assert!(polling.pays());
    for _ in 0..1000 {
        polling.hit();
    }
    // One that comes late is forgiven.
    polling.missed();
    polling.slept(Duration::from_secs(1));
    assert!(polling.pays());
    polling.missed();
    assert!(!polling.pays());
}

#[test]
fn looks_in_vain_cost_no_more_than_a_microsecond_for_each_request() {
    let micros = Duration::from_micros;
    assert_eq!(
        [20, 32, 40, 60, 65, 1000].map(|time| looks_in_vain(micros(time))),
        [0, 0, 31, 31, 0, 0]
    );
}

#[test]
fn a_driver_that_is_late_every_few_requests_is_looked_for_only_while_that_pays() {
    // Of nine looks one may be in vain: four microseconds for each of the others.
    for (found, goes_on) in [(9, true), (7, false)] {
        let mut polling = possible();
        polling.credit = MOST;
        for _ in 0..100 {
            (0..found).for_each(|_| polling.hit());
            polling.missed();
        }
        assert_eq!(polling.pays(), goes_on, "{found}");
    }
}

#[test]
fn where_looking_cannot_pay_nobody_looks() {
    let mut polling = Polling::never();
    (0..1000).for_each(|_| polling.slept(Duration::ZERO));
    assert!(!polling.pays() && !polling.is_possible());
}
