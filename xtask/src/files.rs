//! File operations whose errors name the operation and the path. Nothing here knows what the files are for.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        doing: &'static str,
        /// The file it was tried on.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file of this cache is not the JSON it should be.
    #[error("{} is damaged: delete it to have it made again", path.display())]
    Json {
        /// The damaged file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// Result of a file operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Turns the error of an I/O operation on `path` into one that says so.
pub fn at<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + use<'a> {
    move |source| Error::Io { doing, path: path.to_owned(), source }
}

/// Reads a whole file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(at("read", path))
}

/// Reads a whole text file.
pub fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(at("read", path))
}

/// Replaces a file in one step: a reader sees the old or the new contents, never a part.
pub fn replace(path: &Path, contents: &[u8]) -> Result<()> {
    let temporary = sibling(path, "new");
    fs::write(&temporary, contents).map_err(at("write", &temporary))?;
    rename(&temporary, path)
}

/// Reads a JSON file; `None` where it does not exist.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at("read", path)(error)),
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|source| Error::Json { path: path.to_owned(), source })
}

/// Replaces a JSON file in one step.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_vec_pretty(value)
        .map_err(|source| Error::Json { path: path.to_owned(), source })?;
    replace(path, &text)
}

/// Makes a directory and its parents.
pub fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(at("create the directory", path))
}

/// Lists a directory in the order of its names.
pub fn list(path: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(path).map_err(at("list", path))?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(at("list", path))?.path());
    }
    paths.sort();
    Ok(paths)
}

/// Renames a file or directory over another.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(at("rename into place", to))
}

/// Deletes a directory tree that may not be there.
pub fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("delete", path)(error)),
        _ => Ok(()),
    }
}

/// A path beside `path`, for a file on its way to becoming it. Different in each process.
pub fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{suffix}-{}", std::process::id()));
    PathBuf::from(name)
}

/// An exclusive lock between processes, held until dropped (or the process ends).
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "held for the flock it owns")] File);

/// Waits for the lock named by a file in an existing directory.
pub fn lock(path: &Path) -> Result<Lock> {
    let file = File::create(path).map_err(at("open the lock file", path))?;
    file.lock().map_err(at("lock", path))?;
    Ok(Lock(file))
}
