//! The escape key of a console on a terminal: Ctrl-A, then a letter.

/// Ctrl-A.
const ESCAPE: u8 = 0x01;

/// What a user typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// A byte for the guest.
    Byte(u8),
    /// `Ctrl-A x`: end the run.
    Quit,
    /// `Ctrl-A p`: press the guest's power button.
    PowerButton,
    /// `Ctrl-A h`: say which keys there are.
    Help,
}

/// Sorts the bytes from a terminal into keys.
#[derive(Debug, Default)]
pub(super) struct Keys {
    escaped: bool,
}

impl Keys {
    /// Takes one byte; calls `key` for each key it completes. An escape sequence that means
    /// nothing goes to the guest as typed, `Ctrl-A Ctrl-A` as one Ctrl-A.
    pub(super) fn feed(&mut self, byte: u8, mut key: impl FnMut(Key)) {
        if !self.escaped {
            self.escaped = byte == ESCAPE;
            if !self.escaped {
                key(Key::Byte(byte));
            }
            return;
        }
        self.escaped = false;
        match byte {
            b'x' | b'X' => key(Key::Quit),
            b'p' | b'P' => key(Key::PowerButton),
            b'h' | b'?' => key(Key::Help),
            ESCAPE => key(Key::Byte(ESCAPE)),
            other => {
                key(Key::Byte(ESCAPE));
                key(Key::Byte(other));
            }
        }
    }
}

#[cfg(test)]
mod keys_test {
    use super::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let (mut keys, mut seen) = (Keys::default(), Vec::new());
        bytes.iter().for_each(|&byte| keys.feed(byte, |key| seen.push(key)));
        seen
    }

    #[test]
    fn ordinary_bytes_pass() {
        assert_eq!(keys(b"\x03x"), [Key::Byte(3), Key::Byte(b'x')]);
    }

    #[test]
    fn sequences_are_recognized_across_reads() {
        assert_eq!(keys(b"\x01x\x01p\x01h"), [Key::Quit, Key::PowerButton, Key::Help]);
    }

    #[test]
    fn the_escape_key_twice_is_the_key_itself() {
        assert_eq!(keys(b"\x01\x01x"), [Key::Byte(1), Key::Byte(b'x')]);
    }

    #[test]
    fn a_sequence_without_meaning_reaches_the_guest_as_typed() {
        assert_eq!(keys(b"\x01z"), [Key::Byte(1), Key::Byte(b'z')]);
    }
}
