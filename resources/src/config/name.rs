//! [`Name`]: what a VM is called.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::schema_of::schema_of;

/// The name of a VM: a DNS label (RFC 1123, section 2.1), that is 1 to 63 of
/// `a`–`z`, `0`–`9` and `-`, with `-` neither first nor last. It can so be a host
/// name, a file name and a cgroup name as it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Name(String);

/// A text that is no [`Name`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a name: {reason}; use 1 to 63 of a-z, 0-9 and -, such as web-1", .text.escape_debug())]
pub struct InvalidName {
    /// What was written.
    pub text: String,
    /// Which rule it breaks.
    pub reason: &'static str,
}

impl Name {
    const MAX_LENGTH: usize = 63;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let reason = if text.is_empty() {
            "it is empty"
        } else if text.len() > Self::MAX_LENGTH {
            "it is longer than 63 characters"
        } else if !text.chars().all(allowed) {
            "it has other characters than a-z, 0-9 and -"
        } else if text.starts_with('-') || text.ends_with('-') {
            "it begins or ends with -"
        } else {
            return Ok(Self(text));
        };
        Err(InvalidName { text, reason })
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        text.to_owned().try_into()
    }
}

schema_of!(Name, |_generator| {
    "type": "string",
    "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
});

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod name_test {
    use super::*;

    #[test]
    fn dns_labels_are_names_and_nothing_else_is() {
        let longest = "a".repeat(63);
        for good in ["a", "9", "web-1", "a--b", longest.as_str()] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        let too_long = "a".repeat(64);
        for bad in ["", "-a", "a-", "-", "Web", "a.b", "a_b", "é", "a/b", "..", "a\n", &too_long] {
            let error = bad.parse::<Name>().unwrap_err().to_string();
            assert!(error.contains("such as web-1"), "{error}");
        }
    }
}
