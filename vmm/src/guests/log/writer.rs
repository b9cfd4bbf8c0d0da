//! Writes the log, goes on where another writer stopped, and never fails: what cannot be written is lost, and the log
//! says so once it can be written again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::{Age, HEADER, MAX_MARKS, Mark, parse_marks};
use crate::clock::millis;

/// Size of the current log, in bytes, at which it becomes the previous one. Both together are at most twice that.
pub const LIMIT: u64 = 8 << 20;

/// Marks together take at most this fraction of the log's limit.
const MARKS_SHARE: u64 = 4;
/// Milliseconds between two marks: the resolution of the log's times. Bounds what a guest that writes byte by byte costs.
const RESOLUTION: u64 = 10;
/// How long files that cannot be opened are not tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Who writes the log of a guest.
#[derive(Debug)]
pub struct Writer {
    folder: PathBuf,
    limit: u64,
    run: u64,
    /// None: they could not be opened or repaired.
    files: Option<Files>,
    tried: Instant,
    /// Offset in the run's output of the byte after the last in the log.
    offset: u64,
}

/// The current files, as long as nobody else changed them.
#[derive(Debug)]
struct Files {
    log: File,
    length: u64,
    /// The log ends with a whole line.
    line_ended: bool,
    times: File,
    times_length: u64,
    last: Option<Mark>,
}

impl Writer {
    /// Goes on with the log in `folder`. `run` is a number that no other run of the guest has, such as the time it
    /// started at. Files of more than `limit` bytes are set aside, and what was set aside before is deleted.
    ///
    /// Files that cannot be opened are tried again later: that is no error.
    pub fn open(folder: &Path, limit: u64, run: u64) -> Self {
        let mut writer = Self {
            folder: folder.to_owned(),
            limit,
            run,
            files: None,
            tried: Instant::now(),
            offset: 0,
        };
        writer.reopen();
        writer
    }

    /// How much of the run's output is in the log: the offset to go on from.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Adds `bytes`, which are at `offset` of the run's output and came `now`. What is in the log already is passed
    /// over; what is missing before them is marked as lost.
    pub fn append(&mut self, offset: u64, bytes: &[u8], now: SystemTime) {
        if self.files.as_ref().is_some_and(|files| !files.are_as_they_were()) {
            self.files = None;
            self.reopen();
        }
        if self.files.is_none() && self.tried.elapsed() >= RETRY {
            self.reopen();
        }
        let known = usize::try_from(self.offset.saturating_sub(offset)).unwrap_or(usize::MAX);
        let Some(bytes) = bytes.get(known..).filter(|bytes| !bytes.is_empty()) else { return };
        if let Err(error) = self.write(offset + known as u64, bytes, now) {
            tracing::debug!("console output is lost: {error}");
        }
    }

    fn reopen(&mut self) {
        self.tried = Instant::now();
        match Files::open(&self.folder) {
            Ok(files) => {
                let last = files.last.map(|last| (last, files.length));
                let last = last.or_else(|| previous_end(&self.folder, files.length));
                if let Some((last, length)) = last.filter(|(last, _)| last.run == self.run) {
                    self.offset = last.offset + (length - last.position);
                }
                self.files = Some(files);
            }
            Err(error) => tracing::debug!("the console log cannot be opened: {error}"),
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8], now: SystemTime) -> io::Result<()> {
        let Some(files) = self.files.as_mut() else { return Ok(()) };
        let full = files.length + bytes.len() as u64 > self.limit && files.length > 0;
        if full || files.times_length > self.limit / MARKS_SHARE {
            self.files = None;
            rotate(&self.folder)?;
            self.files = Some(Files::open(&self.folder)?);
        }
        let Some(files) = self.files.as_mut() else { return Ok(()) };
        let written = files.add(offset, offset - self.offset, self.run, bytes, millis(now));
        if written > 0 {
            self.offset = offset + written as u64;
        }
        Ok(())
    }
}

impl Files {
    /// Opens the current files and repairs what a writer left that did not come to its end.
    fn open(folder: &Path) -> io::Result<Self> {
        let (log_path, times_path) = (Age::Current.log(folder), Age::Current.times(folder));
        if !log_path.exists() && times_path.exists() {
            // Setting aside was interrupted.
            fs::rename(&times_path, Age::Previous.times(folder))?;
        }
        let open =
            |path| OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
        let (log, times) = (open(log_path)?, open(times_path)?);
        let mut length = log.metadata()?.len();
        let (mut marks, mut used) = read_marks(&times)?;
        while let Some(mark) = marks.pop_if(|mark| mark.position > length) {
            used -= mark.to_line().len() as u64;
            if mark.start() <= length {
                // A note that was not written to its end.
                length = mark.start();
                log.set_len(length)?;
            }
        }
        times.set_len(used)?;
        let mut files = Self {
            line_ended: ends_line(&log, length)?,
            log,
            length,
            times,
            times_length: used,
            last: marks.pop(),
        };
        if files.times_length == 0 {
            files.add_time(HEADER)?;
        }
        Ok(files)
    }

    /// Nobody cut, enlarged or deleted them.
    fn are_as_they_were(&self) -> bool {
        let same = |file: &File, length| {
            file.metadata().is_ok_and(|now| now.len() == length && now.nlink() > 0)
        };
        same(&self.log, self.length) && same(&self.times, self.times_length)
    }

    /// Adds bytes at `offset`, before which `lost` are missing; how many, which is none or not all if the files do not
    /// take them.
    fn add(&mut self, offset: u64, lost: u64, run: u64, bytes: &[u8], now: u64) -> usize {
        let note = match (lost, self.line_ended) {
            (0, _) => String::new(),
            (lost, true) => format!("[carve: {lost} bytes of console output were lost here]\n"),
            (lost, false) => format!("\n[carve: {lost} bytes of console output were lost here]\n"),
        };
        let (length, times_length, last) = (self.length, self.times_length, self.last);
        let note_length = note.len() as u64;
        let known = |last: Mark| last.run == run && now.abs_diff(last.time) < RESOLUTION;
        if lost > 0 || !last.is_some_and(known) {
            let position = length + note_length;
            let mark = Mark { time: now, position, offset, note: note_length, run };
            if self.add_time(&mark.to_line()).is_err() {
                return 0;
            }
            self.last = Some(mark);
        }
        let done = match self.add_log(note.as_bytes()) == note.len() {
            true => self.add_log(bytes),
            false => 0,
        };
        if done == 0 {
            // Best effort: whoever opens the files next repairs them too.
            if self.length > length {
                let _ = self.log.set_len(length);
            }
            let _ = self.times.set_len(times_length);
            (self.length, self.times_length, self.last) = (length, times_length, last);
        } else {
            self.line_ended = bytes[done - 1] == b'\n';
        }
        done
    }

    fn add_log(&mut self, mut bytes: &[u8]) -> usize {
        let all = bytes.len();
        while !bytes.is_empty() {
            match self.log.write(bytes) {
                Ok(0) => break,
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::debug!("the console log takes nothing: {error}");
                    break;
                }
            }
        }
        let done = all - bytes.len();
        self.length += done as u64;
        done
    }

    fn add_time(&mut self, line: &str) -> io::Result<()> {
        let added = self.times.write_all(line.as_bytes());
        match added {
            Ok(()) => self.times_length += line.len() as u64,
            Err(_) => self.times.set_len(self.times_length)?,
        }
        added
    }
}

/// Makes the current files the previous ones, the log first: see [`Files::open`].
fn rotate(folder: &Path) -> io::Result<()> {
    fs::rename(Age::Current.log(folder), Age::Previous.log(folder))?;
    fs::rename(Age::Current.times(folder), Age::Previous.times(folder))
}

/// The last mark of the previous log and its length, if nothing has been written since.
fn previous_end(folder: &Path, current_length: u64) -> Option<(Mark, u64)> {
    if current_length > 0 {
        return None;
    }
    let (marks, _) = read_marks(&File::open(Age::Previous.times(folder)).ok()?).ok()?;
    let length = fs::metadata(Age::Previous.log(folder)).ok()?.len();
    marks.last().filter(|last| last.position <= length).map(|last| (*last, length))
}

/// The marks and the length of their lines, those that make sense.
fn read_marks(times: &File) -> io::Result<(Vec<Mark>, u64)> {
    let (mut bytes, mut marks) = (Vec::new(), Vec::new());
    times.take(MAX_MARKS as u64).read_to_end(&mut bytes)?;
    let used = parse_marks(&bytes, &mut marks);
    Ok((marks, used as u64))
}

fn ends_line(log: &File, length: u64) -> io::Result<bool> {
    let mut last = [b'\n'];
    if length > 0 {
        log.read_exact_at(&mut last, length - 1)?;
    }
    Ok(last == *b"\n")
}

#[cfg(test)]
#[path = "writer_test.rs"]
mod writer_test;
