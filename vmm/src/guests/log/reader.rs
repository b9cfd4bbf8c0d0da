//! Reads the log: from its beginning, a time or its last lines on, and as it grows, over the files being set aside.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::{Age, MAX_MARKS, Mark, parse_marks, time};
use crate::clock::millis;

/// Bytes read at a time.
const BLOCK: usize = 64 << 10;
/// How often files are looked at when the kernel does not tell of changes.
const POLL: Duration = Duration::from_millis(200);
/// How often, and how long at most, one waits for a writer that is setting files aside.
const SETTLE: (u32, Duration) = (50, Duration::from_millis(2));

/// What to read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Query {
    /// Only so many lines, the last ones before `until`.
    pub tail: Option<usize>,
    /// Only what was written then or later.
    pub since: Option<SystemTime>,
    /// Only what was written then or before.
    pub until: Option<SystemTime>,
}

/// Bytes of the log that were written at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// When, to about 10 ms. Without marks that tell, 1970.
    pub time: SystemTime,
    /// What.
    pub bytes: Vec<u8>,
}

/// Who reads the log of a guest.
#[derive(Debug)]
pub struct Reader {
    folder: PathBuf,
    /// The files to read, those that are older first.
    files: VecDeque<Files>,
    until: Option<u64>,
    /// The files are set aside: they grow no more.
    aside: bool,
    changes: Option<OwnedFd>,
}

/// A log and its marks.
#[derive(Debug)]
struct Files {
    log: File,
    inode: u64,
    /// Its size when it was opened.
    length: u64,
    /// Where to read on.
    position: u64,
    times: Option<File>,
    times_position: u64,
    marks: Vec<Mark>,
}

impl Reader {
    /// Reads what `query` wants of the log in `folder`. A log that is not there yet is empty.
    ///
    /// # Errors
    ///
    /// The kernel's answer when files cannot be opened or read.
    pub fn open(folder: &Path, query: &Query) -> io::Result<Self> {
        let mut reader = Self {
            folder: folder.to_owned(),
            files: open_all(folder)?,
            until: query.until.map(millis),
            aside: false,
            changes: None,
        };
        if let Some(since) = query.since {
            reader.skip_to_time(millis(since));
        }
        if let Some(lines) = query.tail {
            reader.skip_to_last(lines)?;
        }
        Ok(reader)
    }

    /// Bytes that are to be read of what was there when the log was opened.
    pub fn available(&self) -> u64 {
        self.files.iter().map(|files| files.length.saturating_sub(files.position)).sum()
    }

    /// What comes next; nothing if that is all for now, or all until the time that was asked for.
    ///
    /// # Errors
    ///
    /// The kernel's answer when files cannot be opened or read.
    pub fn read(&mut self) -> io::Result<Option<Piece>> {
        loop {
            let Some(files) = self.files.front_mut() else {
                self.files = open_all(&self.folder)?;
                if self.files.is_empty() {
                    return Ok(None);
                }
                continue;
            };
            if let Some(piece) = files.read()? {
                let over = self.until.is_some_and(|until| millis(piece.time) > until);
                if over {
                    files.position -= piece.bytes.len() as u64;
                }
                return Ok(Some(piece).filter(|_| !over));
            }
            if self.files.len() > 1 {
                self.files.pop_front();
            } else if !self.follow_rotation()? {
                return Ok(None);
            }
        }
    }

    /// Waits until the files may have changed, but not much longer than `patience`.
    pub fn wait(&mut self, patience: Duration) {
        let Some(changes) = &self.changes else {
            self.changes = watch(&self.folder);
            if self.changes.is_none() {
                thread::sleep(patience.min(POLL));
            }
            // What changed before the watch began is to be seen now.
            return;
        };
        let timeout = Timespec::try_from(patience).ok();
        let _ = poll(&mut [PollFd::new(changes, PollFlags::IN)], timeout.as_ref());
        let mut events = [0; 4096];
        while matches!(rustix::io::read(changes, &mut events), Ok(1..)) {}
    }

    /// At the end of the last files: whether there are others to read now, or more in these.
    fn follow_rotation(&mut self) -> io::Result<bool> {
        let Some(files) = self.files.front() else { return Ok(false) };
        let inode = files.inode;
        let current = fs::metadata(Age::Current.log(&self.folder));
        if current.is_err() || current.is_ok_and(|current| current.ino() == inode) {
            return Ok(false);
        }
        if !self.aside {
            // What came before they were set aside may have been missed.
            self.aside = true;
            return Ok(true);
        }
        let mut files = open_all(&self.folder)?;
        if files.front().is_some_and(|previous| previous.inode == inode) {
            files.pop_front();
        }
        self.aside = files.is_empty();
        if !files.is_empty() {
            self.files = files;
        }
        Ok(!self.aside)
    }

    fn skip_to_time(&mut self, since: u64) {
        for files in &mut self.files {
            match files.marks.iter().find(|mark| mark.time >= since) {
                Some(mark) => {
                    files.position = mark.start();
                    return;
                }
                None => files.position = files.length,
            }
        }
    }

    /// Skips all but the last `lines` lines of what is to be read now.
    fn skip_to_last(&mut self, lines: usize) -> io::Result<()> {
        let (mut lines, until) = (lines, self.until);
        let mut very_end = true;
        for files in self.files.iter_mut().rev() {
            let over = until.and_then(|until| files.marks.iter().find(|mark| mark.time > until));
            let end = over.map_or(u64::MAX, Mark::start).min(files.length).max(files.position);
            if lines == 0 {
                files.position = end;
                continue;
            }
            let mut block_end = end;
            let mut block = vec![0; BLOCK];
            while block_end > files.position && lines > 0 {
                let length =
                    usize::try_from(block_end - files.position).unwrap_or(BLOCK).min(BLOCK);
                block_end -= length as u64;
                let block = &mut block[..length];
                files.log.read_exact_at(block, block_end)?;
                // The newline at the very end begins no other line.
                let last = std::mem::take(&mut very_end).then(|| length - 1);
                let newlines = block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
                for (at, _) in newlines.filter(|(at, _)| Some(*at) != last) {
                    lines -= 1;
                    if lines == 0 {
                        files.position = block_end + at as u64 + 1;
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Files {
    fn open(folder: &Path, age: Age) -> io::Result<Option<Self>> {
        let log = match File::open(age.log(folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            log => log?,
        };
        let metadata = log.metadata()?;
        let mut files = Self {
            inode: metadata.ino(),
            length: metadata.len(),
            log,
            position: 0,
            times: File::open(age.times(folder)).ok(),
            times_position: 0,
            marks: Vec::new(),
        };
        files.read_marks()?;
        Ok(Some(files))
    }

    fn read(&mut self) -> io::Result<Option<Piece>> {
        let mut bytes = vec![0; BLOCK];
        let count = self.log.read_at(&mut bytes, self.position)?;
        bytes.truncate(count);
        if count == 0 {
            return Ok(None);
        }
        // Marks come before what they speak of: all that matter are there by now.
        self.read_marks()?;
        let next = self.marks.partition_point(|mark| mark.start() <= self.position);
        if let Some(next) = self.marks.get(next) {
            bytes.truncate(usize::try_from(next.start() - self.position).unwrap_or(usize::MAX));
        }
        let mark = next.checked_sub(1).and_then(|last| self.marks.get(last));
        self.position += bytes.len() as u64;
        Ok(Some(Piece { time: time(mark.map_or(0, |mark| mark.time)), bytes }))
    }

    fn read_marks(&mut self) -> io::Result<()> {
        let Some(times) = &self.times else { return Ok(()) };
        let mut bytes = Vec::new();
        let mut block = vec![0; BLOCK];
        while bytes.len() < MAX_MARKS {
            let count = times.read_at(&mut block, self.times_position + bytes.len() as u64)?;
            if count == 0 {
                break;
            }
            bytes.extend_from_slice(&block[..count]);
        }
        let used = parse_marks(&bytes, &mut self.marks);
        self.times_position += used as u64;
        if bytes[used..].contains(&b'\n') {
            // A line that makes no sense makes none later.
            self.times = None;
        }
        Ok(())
    }
}

/// The previous and the current files, those that there are, as they belong together.
fn open_all(folder: &Path) -> io::Result<VecDeque<Files>> {
    let (attempts, pause) = SETTLE;
    let mut all = VecDeque::new();
    for _ in 0..attempts {
        let inode = |path| fs::metadata(path).map(|metadata| metadata.ino()).ok();
        let both = || (inode(Age::Current.log(folder)), inode(Age::Current.times(folder)));
        let before = both();
        all.clear();
        for age in [Age::Previous, Age::Current] {
            all.extend(Files::open(folder, age)?);
        }
        // One of both is missing for a moment while the writer sets files aside.
        if before == both() && before.0.is_some() == before.1.is_some() {
            break;
        }
        thread::sleep(pause);
    }
    Ok(all)
}

fn watch(folder: &Path) -> Option<OwnedFd> {
    let changes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
    let what = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE;
    inotify::add_watch(&changes, folder, what).ok()?;
    Some(changes)
}

#[cfg(test)]
#[path = "reader_test.rs"]
mod reader_test;
