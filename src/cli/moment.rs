//! [`Moment`]: a point in time on the command line, such as `10m` ago or `2026-03-01T12:00:00Z`.

use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(SystemTime);

impl Moment {
    /// As the system's clock has it.
    pub fn time(self) -> SystemTime {
        self.0
    }

    /// Milliseconds since 1970.
    pub fn millis(self) -> u64 {
        let since_1970 = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
    }

    fn parse(text: &str, now: SystemTime) -> Result<Self, NotAMoment> {
        let refused = || NotAMoment(text.to_owned());
        if let Ok(ago) = humantime::parse_duration(text) {
            return now.checked_sub(ago).map(Self).ok_or_else(refused);
        }
        if let Ok(time) = humantime::parse_rfc3339_weak(text) {
            return Ok(Self(time));
        }
        // Seconds since 1970, with fractions: what `date +%s.%N` prints.
        let seconds: f64 = text.parse().map_err(|_| refused())?;
        let since_1970 = Duration::try_from_secs_f64(seconds).map_err(|_| refused())?;
        UNIX_EPOCH.checked_add(since_1970).map(Self).ok_or_else(refused)
    }
}

/// A text that is no [`Moment`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` is no time; write how long ago (10m, 1h30m), a time in UTC (2026-03-01T12:00:00) or seconds since 1970",
    .0.escape_debug()
)]
pub struct NotAMoment(String);

impl FromStr for Moment {
    type Err = NotAMoment;

    fn from_str(text: &str) -> Result<Self, NotAMoment> {
        Self::parse(text, SystemTime::now())
    }
}

#[cfg(test)]
mod moment_test {
    use super::*;

    #[test]
    fn times_are_how_long_ago_or_when() {
        let now = UNIX_EPOCH + Duration::from_secs(10_000);
        let millis = |text| Moment::parse(text, now).map(Moment::millis);
        assert_eq!(millis("10m"), Ok(9_400_000));
        assert_eq!(millis("1h 30m"), Ok(4_600_000));
        assert_eq!(millis("1970-01-01T00:00:05Z"), Ok(5000));
        assert_eq!(millis("1970-01-01 00:00:05.5"), Ok(5500));
        assert_eq!(millis("12.25"), Ok(12_250));
        for bad in ["", "soon", "-1", "1e300", "nan", "inf", "2026-13-01T00:00:00Z"] {
            assert_eq!(millis(bad), Err(NotAMoment(bad.to_owned())));
        }
    }
}
