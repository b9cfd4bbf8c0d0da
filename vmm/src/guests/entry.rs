//! [`Entry`]: one guest and its files; and what can be wrong with files of guests.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use resources::config::Name;

use super::files::{self, Lock};
use super::folders::NoFolder;
use super::guest::{Guest, Wanted};
use super::id::Id;
use super::live;
use super::record::Record;
use super::status::Status;

/// What the files of guests say cannot be had or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no place for them.
    #[error(transparent)]
    Folder(#[from] NoFolder),
    /// A file or folder.
    #[error("cannot {what} {}: {source}", .path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On which.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The file of a guest is not to be understood.
    #[error("{} is not what Carve wrote ({problem}); remove its folder to forget the guest", .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The name is taken.
    #[error(
        "the name {name} is taken by the guest {id}; choose another, or remove that one (carve rm {name})"
    )]
    NameTaken {
        /// The name.
        name: Name,
        /// Who has it.
        id: Id,
    },
    /// The host file has it.
    #[error("{0} is the name of a VM of the host file; choose another")]
    InFile(Name),
    /// The host file names it.
    #[error("{0} is a VM of the host file; rename it there, and apply the file (carve apply)")]
    OfFile(Name),
    /// Nobody is called so.
    #[error("there is no guest {0}; `carve ps -a` lists them")]
    NotFound(String),
    /// Several ids begin so.
    #[error("{text} is the beginning of {count} ids; write more of it")]
    Ambiguous {
        /// What was written.
        text: String,
        /// How many.
        count: usize,
    },
}

pub(super) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { what, path, source }
}

/// One guest, and where its files are.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it is, as of when it was read.
    pub guest: Guest,
    pub(super) state: PathBuf,
    pub(super) runtime: PathBuf,
}

impl Entry {
    /// Where its lasting files are.
    pub fn state_folder(&self) -> &Path {
        &self.state
    }

    /// Its control interface while it runs.
    pub fn socket_path(&self) -> PathBuf {
        self.runtime.join("api.sock")
    }

    /// What its console said, by the log's writer and readers.
    pub fn log_path(&self) -> PathBuf {
        self.state.join("console.log")
    }

    /// Carve's own messages about it.
    pub fn messages_path(&self) -> PathBuf {
        self.state.join("messages.log")
    }

    /// The sign of life of its VMM.
    pub fn vmm_path(&self) -> PathBuf {
        self.runtime.join("vmm")
    }

    /// The sign of life of its monitor.
    pub fn monitor_path(&self) -> PathBuf {
        self.runtime.join("monitor")
    }

    /// Makes the folder for sockets and locks, which the host's reboot removes.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub fn make_runtime(&self) -> Result<(), Error> {
        make(&self.runtime)
    }

    /// Waits until no other command changes the guest.
    ///
    /// # Errors
    ///
    /// The lock cannot be had, also because the guest is gone.
    pub fn lock(&self) -> Result<Lock, Error> {
        let path = self.state.join("lock");
        match Lock::wait(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Error::NotFound(self.guest.name.to_string()))
            }
            other => other.map_err(failed("lock", &path)),
        }
    }

    /// The lock of [`Entry::lock`] if it is free.
    pub fn attempt_lock(&self) -> Option<Lock> {
        Lock::attempt(&self.state.join("lock")).ok().flatten()
    }

    /// Reads again what may have changed since.
    ///
    /// # Errors
    ///
    /// The guest is gone, or its file damaged.
    pub fn reload(&mut self) -> Result<(), Error> {
        let path = self.state.join("guest.json");
        let guest = files::read(&path).map_err(|error| damaged(&path, error))?;
        self.guest = guest.ok_or_else(|| Error::NotFound(self.guest.name.to_string()))?;
        Ok(())
    }

    /// Writes what the guest is.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn save(&self) -> Result<(), Error> {
        let path = self.state.join("guest.json");
        files::write_with_spare(&path, &self.guest, self.guest.detached)
            .map_err(failed("write", &path))
    }

    /// Notes what the user wants of the guest. Call it with the guest's lock held.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn want(&mut self, wanted: Wanted) -> Result<(), Error> {
        self.reload()?;
        if self.guest.wanted == wanted {
            return Ok(());
        }
        self.guest.wanted = wanted;
        self.save()
    }

    /// Its last run, if it was ever started.
    ///
    /// # Errors
    ///
    /// The file is damaged.
    pub fn record(&self) -> Result<Option<Record>, Error> {
        let path = self.state.join("record.json");
        files::read_if_any(&path).map_err(|error| damaged(&path, error))
    }

    /// Writes the record of a run that begins: on the disk afterwards for a guest that is to outlive the command that
    /// starts it, so that it is known to have run should the host go down.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn begin_record(&self, record: &Record) -> Result<(), Error> {
        self.put_record(record, self.guest.detached)
    }

    /// Writes the record of its last run.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write_record(&self, record: &Record) -> Result<(), Error> {
        self.put_record(record, false)
    }

    fn put_record(&self, record: &Record, durable: bool) -> Result<(), Error> {
        let path = self.state.join("record.json");
        files::write_with_spare(&path, record, durable).map_err(failed("write", &path))
    }

    /// What it does now. Not for processes that are the guest's VMM or monitor themselves.
    ///
    /// # Errors
    ///
    /// A file cannot be read.
    pub fn status(&self) -> Result<Status, Error> {
        let look = |path: PathBuf| live::look(&path).map_err(failed("read", &path));
        let (vmm, monitor) = (look(self.vmm_path())?, look(self.monitor_path())?);
        // Read last: who was seen to be gone has written it.
        Ok(Status::of(vmm, monitor, self.record()?))
    }
}

pub(super) fn make(path: &Path) -> Result<(), Error> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(failed("make", path))
}

pub(super) fn damaged(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::Other => {
            Error::Damaged { path: path.to_owned(), problem: error.to_string() }
        }
        _ => failed("read", path)(error),
    }
}
