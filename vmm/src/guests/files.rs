//! Files that appear whole or not at all, and locks on files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Replaces the file at `path` by `value` as JSON, in one step. With `durable` it is on the disk
/// afterwards, whatever happens to the host.
pub fn write<T: Serialize>(path: &Path, value: &T, durable: bool) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    // Threads of one process may write the same file, too.
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let unique = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_extension(format!("{}-{unique}.tmp", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&text)?;
        if durable {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)?;
        if durable && let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// What is kept free in a folder for its files to be replaced when their file system is full: guests must be stopped
/// and removed then more than ever.
const SPARE: [u8; 16 << 10] = [0; 16 << 10];

/// [`write()`] of a file whose folder keeps some room for that, which is used when there is no other.
pub fn write_with_spare<T: Serialize>(path: &Path, value: &T, durable: bool) -> io::Result<()> {
    let spare = path.with_file_name("spare");
    match write(path, value, durable) {
        Err(error)
            if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
                && fs::remove_file(&spare).is_ok() =>
        {
            write(path, value, durable)
        }
        Ok(()) => {
            let mut options = OpenOptions::new();
            if let Ok(mut file) = options.write(true).create_new(true).mode(0o600).open(&spare)
                && file.write_all(&SPARE).is_err()
            {
                // Half of it would do for nothing, and look like all of it.
                let _ = fs::remove_file(&spare);
            }
            Ok(())
        }
        failed => failed,
    }
}

/// Reads what [`write()`] wrote; nothing if there is no such file.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    parse(fs::read(path))
}

/// The same of a file that was not always to be durable: nothing also if it is empty, which is what a host that loses
/// power makes of one that was new.
pub fn read_if_any<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(text) if text.is_empty() => Ok(None),
        text => parse(text),
    }
}

fn parse<T: DeserializeOwned>(text: io::Result<Vec<u8>>) -> io::Result<Option<T>> {
    match text {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A lock that keeps other commands out until it is dropped, or its process is gone.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for the lock on the file at `path`, which is made if needed.
    pub fn wait(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The lock on the file at `path` if nobody has it.
    pub fn attempt(path: &Path) -> io::Result<Option<Self>> {
        let file = open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}
