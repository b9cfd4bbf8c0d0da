//! Extracted kernels kept between runs in the user's cache directory.
//!
//! An entry is named after the SHA-256 of the bzImage it comes from. A second directory maps files
//! as the host identifies them (device, inode, size, times) to entries by symbolic links, so that a
//! warm start neither hashes nor reads the bzImage. Entries are written to a temporary file, synced
//! and renamed: other processes see all of an entry or nothing, and none waits for another.
//!
//! A cache that cannot be used costs only time; an entry that proves damaged is to be discarded.

mod entry;

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::bzimage::Header;
use super::image::Image;

/// Most bytes that all entries together may have. The kernels of a distribution take 20 to 40 MiB.
pub const MAX_BYTES: u64 = 1 << 30;
/// Most entries.
pub const MAX_ENTRIES: usize = 16;
/// Most files remembered in the index.
const MAX_LINKS: usize = 64;
/// A file changed this recently may change again without its times showing it, so it is not
/// remembered in the index. Two seconds are the coarsest clock of a file system in use.
const SETTLED: Duration = Duration::from_secs(2);
/// Temporary files older than this were left behind by a process that died.
const ABANDONED: Duration = Duration::from_secs(3600);

const ENTRY: &str = "kernel";
const TEMPORARY: &str = "tmp";

/// Why an extracted kernel was not kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A step failed.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// One entry would fill the cache.
    #[error("an entry of {0} bytes is too large")]
    TooLarge(u64),
}

impl Error {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

/// What the host tells a file by: all of it changes when the content does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileId {
    name: String,
    changed: SystemTime,
}

impl FileId {
    /// Identifies an opened file by its metadata.
    pub fn new(metadata: &Metadata) -> Self {
        let m = metadata;
        let name = format!(
            "{:x}-{:x}-{:x}-{:x}.{:x}-{:x}.{:x}",
            m.dev(),
            m.ino(),
            m.size(),
            m.mtime(),
            m.mtime_nsec(),
            m.ctime(),
            m.ctime_nsec()
        );
        let changed = Duration::from_secs(u64::try_from(m.ctime()).unwrap_or(0));
        Self { name, changed: SystemTime::UNIX_EPOCH + changed }
    }

    fn is_settled(&self, settled: Duration) -> bool {
        SystemTime::now().duration_since(self.changed).is_ok_and(|age| age >= settled)
    }
}

/// SHA-256 of a bzImage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hash(String);

impl Hash {
    /// Hashes a whole file's content.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// An entry opened for reading. It stays readable when another process evicts it.
#[derive(Debug)]
pub struct Entry {
    /// Source of the image's bytes.
    pub file: File,
    /// Header of the bzImage.
    pub header: Header,
    /// What to load.
    pub image: Image,
    path: PathBuf,
}

impl Entry {
    /// Removes an entry that proved damaged.
    pub fn discard(&self) {
        // Whoever comes next would find the same damage, so a failure needs no attention here.
        let _ = fs::remove_file(&self.path);
    }
}

/// The cache in one directory, which need not exist yet.
#[derive(Debug, Clone)]
pub struct Cache {
    entries: PathBuf,
    index: PathBuf,
    max_bytes: u64,
    max_entries: usize,
    settled: Duration,
}

impl Cache {
    /// The cache below `directory`, which belongs to this user.
    pub fn new(directory: &Path) -> Self {
        let entries = directory.join("kernels");
        Self {
            index: entries.join("by-file"),
            entries,
            max_bytes: MAX_BYTES,
            max_entries: MAX_ENTRIES,
            settled: SETTLED,
        }
    }

    /// The entry of a file seen before.
    pub fn find_file(&self, id: &FileId) -> Option<Entry> {
        let target = fs::read_link(self.index.join(&id.name)).ok()?;
        // Only the name counts: a link cannot lead out of the directory.
        self.open(&self.entries.join(target.file_name()?))
    }

    /// The entry of a content seen before, under whatever file.
    pub fn find_content(&self, hash: &Hash, id: &FileId) -> Option<Entry> {
        let entry = self.open(&self.path_of(hash))?;
        self.remember(hash, id);
        Some(entry)
    }

    /// Keeps an extracted kernel and makes room for it. `image` describes `bytes`.
    pub fn store(
        &self,
        hash: &Hash,
        id: &FileId,
        header: &Header,
        image: &Image,
        bytes: &[u8],
    ) -> Result<Entry, Error> {
        let too_large = || Error::TooLarge(bytes.len() as u64);
        let plan = entry::Plan::new(header, image, bytes).ok_or_else(too_large)?;
        if plan.size() > self.max_bytes {
            return Err(Error::TooLarge(plan.size()));
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.index)
            .map_err(Error::io("create the directory", &self.index))?;
        let path = self.path_of(hash);
        let temporary = self.write(hash, &plan).inspect_err(|_| self.sweep(&path))?;
        let renamed = fs::rename(&temporary, &path).map_err(Error::io("create", &path));
        if renamed.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        renamed?;
        self.remember(hash, id);
        self.sweep(&path);
        // Opened anew, because a guest's VMM must not hold a file through which it could change
        // what other guests boot.
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        Ok(Entry { file, header: *header, image: plan.image, path })
    }

    fn write(&self, hash: &Hash, plan: &entry::Plan<'_>) -> Result<PathBuf, Error> {
        // Process ids are no use: processes in several containers may share the directory.
        let unique = crate::random::<8>().map(u64::from_ne_bytes);
        let unique = unique.map_err(Error::io("choose a name in", &self.entries))?;
        let path = self.entries.join(format!("{}.{unique:016x}.{TEMPORARY}", hash.0));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io("create", &path))?;
        let written = plan.write(&file).and_then(|()| file.sync_all());
        written.map_err(|source| {
            let _ = fs::remove_file(&path);
            Error::Io { action: "write", path: path.clone(), source }
        })?;
        Ok(path)
    }

    fn open(&self, path: &Path) -> Option<Entry> {
        let file = OpenOptions::new().read(true).custom_flags(NO_FOLLOW).open(path).ok()?;
        let metadata = file.metadata().ok()?;
        // Someone else's file could hold any kernel.
        let ours = metadata.uid() == rustix::process::geteuid().as_raw();
        if !ours || !metadata.is_file() || metadata.mode() & 0o022 != 0 {
            return None;
        }
        match entry::read(&file, metadata.len()) {
            Some((header, image)) => {
                // Eviction goes by this time. A failure only makes it less apt.
                let _ = file.set_modified(SystemTime::now());
                Some(Entry { file, header, image, path: path.to_owned() })
            }
            None => {
                tracing::debug!(path = %path.display(), "removing a damaged cache entry");
                let _ = fs::remove_file(path);
                None
            }
        }
    }

    fn path_of(&self, hash: &Hash) -> PathBuf {
        self.entries.join(format!("{}.{ENTRY}", hash.0))
    }

    /// Adds a file to the index. A failure costs the next start the time to hash it.
    fn remember(&self, hash: &Hash, id: &FileId) {
        if id.is_settled(self.settled) {
            let link = self.index.join(&id.name);
            // A link in the way leads to an entry that is gone or damaged.
            let _ = fs::remove_file(&link);
            let _ = symlink(format!("../{}.{ENTRY}", hash.0), link);
            prune(newest_first(&self.index), self.index.as_path(), |_, rank, _| rank >= MAX_LINKS);
        }
    }

    /// Removes the entries used longest ago until the bounds hold, but not `keep`; and what
    /// processes that died have left.
    fn sweep(&self, keep: &Path) {
        let mut bytes = 0;
        let mut entries = 0;
        prune(newest_first(&self.entries), &self.entries, |path, _, metadata| {
            let extension = path.extension().and_then(|extension| extension.to_str());
            if extension == Some(TEMPORARY) {
                let age = metadata.modified().ok().and_then(|time| time.elapsed().ok());
                return age.is_some_and(|age| age > ABANDONED);
            }
            if extension != Some(ENTRY) {
                return false;
            }
            bytes += metadata.len();
            entries += 1;
            path != keep && (bytes > self.max_bytes || entries > self.max_entries)
        });
    }
}

/// O_NOFOLLOW.
const NO_FOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();

/// The files in a directory, most recently modified first.
fn newest_first(directory: &Path) -> Vec<(PathBuf, Metadata)> {
    let Ok(files) = fs::read_dir(directory) else { return Vec::new() };
    let mut files: Vec<_> = files
        .flatten()
        .filter_map(|file| Some((file.path(), file.metadata().ok()?)))
        .filter(|(_, metadata)| !metadata.is_dir())
        .collect();
    files.sort_by_key(|(_, metadata)| std::cmp::Reverse(metadata.modified().ok()));
    files
}

fn prune(
    files: Vec<(PathBuf, Metadata)>,
    directory: &Path,
    mut victim: impl FnMut(&Path, usize, &Metadata) -> bool,
) {
    for (rank, (path, metadata)) in files.into_iter().enumerate() {
        if victim(&path, rank, &metadata) {
            tracing::debug!(file = %path.display(), directory = %directory.display(), "evicting");
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
#[path = "cache_test.rs"]
mod cache_test;
