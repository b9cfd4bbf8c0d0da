//! Following the journal, also when its file is put aside for another.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::mem;
use std::path::PathBuf;

use super::{Journal, same};
use crate::api::types::Event;

/// How much is read at once.
const CHUNK: usize = 64 << 10;

/// Longest line; what is longer was not written by Carve.
const LONGEST: usize = 1 << 20;

/// A place in the journal. Lines that are no events are passed over.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    /// The file that is read, and the one after it, if that is there already.
    file: Option<File>,
    next: Option<File>,
    bytes: Vec<u8>,
    /// So many of `bytes` were looked at.
    seen: usize,
    /// The rest of the line is passed over.
    skipping: bool,
}

impl Reader {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: None, next: None, bytes: Vec::new(), seen: 0, skipping: false }
    }

    /// The next event, or nothing if there is none yet.
    ///
    /// # Errors
    ///
    /// The files cannot be read.
    pub fn read(&mut self) -> io::Result<Option<Event>> {
        loop {
            while let Some(line) = self.line() {
                if let Ok(event) = serde_json::from_slice(&line) {
                    return Ok(Some(event));
                }
            }
            if !self.fill()? && !self.turn_over()? {
                return Ok(None);
            }
        }
    }

    /// The next line that is there whole.
    fn line(&mut self) -> Option<Vec<u8>> {
        loop {
            let rest = &self.bytes[self.seen..];
            let Some(length) = rest.iter().position(|&byte| byte == b'\n') else {
                self.bytes.drain(..mem::take(&mut self.seen));
                if self.bytes.len() > LONGEST {
                    self.bytes = Vec::new();
                    self.skipping = true;
                }
                return None;
            };
            let line = rest[..length].to_vec();
            self.seen += length + 1;
            if !mem::take(&mut self.skipping) {
                return Some(line);
            }
        }
    }

    /// Reads on; whether there was anything.
    fn fill(&mut self) -> io::Result<bool> {
        let Some(file) = &mut self.file else { return Ok(false) };
        let count = file.take(CHUNK as u64).read_to_end(&mut self.bytes)?;
        Ok(count > 0)
    }

    /// At the end of a file: goes on to the next one, if there is one.
    fn turn_over(&mut self) -> io::Result<bool> {
        if let Some(next) = self.next.take() {
            self.begin(next);
            return Ok(true);
        }
        if let Some(file) = &self.file {
            if same(file, &self.path) {
                return Ok(false);
            }
            // Nobody writes to a file that was put aside, but somebody may have just before.
            if self.fill()? {
                return Ok(true);
            }
        }
        let current = open(&self.path)?;
        // Not yet read: at the beginning, and if two files were put aside since the last look.
        let read = |file: &File| {
            let others = [&self.file, &current];
            others.into_iter().flatten().any(|other| same_file(file, other))
        };
        let mut unread = [open(&Journal::before(&self.path))?.filter(|file| !read(file)), current]
            .into_iter()
            .flatten();
        let Some(first) = unread.next() else { return Ok(false) };
        self.next = unread.next();
        self.begin(first);
        Ok(true)
    }

    fn begin(&mut self, file: File) {
        self.file = Some(file);
        // The beginning of a line that was never written to its end.
        self.bytes = Vec::new();
        self.seen = 0;
        self.skipping = false;
    }
}

fn open(path: &std::path::Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn same_file(one: &File, other: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (one.metadata(), other.metadata()) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

#[cfg(test)]
#[path = "reader_test.rs"]
mod reader_test;
