//! [`Id`]: what tells guests apart for good, whatever they are called.

use std::fmt;
use std::str::FromStr;

use rustix::rand::{GetRandomFlags, getrandom};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Twelve lower-case hexadecimal digits, drawn at random.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String")]
#[schemars(with = "String", extend("pattern" = "^[0-9a-f]{12}$"))]
pub struct Id(String);

const DIGITS: usize = 12;

impl Id {
    /// A new one.
    ///
    /// # Errors
    ///
    /// The kernel has no randomness yet.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; DIGITS / 2];
        getrandom(&mut bytes, GetRandomFlags::empty())?;
        Ok(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// Its digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no [`Id`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is no id of a guest, which has {DIGITS} digits of 0-9 and a-f", .0.escape_debug())]
pub struct NotAnId(String);

impl TryFrom<String> for Id {
    type Error = NotAnId;

    fn try_from(text: String) -> Result<Self, NotAnId> {
        let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() == DIGITS && text.bytes().all(digit) {
            Ok(Self(text))
        } else {
            Err(NotAnId(text))
        }
    }
}

impl FromStr for Id {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        text.to_owned().try_into()
    }
}

const ADJECTIVES: [&str; 32] = [
    "able", "amber", "bold", "brave", "brisk", "calm", "clear", "cosy", "crisp", "eager", "fair",
    "fine", "fresh", "gentle", "glad", "golden", "happy", "keen", "kind", "light", "lively",
    "lucky", "merry", "mild", "neat", "noble", "proud", "quick", "quiet", "sunny", "swift", "warm",
];
const NOUNS: [&str; 32] = [
    "acorn", "alder", "aspen", "beech", "birch", "burl", "cedar", "chisel", "cypress", "dowel",
    "elm", "fir", "gouge", "grain", "hazel", "hickory", "juniper", "larch", "linden", "lathe",
    "mallet", "maple", "oak", "pear", "pine", "plane", "poplar", "rowan", "spruce", "walnut",
    "willow", "yew",
];

/// A name for a guest that was given none: one of a thousand, followed by `suffix` where that is not
/// enough.
///
/// # Errors
///
/// The kernel has no randomness yet.
pub fn random_name(suffix: Option<u32>) -> std::io::Result<String> {
    let mut bytes = [0; 2];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    let [adjective, noun] = bytes.map(|byte| usize::from(byte) % ADJECTIVES.len());
    let name = format!("{}-{}", ADJECTIVES[adjective], NOUNS[noun]);
    Ok(suffix.map_or_else(|| name.clone(), |suffix| format!("{name}-{suffix}")))
}

#[cfg(test)]
mod id_test {
    use resources::config::Name;

    use super::*;

    #[test]
    fn ids_read_back_and_differ() {
        let (one, other) = (Id::random().unwrap(), Id::random().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.as_str().parse::<Id>().unwrap(), one);
        for bad in ["", "0123456789a", "0123456789AB", "../../../../x"] {
            bad.parse::<Id>().unwrap_err();
        }
    }

    #[test]
    fn drawn_names_are_names() {
        for _ in 0..100 {
            random_name(None).unwrap().parse::<Name>().unwrap();
            random_name(Some(u32::MAX)).unwrap().parse::<Name>().unwrap();
        }
    }
}
