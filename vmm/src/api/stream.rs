//! [`Stream`]: a response without a foreseeable end.

use std::fmt;

/// Where the bytes of a response come from that goes on for as long as both sides want it to. Nothing here
/// waits: what makes a stream go on after a pause writes to the eventfd that its service was given.
pub trait Stream: fmt::Debug + Send {
    /// Appends the next bytes, a few thousand at most, and says what comes after them.
    fn next(&mut self, output: &mut Vec<u8>) -> Flow;

    /// Whether the client may take as long as it likes: what it leaves there costs nothing.
    fn is_patient(&self) -> bool {
        false
    }

    /// Whether the client may send anything.
    fn has_input(&self) -> bool {
        false
    }

    /// Takes bytes of the client's, as many as there is room for now; how many.
    fn feed(&mut self, bytes: &[u8]) -> usize {
        bytes.len()
    }
}

/// What comes after the bytes that a stream gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// More, at once.
    More,
    /// Nothing for now.
    Pause,
    /// Nothing any more.
    End,
    /// What the client should have had next is not there any more.
    Lost,
}
