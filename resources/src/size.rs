//! [`Size`]: a number of bytes as people write it.
//!
//! Only powers of 1024 live here. Rates (`3GB/s`) are decimal and another type.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

/// A number of bytes, 0 to 2⁶⁴ − 1.
///
/// Read from text in the notation Docker takes for memory: a decimal number,
/// an optional space, and an optional unit in either case.
///
/// | unit | bytes |
/// |---|---|
/// | none, `b` | 1 |
/// | `k`, `kb`, `kib` | 1024 |
/// | `m`, `mb`, `mib` | 1024² |
/// | `g`, `gb`, `gib` | 1024³ |
/// | `t`, `tb`, `tib` | 1024⁴ |
/// | `p`, `pb`, `pib` | 1024⁵ |
///
/// So `MB` is 1024² as in Docker, not 10⁶. A fraction (`1.5GiB`) is taken when
/// it makes a whole number of bytes. Shown in the largest IEC unit that divides
/// it, so that what is shown reads back as the same size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(u64);

/// Why a text is not a [`Size`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseSizeError {
    /// No number at the beginning.
    #[error("`{0}` does not start with a number; write a size such as 512MiB or 2g")]
    NoNumber(String),
    /// The text after the number is no unit.
    #[error(
        "`{text}` ends in `{unit}`, which is no unit of size; use k, m, g, t or p, alone or followed by b or ib, as in 512MiB"
    )]
    UnknownUnit {
        /// The whole text.
        text: String,
        /// What follows the number.
        unit: String,
    },
    /// More than 2⁶⁴ − 1 bytes.
    #[error("`{0}` is more than 16EiB, the largest size there is; write a smaller one")]
    TooLarge(String),
    /// A fraction that does not make whole bytes.
    #[error(
        "`{0}` is not a whole number of bytes; write it in a smaller unit, such as 1126MiB for 1.1GiB"
    )]
    Fraction(String),
}

const UNITS: [(&str, u32); 6] = [("", 0), ("K", 10), ("M", 20), ("G", 30), ("T", 40), ("P", 50)];

impl Size {
    /// `count` bytes.
    #[must_use]
    pub const fn from_bytes(count: u64) -> Self {
        Self(count)
    }

    /// `count` KiB. Saturates at the largest size.
    #[must_use]
    pub const fn from_kib(count: u64) -> Self {
        Self(count.saturating_mul(1 << 10))
    }

    /// `count` MiB. Saturates at the largest size.
    #[must_use]
    pub const fn from_mib(count: u64) -> Self {
        Self(count.saturating_mul(1 << 20))
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Rounded to three significant digits for people, such as `23.4GiB`.
    /// [`Display`](fmt::Display) is exact instead.
    #[must_use]
    pub fn approximate(self) -> String {
        let (unit, shift) =
            UNITS.into_iter().rfind(|&(_, shift)| self.0 >> shift > 0).unwrap_or(UNITS[0]);
        if shift == 0 {
            return format!("{}B", self.0);
        }
        // Only shown, never computed with: the lost low bits do not matter.
        #[allow(clippy::cast_precision_loss)]
        let value = self.0 as f64 / (1u64 << shift) as f64;
        let decimals = if value >= 100.0 || value.fract() == 0.0 { 0 } else { 1 };
        format!("{value:.decimals$}{unit}iB")
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, shift) = UNITS
            .into_iter()
            .rfind(|&(_, shift)| self.0 != 0 && self.0.trailing_zeros() >= shift)
            .unwrap_or(UNITS[0]);
        write!(f, "{}{unit}{}", self.0 >> shift, if shift == 0 { "B" } else { "iB" })
    }
}

impl FromStr for Size {
    type Err = ParseSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
            return Err(ParseSizeError::NoNumber(text.to_owned()));
        }
        let shift = unit_shift(unit.strip_prefix(' ').unwrap_or(unit)).ok_or_else(|| {
            ParseSizeError::UnknownUnit { text: text.to_owned(), unit: unit.trim().to_owned() }
        })?;

        let too_large = || ParseSizeError::TooLarge(text.to_owned());
        let whole: u64 = whole.parse().map_err(|_| too_large())?;
        let whole = whole.checked_mul(1 << shift).ok_or_else(too_large)?;

        // Exact: 18 digits times 2⁵⁰ stays within 128 bits.
        let not_whole = || ParseSizeError::Fraction(text.to_owned());
        let fraction = fraction.trim_end_matches('0');
        let digits = u32::try_from(fraction.len()).ok().filter(|&n| n <= 18);
        let denominator = 10u128.pow(digits.ok_or_else(not_whole)?);
        let numerator = if fraction.is_empty() { 0 } else { fraction.parse().unwrap_or(0u128) };
        let scaled = numerator << shift;
        if scaled % denominator != 0 {
            return Err(not_whole());
        }
        let part = u64::try_from(scaled / denominator).map_err(|_| too_large())?;
        whole.checked_add(part).map(Self).ok_or_else(too_large)
    }
}

/// The power of two of a unit, `None` for an unknown one.
fn unit_shift(unit: &str) -> Option<u32> {
    if unit.eq_ignore_ascii_case("b") {
        return Some(0);
    }
    UNITS.into_iter().find_map(|(letter, shift)| {
        // Never slices inside a character: `get` refuses that.
        let rest = unit.get(letter.len()..)?;
        let matches = unit.get(..letter.len())?.eq_ignore_ascii_case(letter);
        let suffix = rest.is_empty()
            || shift > 0 && ["b", "ib"].iter().any(|s| rest.eq_ignore_ascii_case(s));
        (matches && suffix).then_some(shift)
    })
}

crate::config::schema_of!(Size, |_generator| {
    "type": ["string", "integer"],
    "minimum": 0,
    "pattern": "^[0-9]+([.][0-9]+)? ?([kKmMgGtTpP]?([iI]?[bB])?)$",
});

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

/// Reads a size from a string in [`Size`]'s notation or a whole number of bytes.
struct SizeVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = Size;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size such as \"512MiB\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
        Ok(Size(bytes))
    }

    fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
        u64::try_from(bytes)
            .map(Size)
            .map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
    }
}

#[cfg(test)]
#[path = "size_test.rs"]
mod size_test;
