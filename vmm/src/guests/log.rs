//! The log of a guest's console: what it wrote, byte for byte, in two files of bounded size, and when.
//!
//! | file | holds |
//! |---|---|
//! | `console.log` | the output of all the guest's runs, one after the other |
//! | `console.times` | [`Mark`]s: when, and where in the output of which run, a byte of `console.log` was written |
//! | `console.log.1`, `console.times.1` | the same of what was written before, as far as it is kept |
//!
//! A mark is written before the bytes it speaks of. So whoever writes next knows from the last mark and the length of
//! the log how far the log goes, even if its writer was killed between any two system calls. Where output was lost, the
//! log has a line that says how much.
//!
//! One process writes at a time, which is for the caller to see to; anybody may read meanwhile. Where the output comes
//! from is the monitor's business.

mod reader;
mod writer;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use self::reader::{Piece, Query, Reader};
pub use self::writer::{LIMIT, Writer};

/// First line of a file of marks.
const HEADER: &str = "carve-console-times 1\n";
/// No file of marks grows near that.
const MAX_MARKS: usize = 16 << 20;

/// The log's files now, or those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    Current,
    Previous,
}

impl Age {
    fn log(self, folder: &Path) -> PathBuf {
        folder.join(if self == Self::Current { "console.log" } else { "console.log.1" })
    }

    fn times(self, folder: &Path) -> PathBuf {
        folder.join(if self == Self::Current { "console.times" } else { "console.times.1" })
    }
}

/// From here on, until the next mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    /// When it was written, in milliseconds since 1970.
    time: u64,
    /// Where in the log: the first byte of the guest's.
    position: u64,
    /// The offset of that byte in the output of its run.
    offset: u64,
    /// Bytes right before it that are not the guest's: a note that output was lost.
    note: u64,
    /// Which run it is from.
    run: u64,
}

impl Mark {
    /// Where in the log what was written then begins.
    fn start(&self) -> u64 {
        self.position - self.note
    }

    fn to_line(self) -> String {
        let Self { time, position, offset, note, run } = self;
        format!("{time} {position} {offset} {note} {run}\n")
    }

    fn parse(line: &str) -> Option<Self> {
        let mut numbers = line.split(' ').map(str::parse);
        let mut next = || numbers.next()?.ok();
        let [time, position, offset, note, run] = [next()?, next()?, next()?, next()?, next()?];
        let fits = note <= position && next().is_none();
        fits.then_some(Self { time, position, offset, note, run })
    }
}

/// Adds the marks in `bytes`, which begin with a whole line, to `marks`. Returns how many bytes those were: lines that are
/// not whole yet are left, and so is everything from one that makes no sense.
fn parse_marks(bytes: &[u8], marks: &mut Vec<Mark>) -> usize {
    let mut used = 0;
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        let Some(text) = line.strip_suffix(b"\n").and_then(|line| str::from_utf8(line).ok()) else {
            break;
        };
        if text != HEADER.trim_end() {
            let Some(mark) = Mark::parse(text) else { break };
            if marks.last().is_some_and(|last| last.position > mark.position) {
                break;
            }
            marks.push(mark);
        }
        used += line.len();
    }
    used
}

fn time(milliseconds: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(milliseconds)).unwrap_or(UNIX_EPOCH)
}
