//! [`DetachKeys`]: the keys that leave a guest's console, written as Docker writes them.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

/// A sequence of keys; none at all never matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetachKeys {
    text: String,
    bytes: Vec<u8>,
}

/// Ctrl-P, then Ctrl-Q.
impl Default for DetachKeys {
    fn default() -> Self {
        Self { text: "ctrl-p,ctrl-q".to_owned(), bytes: vec![0x10, 0x11] }
    }
}

impl fmt::Display for DetachKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A text that is no sequence of keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` is no key; write one character, or ctrl- and one of a-z @ [ \\ ] ^ _, several with commas between them",
    .0.escape_debug()
)]
pub struct NotAKey(String);

impl FromStr for DetachKeys {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        let key = |key: &str| match key.as_bytes() {
            [byte] if byte.is_ascii_graphic() => Ok(*byte),
            [b'c', b't', b'r', b'l', b'-', byte @ (b'a'..=b'z' | b'@' | b'['..=b'_')] => {
                Ok(byte.to_ascii_uppercase() - b'@')
            }
            _ => Err(NotAKey(key.to_owned())),
        };
        let bytes = match text {
            "" => Vec::new(),
            text => text.split(',').map(key).collect::<Result<_, _>>()?,
        };
        Ok(Self { text: text.to_owned(), bytes })
    }
}

/// Looks for the keys in what is typed.
#[derive(Debug)]
pub struct Watch {
    keys: DetachKeys,
    /// Typed, and perhaps the beginning of the sequence.
    held: VecDeque<u8>,
}

impl Watch {
    pub fn new(keys: DetachKeys) -> Self {
        Self { keys, held: VecDeque::new() }
    }

    /// Adds to `through` what is not part of the sequence. Whether it was typed; what comes after it is dropped.
    pub fn feed(&mut self, typed: &[u8], through: &mut Vec<u8>) -> bool {
        let keys = &self.keys.bytes;
        for &byte in typed {
            self.held.push_back(byte);
            while !self.held.iter().zip(keys).all(|(held, key)| held == key)
                || self.held.len() > keys.len()
            {
                through.extend(self.held.pop_front());
            }
            if !keys.is_empty() && self.held.len() == keys.len() {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod keys_test {
    use super::*;

    fn feed(keys: &str, typed: &[&str]) -> (String, bool) {
        let mut watch = Watch::new(keys.parse().unwrap());
        let mut through = Vec::new();
        let found = typed.iter().any(|typed| watch.feed(typed.as_bytes(), &mut through));
        (String::from_utf8(through).unwrap(), found)
    }

    #[test]
    fn keys_are_written_as_docker_writes_them() {
        let bytes = |text: &str| text.parse::<DetachKeys>().map(|keys| keys.bytes);
        assert_eq!(bytes("ctrl-p,ctrl-q").unwrap(), DetachKeys::default().bytes);
        assert_eq!(bytes("ctrl-@,ctrl-[,ctrl-\\,ctrl-_,a,Z").unwrap(), b"\0\x1b\x1c\x1faZ");
        assert_eq!(bytes("").unwrap(), b"");
        for bad in ["ctrl-", "ctrl-P", "ctrl-1", "ab", "a,,b", "é"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_the_whole_sequence_detaches_and_all_else_goes_through() {
        assert_eq!(
            feed("ctrl-p,ctrl-q", &["a\x10", "b\x10\x10", "\x11c"]),
            ("a\x10b\x10".into(), true)
        );
        assert_eq!(feed("a,a,b", &["aaab"]), ("a".into(), true));
        assert_eq!(feed("x", &["ab"]), ("ab".into(), false));
        assert_eq!(feed("", &["ab\x10\x11"]), ("ab\x10\x11".into(), false));
    }
}
