//! [`Bandwidth`]: how much may pass in a second, as people write it.
//!
//! Unlike a [`Size`](crate::Size), a bandwidth counts in powers of 1000 where its unit does not say
//! otherwise: `MB` is 10⁶ bytes here.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

use super::schema_of::schema_of;

/// Bytes a second, at least 1.
///
/// Read from text: a whole number or a fraction, an optional space, and a unit in either case with or
/// without `/s` behind it. What is less than a byte is dropped.
///
/// | unit | bytes |
/// |---|---|
/// | none, `B` | 1 |
/// | `kB`, `MB`, `GB`, `TB` | 10³, 10⁶, 10⁹, 10¹² |
/// | `KiB`, `MiB`, `GiB`, `TiB` | 2¹⁰, 2²⁰, 2³⁰, 2⁴⁰ |
/// | `bit`, `kbit`, `Mbit`, `Gbit`, `Tbit` | ⅛, 10³/8, 10⁶/8, 10⁹/8, 10¹²/8 |
///
/// Shown in the largest unit of bytes that divides it, so that what is shown reads back as the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bandwidth(u64);

/// Why a text is no [`Bandwidth`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a bandwidth: {reason}; write it as in 10MB/s, 1.5GiB/s or 100Mbit/s")]
pub struct ParseBandwidthError {
    /// What was written.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Units and their size in bits.
const UNITS: [(&str, u64); 15] = [
    ("", 8),
    ("b", 8),
    ("kb", 8_000),
    ("mb", 8_000_000),
    ("gb", 8_000_000_000),
    ("tb", 8_000_000_000_000),
    ("kib", 8 << 10),
    ("mib", 8 << 20),
    ("gib", 8 << 30),
    ("tib", 8 << 40),
    ("bit", 1),
    ("kbit", 1_000),
    ("mbit", 1_000_000),
    ("gbit", 1_000_000_000),
    ("tbit", 1_000_000_000_000),
];

impl Bandwidth {
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

impl FromStr for Bandwidth {
    type Err = ParseBandwidthError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = |reason| ParseBandwidthError { text: text.to_owned(), reason };
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        // Fifteen digits times the largest unit stay within 128 bits.
        let digits = u32::try_from(fraction.len()).ok().filter(|digits| (1..=15).contains(digits));
        let digits = digits.filter(|_| !whole.is_empty() && !fraction.contains('.'));
        let digits = digits.ok_or_else(|| fail("it does not start with a number"))?;
        let unit = unit.trim_start().to_ascii_lowercase();
        let unit = unit.strip_suffix("/s").unwrap_or(&unit);
        let bits = UNITS.into_iter().find(|&(name, _)| name == unit).map(|(_, bits)| bits.into());
        let unknown = "its unit is none of B, kB, MB, GB, TB, KiB, MiB, GiB, TiB, bit, kbit, Mbit, Gbit and Tbit";
        let bits: u128 = bits.ok_or_else(|| fail(unknown))?;
        let too_large = || fail("it is more than 16 EiB a second");
        let whole: u64 = whole.parse().map_err(|_| too_large())?;
        let part: u128 = fraction.parse().unwrap_or(0);
        let bytes = (u128::from(whole) * bits + part * bits / 10u128.pow(digits)) / 8;
        let bytes = u64::try_from(bytes).map_err(|_| too_large())?;
        let nothing = "it is less than one byte a second; leave it out for no limit";
        Self::new(bytes).ok_or_else(|| fail(nothing))
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimal = ["B", "kB", "MB", "GB", "TB"];
        let binary = ["B", "KiB", "MiB", "GiB", "TiB"];
        let (base, names) =
            if self.0.is_multiple_of(1000) { (1000u64, decimal) } else { (1024, binary) };
        let fits = |power: &u32| self.0.is_multiple_of(base.pow(*power));
        let power = (0..5u32).rev().find(fits).unwrap_or(0);
        write!(f, "{}{}/s", self.0 / base.pow(power), names[power as usize])
    }
}

schema_of!(Bandwidth, |_generator| {
    "type": ["string", "integer"],
    "minimum": 1,
    "pattern": "^[0-9]+([.][0-9]{1,15})? *[A-Za-z]*(/s)?$",
});

impl Serialize for Bandwidth {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bandwidth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BandwidthVisitor)
    }
}

/// Reads a bandwidth from text or from a whole number of bytes a second.
struct BandwidthVisitor;

impl Visitor<'_> for BandwidthVisitor {
    type Value = Bandwidth;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a bandwidth such as \"100MB/s\", or bytes a second")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Bandwidth, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, count: i64) -> Result<Bandwidth, E> {
        let bytes = u64::try_from(count).ok().and_then(Bandwidth::new);
        bytes.ok_or_else(|| E::invalid_value(de::Unexpected::Signed(count), &self))
    }

    fn visit_u64<E: de::Error>(self, count: u64) -> Result<Bandwidth, E> {
        Bandwidth::new(count)
            .ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(count), &self))
    }
}

#[cfg(test)]
mod bandwidth_test {
    use super::*;

    #[test]
    fn units_are_decimal_unless_they_say_otherwise_and_of_bytes_or_bits() {
        for (text, bytes, shown) in [
            ("1", 1, "1B/s"),
            ("10MB/s", 10_000_000, "10MB/s"),
            ("3GB/s", 3_000_000_000, "3GB/s"),
            ("100 Mbit/s", 12_500_000, "12500kB/s"),
            ("1gbit", 125_000_000, "125MB/s"),
            ("2.5Gbit/s", 312_500_000, "312500kB/s"),
            ("1500kb/s", 1_500_000, "1500kB/s"),
            ("100MiB/s", 100 << 20, "100MiB/s"),
            ("1.5GiB/s", 3 << 29, "1536MiB/s"),
            ("0.5kb", 500, "500B/s"),
            ("17bit", 2, "2B/s"),
        ] {
            let bandwidth: Bandwidth = text.parse().unwrap();
            let is = (bandwidth.bytes_per_second(), bandwidth.to_string());
            assert_eq!(is, (bytes, shown.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_shown_reads_back() {
        for bytes in [1, 999, 1000, 1024, 5_000_000, 3 << 40, u64::MAX] {
            let bandwidth = Bandwidth::new(bytes).unwrap();
            assert_eq!(bandwidth.to_string().parse(), Ok(bandwidth));
        }
    }

    #[test]
    fn files_say_it_as_text_or_as_a_number_of_bytes() {
        #[derive(serde::Deserialize)]
        struct Limit {
            bandwidth: Bandwidth,
        }
        let read = |text: &str| toml::from_str::<Limit>(text).map(|limit| limit.bandwidth.0);
        assert_eq!(read("bandwidth = 1500").unwrap(), 1500);
        assert_eq!(read("bandwidth = \"1.5 kB/s\"").unwrap(), 1500);
        for bad in ["0", "-1", "1.5", "true", "\"fast\""] {
            assert!(read(&format!("bandwidth = {bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn errors_say_what_is_wrong_and_how_to_write_it() {
        for (bad, reason) in [
            ("", "number"),
            ("MB/s", "number"),
            ("1.2.3MB", "number"),
            ("1.", "number"),
            ("-1", "number"),
            ("1MB/h", "unit"),
            ("10 parsec", "unit"),
            ("0", "less than"),
            ("7bit", "less than"),
            ("99999999999TB", "more than"),
            ("99999999999999999999999", "more than"),
        ] {
            let error = bad.parse::<Bandwidth>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{bad}`")) && error.contains("10MB/s"), "{error}");
            assert!(error.contains(reason), "{error}");
        }
    }
}
