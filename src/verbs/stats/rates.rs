//! What a guest does a second, from two counts of what it has done.

use vmm::api::types::Statistics;

/// Rates between two counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// CPUs of the host in use, in percent of one.
    pub cpu_percent: f64,
    /// Bytes a second read from disks.
    pub disk_read: u64,
    /// Bytes a second written to disks.
    pub disk_written: u64,
    /// Bytes a second from the network.
    pub net_received: u64,
    /// Bytes a second to the network.
    pub net_sent: u64,
}

impl Rates {
    /// What was done from `before` to `after`, of the same run; nothing if no time has passed.
    pub fn between(before: &Statistics, after: &Statistics) -> Option<Self> {
        let millis = after.uptime.checked_sub(before.uptime).filter(|&millis| millis > 0)?;
        let sums = |all: &Statistics| {
            let disks = || all.disks.values();
            let nets = || all.nets.values();
            [
                total(disks().map(|disk| disk.read_bytes)),
                total(disks().map(|disk| disk.written_bytes)),
                total(nets().map(|net| net.received_bytes)),
                total(nets().map(|net| net.sent_bytes)),
            ]
        };
        let (first, second) = (sums(before), sums(after));
        let rate = |index: usize| per_second(second[index].saturating_sub(first[index]), millis);
        Some(Self {
            cpu_percent: percent(after.cpu_time.saturating_sub(before.cpu_time), millis),
            disk_read: rate(0),
            disk_written: rate(1),
            net_received: rate(2),
            net_sent: rate(3),
        })
    }
}

/// The guest's counts may be anything: they are added without a bound that could be passed.
fn total(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}

fn per_second(count: u64, millis: u64) -> u64 {
    u64::try_from(u128::from(count) * 1000 / u128::from(millis)).unwrap_or(u64::MAX)
}

/// To a tenth, which is all that anybody reads.
#[expect(clippy::cast_precision_loss, reason = "only shown")]
fn percent(micros: u64, millis: u64) -> f64 {
    (micros as f64 / millis as f64).round() / 10.0
}

#[cfg(test)]
mod rates_test {
    use vmm::api::types::{DiskStatistics, NetStatistics};

    use super::*;

    fn at(uptime: u64, cpu_time: u64, bytes: u64) -> Statistics {
        let disk = DiskStatistics {
            read_bytes: bytes,
            written_bytes: 2 * bytes,
            ..DiskStatistics::default()
        };
        let net = NetStatistics {
            received_bytes: 3 * bytes,
            sent_bytes: 4 * bytes,
            ..NetStatistics::default()
        };
        Statistics {
            uptime,
            cpu_time,
            disks: [("root".to_owned(), disk.clone()), ("data".to_owned(), disk)].into(),
            nets: [("lan".to_owned(), net)].into(),
            ..Statistics::default()
        }
    }

    #[test]
    fn rates_are_sums_over_devices_by_the_guests_own_clock() {
        let rates = Rates::between(&at(1000, 50_000, 100), &at(1500, 675_000, 600)).unwrap();
        assert_eq!(rates.cpu_percent, 125.0);
        assert_eq!((rates.disk_read, rates.disk_written), (2000, 4000));
        assert_eq!((rates.net_received, rates.net_sent), (3000, 4000));
    }

    #[test]
    fn without_time_between_there_is_no_rate_and_counts_that_went_back_are_none() {
        assert_eq!(Rates::between(&at(5, 0, 0), &at(5, 10, 10)), None);
        assert_eq!(Rates::between(&at(6, 0, 0), &at(5, 10, 10)), None);
        let back = Rates::between(&at(0, 10, 10), &at(1000, 5, 5)).unwrap();
        assert_eq!(back, Rates::default());
        let most = Rates::between(&at(0, 0, 0), &at(1, u64::MAX, u64::MAX / 4)).unwrap();
        assert_eq!(most.net_sent, u64::MAX);
    }
}
