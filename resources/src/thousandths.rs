//! [`Thousandths`]: a quantity to three decimals, such as 0.5 CPUs or an overcommit of 1.5.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

/// A number from 0 to [`Thousandths::MAX`] with at most three decimals, exact: sums of shares
/// must not drift as sums of floating point numbers do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Thousandths(u64);

impl Thousandths {
    /// The largest number a file can give.
    pub const MAX: Self = Self::whole(100_000);

    /// The number `count`.
    #[must_use]
    pub const fn whole(count: u32) -> Self {
        Self(count as u64 * 1000)
    }

    /// `count` thousandths.
    #[must_use]
    pub const fn from_thousandths(count: u64) -> Self {
        Self(count)
    }

    /// How many thousandths it is.
    #[must_use]
    pub const fn thousandths(self) -> u64 {
        self.0
    }

    /// `amount` times this number, what is less than 1 dropped. Saturates.
    #[must_use]
    pub fn of(self, amount: u64) -> u64 {
        let product = u128::from(amount) * u128::from(self.0) / 1000;
        u64::try_from(product).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Thousandths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1000, self.0 % 1000);
        if rest == 0 {
            return write!(f, "{whole}");
        }
        let decimals = format!("{rest:03}");
        write!(f, "{whole}.{}", decimals.trim_end_matches('0'))
    }
}

crate::config::schema_of!(Thousandths, |_generator| {
    "type": "number",
    "minimum": 0,
    "maximum": 100_000,
});

impl Serialize for Thousandths {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(1000) {
            return serializer.serialize_u64(self.0 / 1000);
        }
        // Exact in what is shown: 53 bits hold every number up to MAX with three decimals.
        #[allow(clippy::cast_precision_loss)]
        let number = self.0 as f64 / 1000.0;
        serializer.serialize_f64(number)
    }
}

impl<'de> Deserialize<'de> for Thousandths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ThousandthsVisitor)
    }
}

/// Reads a number with at most three decimals.
struct ThousandthsVisitor;

impl Visitor<'_> for ThousandthsVisitor {
    type Value = Thousandths;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number from 0 to 100000 with at most three decimals")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Thousandths, E> {
        let value = number.checked_mul(1000).map(Thousandths);
        let value = value.filter(|&value| value <= Thousandths::MAX);
        value.ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Thousandths, E> {
        let count = u64::try_from(number)
            .map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))?;
        self.visit_u64(count)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Thousandths, E> {
        let scaled = number * 1000.0;
        // The nearest double to a number with three decimals is off by far less than this.
        if !(0.0..=1e8).contains(&scaled) || (scaled - scaled.round()).abs() > 1e-6 {
            return Err(E::invalid_value(de::Unexpected::Float(number), &self));
        }
        // In range, as just checked.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Ok(Thousandths(scaled.round() as u64))
    }
}

#[cfg(test)]
mod thousandths_test {
    use super::*;

    fn read(text: &str) -> Result<Thousandths, String> {
        let table: Result<std::collections::BTreeMap<String, Thousandths>, _> =
            toml::from_str(&format!("x = {text}"));
        table.map(|table| table["x"]).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn numbers_are_exact_to_three_decimals() {
        for (text, count, shown) in [
            ("0", 0, "0"),
            ("12", 12_000, "12"),
            ("0.5", 500, "0.5"),
            ("1.001", 1001, "1.001"),
            ("99999.999", 99_999_999, "99999.999"),
            ("0.1", 100, "0.1"),
        ] {
            assert_eq!(read(text).unwrap().thousandths(), count);
            assert_eq!(read(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn others_are_refused() {
        for text in ["-1", "-0.5", "0.0005", "100001", "nan", "inf", "\"1\"", "1e300"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn products_are_exact_and_never_overflow() {
        assert_eq!(Thousandths::from_thousandths(1500).of(3), 4);
        assert_eq!(Thousandths::MAX.of(u64::MAX), u64::MAX);
    }
}
