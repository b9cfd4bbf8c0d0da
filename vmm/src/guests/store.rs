//! [`Store`]: the guests of a user, found, created, renamed and removed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use resources::config::{Name, VmConfig};

use super::Restart;
pub use super::entry::{Entry, Error};
use super::entry::{damaged, failed, make};
use super::files::{self, Lock};
use super::folders::Folders;
use super::guest::{Guest, VERSION, Wanted};
use super::id::{Id, random_name};
use super::journal::Journal;
use super::record::{Ended, Record};
use super::shortage::Shortage;
use crate::clock::now;
use crate::jail::Settings;
use crate::ledger;

/// What a new guest is made from.
#[derive(Clone, Debug)]
pub struct New {
    /// Its name; drawn if there is none.
    pub name: Option<Name>,
    /// The folder that relative paths start from.
    pub folder: PathBuf,
    /// The KVM device.
    pub kvm_device: PathBuf,
    /// What the user noted.
    pub labels: BTreeMap<String, String>,
    /// When it is started again.
    pub restart: Restart,
    /// Whether it is removed when it has ended.
    pub remove: bool,
    /// Whether it runs without a terminal.
    pub detached: bool,
    /// How its VMM is confined.
    pub confinement: Settings,
    /// Whether the host file made it.
    pub of_file: bool,
    /// The machine.
    pub config: VmConfig,
}

/// The guests of a user.
#[derive(Clone, Debug)]
pub struct Store {
    folders: Folders,
    journal: Journal,
}

impl Store {
    /// The store of the user who runs this process.
    ///
    /// # Errors
    ///
    /// There is no place for one.
    pub fn of_user() -> Result<Self, Error> {
        Ok(Self::new(Folders::of_user()?))
    }

    /// The store in `folders`. Nothing is made before the first guest.
    pub fn new(folders: Folders) -> Self {
        let journal = Journal::new(&folders.state);
        Self { folders, journal }
    }

    /// Where it is.
    pub fn folders(&self) -> &Folders {
        &self.folders
    }

    /// What happened to its guests.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Adds a guest.
    ///
    /// # Errors
    ///
    /// The name is taken, also by a VM of the host file, or a file cannot be written.
    pub fn create(&self, new: New) -> Result<Entry, Error> {
        self.folders.make()?;
        let _names = self.lock_names()?;
        let name = match new.name {
            Some(name) => name,
            None => self.draw_name()?,
        };
        if let Some(id) = self.holder(&name) {
            return Err(Error::NameTaken { name, id });
        }
        if !new.of_file && ledger::has_name(self, &name) {
            return Err(Error::InFile(name));
        }
        let id = Id::random().map_err(failed("draw an id for a guest in", &self.folders.state))?;
        let guest = Guest {
            version: VERSION,
            id,
            name,
            created_at: now(),
            folder: new.folder,
            kvm_device: new.kvm_device,
            labels: new.labels,
            restart: new.restart,
            remove: new.remove,
            detached: new.detached,
            of_file: new.of_file,
            wanted: Wanted::Stopped,
            confinement: new.confinement,
            config: new.config,
        };
        let entry = self.entry(guest);
        let runtime = &entry.runtime;
        make(&entry.state)?;
        make(runtime)?;
        // The name first: without its guest it counts for nothing.
        let made = self.name(&entry.guest).and_then(|()| entry.save());
        if made.is_err() {
            let _ = fs::remove_file(self.name_path(&entry.guest.name));
            let _ = fs::remove_dir_all(&entry.state);
            let _ = fs::remove_dir_all(&entry.runtime);
        }
        made?;
        self.journal.note(&entry.guest, "created", &[]);
        Ok(entry)
    }

    /// All guests, in the order they were created in. One whose file cannot be read is an error of its
    /// own beside the others.
    ///
    /// # Errors
    ///
    /// The folder cannot be read.
    pub fn entries(&self) -> Result<Vec<Result<Entry, Error>>, Error> {
        let folder = self.folders.state.join("guests");
        let listed = match fs::read_dir(&folder) {
            Ok(listed) => listed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("read", &folder)(error)),
        };
        let ids = listed.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut entries: Vec<_> = ids.filter_map(|id: Id| self.load(&id).transpose()).collect();
        entries.sort_by_cached_key(|entry| {
            entry.as_ref().ok().map(|entry| (entry.guest.created_at, entry.guest.id.clone()))
        });
        Ok(entries)
    }

    /// The guest whose id or name `text` is, or the only one whose id or name begins so.
    ///
    /// # Errors
    ///
    /// There is none, or there are several.
    pub fn find(&self, text: &str) -> Result<Entry, Error> {
        let not_found = || Error::NotFound(text.to_owned());
        if let Ok(name) = text.parse()
            && let Some(id) = self.holder(&name)
            && let Some(entry) = self.load(&id)?
        {
            return Ok(entry);
        }
        if let Ok(id) = text.parse() {
            return self.load(&id)?.ok_or_else(not_found);
        }
        let begins = |entry: &Entry| {
            entry.guest.id.as_str().starts_with(text) || entry.guest.name.starts_with(text)
        };
        let found = self.entries()?.into_iter().flatten();
        let mut found: Vec<_> = found.filter(|entry| !text.is_empty() && begins(entry)).collect();
        match found.len() {
            0 => Err(not_found()),
            1 => Ok(found.remove(0)),
            count => Err(Error::Ambiguous { text: text.to_owned(), count }),
        }
    }

    /// The guest that is called `name`, if there is one.
    ///
    /// # Errors
    ///
    /// Its file cannot be read.
    pub fn named(&self, name: &Name) -> Result<Option<Entry>, Error> {
        self.holder(name).map_or(Ok(None), |id| self.load(&id))
    }

    /// The guest with this id, if there is one.
    ///
    /// # Errors
    ///
    /// Its file cannot be read.
    pub fn load(&self, id: &Id) -> Result<Option<Entry>, Error> {
        let path = self.state_of(id).join("guest.json");
        let guest: Option<Guest> = files::read(&path).map_err(|error| damaged(&path, error))?;
        let Some(guest) = guest else { return Ok(None) };
        if guest.version > VERSION {
            let problem = format!("version {}, which needs a newer Carve", guest.version);
            return Err(Error::Damaged { path, problem });
        }
        if guest.id != *id {
            let problem = format!("it is that of the guest {}, whose folder is another", guest.id);
            return Err(Error::Damaged { path, problem });
        }
        Ok(Some(self.entry(guest)))
    }

    /// The guest whose id `text` is.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn with_id(&self, text: &str) -> Result<Entry, Error> {
        let entry = text.parse().ok().and_then(|id| self.load(&id).transpose());
        entry.unwrap_or_else(|| Err(Error::NotFound(text.to_owned())))
    }

    /// Notes what happens to a guest that runs, for those who listen; and in the record of its run, what may explain
    /// its end.
    pub(super) fn note(&self, entry: &Entry, event: &str, details: &[(&str, String)]) {
        self.journal.note(&entry.guest, event, details);
        let Some(shortage) = Shortage::of(event, details) else { return };
        let Ok(Some(mut record)) = entry.record() else { return };
        shortage.add_to(&mut record.no_room);
        if let Err(error) = entry.write_record(&record) {
            tracing::warn!("{}", crate::explain(&error));
        }
    }

    /// Writes down that the run of `record` has `ended`, for those who look and those who listen.
    pub(super) fn end_run(
        &self,
        entry: &Entry,
        record: &mut Record,
        mut ended: Ended,
    ) -> Result<(), Error> {
        for shortage in &record.no_room {
            ended.message += &format!("; {shortage}");
        }
        let details = [
            ("kind", ended.kind.clone()),
            ("exit_code", ended.exit_code.to_string()),
            ("message", ended.message.clone()),
        ];
        let _ = fs::remove_file(entry.socket_path());
        record.ended = Some(ended);
        entry.write_record(record)?;
        self.journal.note(&entry.guest, "exited", &details);
        Ok(())
    }

    /// Gives a guest another name.
    ///
    /// # Errors
    ///
    /// The name is taken, or a file cannot be written.
    pub fn rename(&self, entry: &mut Entry, name: Name) -> Result<(), Error> {
        // What others change about the guest meanwhile is not to be lost.
        let _lock = entry.lock()?;
        entry.reload()?;
        if entry.guest.of_file {
            return Err(Error::OfFile(entry.guest.name.clone()));
        }
        let _names = self.lock_names()?;
        if let Some(id) = self.holder(&name)
            && id != entry.guest.id
        {
            return Err(Error::NameTaken { name, id });
        }
        let old = std::mem::replace(&mut entry.guest.name, name);
        self.name(&entry.guest)?;
        entry.save()?;
        if old != entry.guest.name {
            let _ = fs::remove_file(self.name_path(&old));
        }
        self.journal.note(&entry.guest, "renamed", &[("from", old.to_string())]);
        Ok(())
    }

    /// Forgets a guest that does not run, with everything Carve keeps about it. Call it with the guest's
    /// lock held.
    ///
    /// # Errors
    ///
    /// A file cannot be removed.
    pub fn remove(&self, entry: &Entry) -> Result<(), Error> {
        let names = self.lock_names()?;
        if self.holder(&entry.guest.name).is_some_and(|id| id == entry.guest.id) {
            let _ = fs::remove_file(self.name_path(&entry.guest.name));
        }
        // In one step: nobody ever sees half a guest.
        let aside = entry.state.with_extension("removed");
        match fs::rename(&entry.state, &aside) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed("remove", &entry.state)(error)),
        }
        drop(names);
        for folder in [&aside, &entry.runtime] {
            match fs::remove_dir_all(folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove", folder)(error));
                }
                _ => {}
            }
        }
        self.journal.note(&entry.guest, "removed", &[]);
        Ok(())
    }

    /// Removes what killed commands left: folders of guests that were being removed or never came to
    /// be, and runtime folders of guests that are gone.
    pub fn sweep(&self) {
        let Ok(_names) = self.lock_names() else { return };
        let guests = self.folders.state.join("guests");
        for found in fs::read_dir(&guests).into_iter().flatten().flatten() {
            let path = found.path();
            let id = found.file_name().to_str().and_then(|name| name.parse::<Id>().ok());
            let abandoned = id.is_none() || !path.join("guest.json").exists();
            if abandoned {
                let _ = fs::remove_dir_all(&path);
            }
        }
        for found in fs::read_dir(&self.folders.runtime).into_iter().flatten().flatten() {
            let id = found.file_name().to_str().and_then(|name| name.parse::<Id>().ok());
            if id.is_some_and(|id| !self.state_of(&id).exists()) {
                let _ = fs::remove_dir_all(found.path());
            }
        }
    }

    fn lock_names(&self) -> Result<Lock, Error> {
        let path = self.folders.state.join("guests.lock");
        Lock::wait(&path).map_err(failed("lock", &path))
    }

    fn state_of(&self, id: &Id) -> PathBuf {
        self.folders.state.join("guests").join(id.as_str())
    }

    fn name_path(&self, name: &Name) -> PathBuf {
        self.folders.state.join("names").join(name.as_str())
    }

    /// Who is called `name`. A name whose guest is gone, or called otherwise, is free.
    fn holder(&self, name: &Name) -> Option<Id> {
        let target = fs::read_link(self.name_path(name)).ok()?;
        let id: Id = target.to_str()?.parse().ok()?;
        let guest = self.load(&id).ok()??.guest;
        (guest.name == *name).then_some(id)
    }

    /// Makes `names/NAME` lead to the guest.
    fn name(&self, guest: &Guest) -> Result<(), Error> {
        let path = self.name_path(&guest.name);
        make(&self.folders.state.join("names"))?;
        let _ = fs::remove_file(&path);
        std::os::unix::fs::symlink(guest.id.as_str(), &path).map_err(failed("make", &path))
    }

    fn draw_name(&self) -> Result<Name, Error> {
        for suffix in 0.. {
            // The thousand names suffice for the first few.
            let suffix = (suffix > 8).then_some(suffix);
            let name =
                random_name(suffix).map_err(failed("draw a name in", &self.folders.state))?;
            if let Ok(name) = name.parse()
                && self.holder(&name).is_none()
            {
                return Ok(name);
            }
        }
        Err(Error::NotFound("a free name".to_owned()))
    }

    fn entry(&self, guest: Guest) -> Entry {
        let state = self.state_of(&guest.id);
        let runtime = self.folders.runtime.join(guest.id.as_str());
        Entry { guest, state, runtime }
    }
}

#[cfg(test)]
#[path = "store_test.rs"]
pub(super) mod store_test;
