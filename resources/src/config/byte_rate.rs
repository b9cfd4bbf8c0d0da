//! [`ByteRate`]: bytes a second as people write them.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

/// Bytes a second, at least 1.
///
/// Read from text: a whole number or a fraction of one and a unit, decimal (`kB`, `MB`, `GB`, `TB`:
/// powers of 1000, as rates are counted) or binary (`KiB`, `MiB`, `GiB`, `TiB`), in either case, with
/// or without `/s`. Unlike in a [`Size`](crate::Size), `MB` is 10⁶ here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteRate(u64);

/// Why a text is no rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a rate: {reason}; write it as in 100MB or 1.5GiB/s")]
pub struct ParseByteRateError {
    /// What was written.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

const UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("b", 1),
    ("kb", 1000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

impl ByteRate {
    /// `count` bytes a second; none for 0.
    #[must_use]
    pub const fn new(count: u64) -> Option<Self> {
        if count == 0 { None } else { Some(Self(count)) }
    }

    /// The number of bytes a second.
    #[must_use]
    pub const fn bytes_per_second(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteRate {
    type Err = ParseByteRateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = |reason| ParseByteRateError { text: text.to_owned(), reason };
        let lower = text.to_ascii_lowercase();
        let rate = lower.strip_suffix("/s").unwrap_or(&lower);
        let end = rate.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rate.len());
        let (number, unit) = rate.split_at(end);
        let (_, scale) = UNITS
            .into_iter()
            .find(|&(name, _)| name == unit.trim_start())
            .ok_or_else(|| fail("its unit is none of kB, MB, GB, TB, KiB, MiB, GiB and TiB"))?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = u32::try_from(fraction.len()).unwrap_or(u32::MAX);
        if whole.is_empty() || fraction.contains('.') || digits > 15 {
            return Err(fail("it does not start with a number"));
        }
        let too_large = || fail("it is more than 16 EiB a second");
        let whole: u64 = whole.parse().map_err(|_| too_large())?;
        let part: u64 = if fraction.is_empty() { 0 } else { fraction.parse().unwrap_or(0) };
        // Fifteen digits times 2⁴⁰ stay within 128 bits; what is less than a byte is dropped.
        let part = u128::from(part) * u128::from(scale) / 10u128.pow(digits);
        let bytes = u128::from(whole) * u128::from(scale) + part;
        let bytes = u64::try_from(bytes).map_err(|_| too_large())?;
        Self::new(bytes).ok_or_else(|| fail("nothing would ever pass; leave it out for no limit"))
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = ["B", "kB", "MB", "GB", "TB"];
        let fits = |power: &u32| self.0.is_multiple_of(1000u64.pow(*power));
        let power = (0..5u32).rev().find(fits).unwrap_or(0);
        write!(f, "{}{}/s", self.0 / 1000u64.pow(power), names[power as usize])
    }
}

impl Serialize for ByteRate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteRate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RateVisitor;

        impl Visitor<'_> for RateVisitor {
            type Value = ByteRate;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rate such as \"100MB\", or bytes a second")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteRate, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, count: i64) -> Result<ByteRate, E> {
                let bytes = u64::try_from(count).ok().and_then(ByteRate::new);
                bytes.ok_or_else(|| E::invalid_value(de::Unexpected::Signed(count), &self))
            }

            fn visit_u64<E: de::Error>(self, count: u64) -> Result<ByteRate, E> {
                ByteRate::new(count)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(count), &self))
            }
        }

        deserializer.deserialize_any(RateVisitor)
    }
}

#[cfg(test)]
mod byte_rate_test {
    use super::*;

    #[test]
    fn rates_are_decimal_unless_they_say_otherwise() {
        for (text, bytes) in [
            ("1", 1),
            ("100MB", 100_000_000),
            ("100mb/s", 100_000_000),
            ("1.5GiB/s", 3 << 29),
            ("2 kB", 2000),
            ("0.5kb", 500),
        ] {
            assert_eq!(text.parse::<ByteRate>().unwrap().bytes_per_second(), bytes, "{text}");
        }
    }

    #[test]
    fn what_is_shown_reads_back() {
        for bytes in [1, 999, 1000, 1024, 5_000_000, u64::MAX] {
            let rate = ByteRate::new(bytes).unwrap();
            assert_eq!(rate.to_string().parse(), Ok(rate));
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        for (text, reason) in [
            ("", "number"),
            ("fast", "unit"),
            ("1.2.3MB", "number"),
            ("10MB/h", "unit"),
            ("0", "nothing"),
            ("99999999999TB", "more than"),
            ("99999999999999999999999", "more than"),
        ] {
            let error = text.parse::<ByteRate>().unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("write it as"), "{error}");
        }
    }
}
