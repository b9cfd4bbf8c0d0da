//! [`Bandwidth`]: how much may pass in a second, as people write it.
//!
//! Unlike sizes, bandwidths count in powers of 1000, and in bytes or in bits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Bytes a second, at least 1.
///
/// Read from a whole number, an optional space, and a unit with or without `/s` behind it, in either
/// case: none or `B` for bytes, `kB`, `MB`, `GB` for 10³, 10⁶, 10⁹ of them, and `bit`, `kbit`, `Mbit`,
/// `Gbit` for an eighth of that. Shown in the largest unit of bytes that divides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub struct Bandwidth(u64);

/// Why a text is no [`Bandwidth`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a bandwidth: {reason}; write it as in 10MB/s or 100Mbit/s")]
pub struct ParseBandwidthError {
    /// What was written.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// As it stands in a file: a number of bytes, or text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u64),
    Text(String),
}

impl Bandwidth {
    /// Bytes a second.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Bandwidth {
    type Err = ParseBandwidthError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = |reason| ParseBandwidthError { text: text.to_owned(), reason };
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        if number.is_empty() {
            return Err(fail("it does not start with a whole number"));
        }
        let unit = unit.trim_start().to_ascii_lowercase();
        let unit = unit.strip_suffix("/s").unwrap_or(&unit);
        let (factor, divisor) = match unit {
            "" | "b" => (1, 1),
            "kb" => (1_000, 1),
            "mb" => (1_000_000, 1),
            "gb" => (1_000_000_000, 1),
            "bit" => (1, 8),
            "kbit" => (1_000, 8),
            "mbit" => (1_000_000, 8),
            "gbit" => (1_000_000_000, 8),
            _ => return Err(fail("its unit is none of B, kB, MB, GB, bit, kbit, Mbit and Gbit")),
        };
        let most = || fail("it is too large");
        let number: u64 = number.parse().map_err(|_| most())?;
        match number.checked_mul(factor).ok_or_else(most)? / divisor {
            0 => Err(fail("it is less than one byte a second")),
            bytes => Ok(Self(bytes)),
        }
    }
}

impl TryFrom<Written> for Bandwidth {
    type Error = ParseBandwidthError;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        match written {
            Written::Number(bytes) => bytes.to_string().parse(),
            Written::Text(text) => text.parse(),
        }
    }
}

impl From<Bandwidth> for String {
    fn from(bandwidth: Bandwidth) -> Self {
        bandwidth.to_string()
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1_000_000_000, "GB/s"), (1_000_000, "MB/s"), (1_000, "kB/s")];
        let unit = units.into_iter().find(|&(factor, _)| self.0.is_multiple_of(factor));
        let (factor, unit) = unit.unwrap_or((1, "B/s"));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

#[cfg(test)]
mod bandwidth_test {
    use super::*;

    #[test]
    fn units_are_decimal_and_of_bytes_or_bits() {
        for (text, bytes, shown) in [
            ("1", 1, "1B/s"),
            ("10MB/s", 10_000_000, "10MB/s"),
            ("100 Mbit/s", 12_500_000, "12500kB/s"),
            ("1gbit", 125_000_000, "125MB/s"),
            ("1500kb/s", 1_500_000, "1500kB/s"),
        ] {
            let bandwidth: Bandwidth = text.parse().unwrap();
            assert_eq!((bandwidth.bytes(), bandwidth.to_string().as_str()), (bytes, shown));
            assert_eq!(shown.parse(), Ok(bandwidth));
        }
    }

    #[test]
    fn errors_say_how_to_write_it() {
        for bad in ["", "MB/s", "0", "7bit", "10MiB/s", "1.5MB", "-1", "99999999999GB", "1MB/h"] {
            let error = bad.parse::<Bandwidth>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{bad}`")) && error.contains("10MB/s"), "{error}");
        }
    }
}
