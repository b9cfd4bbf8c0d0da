//! [`Ledger`]: what is promised, as a file under a lock.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use resources::config::Name;
use resources::config::host::HostConfig;
use resources::enforce::{Hierarchy, HierarchyError};
use resources::inventory::{Host, HostError};
use resources::plan::{Cgroup, Options, Origin, Owner, Present, plan};
use serde::{Deserialize, Serialize};

use super::tenant::Tenancy;
use crate::guests::files::{self, Lock};
use crate::guests::{Entry, Id, Store};

/// The version of the file. A newer Carve reads those of older ones.
const VERSION: u32 = 1;

/// What the file holds. Fields are only ever added within a version.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Books {
    version: u32,
    /// The host file as it was applied last.
    config: HostConfig,
    /// What is booked. Whether somebody runs is looked up.
    present: Present,
    /// The guests that bookings are for, where there are any yet.
    #[serde(default)]
    guests: BTreeMap<Name, Id>,
}

/// Why there is no ledger.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its file or lock.
    #[error("cannot {what} {}: {source}", .path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On which.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It is not to be understood.
    #[error(
        "the ledger {} is not what Carve wrote ({problem}); stop the VMs, remove it, and apply the host file again",
        .path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Guests cannot be looked up.
    #[error(transparent)]
    Store(#[from] crate::guests::Error),
    /// A disk cannot be removed.
    #[error(transparent)]
    Volume(#[from] Box<super::volume::Error>),
    /// A tenant cannot be given to its user.
    #[error(transparent)]
    Cgroup(#[from] HierarchyError),
    /// What the host has cannot be told.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// The ledger, opened: nobody else changes it until it is dropped.
#[derive(Debug)]
pub struct Ledger<'s> {
    store: &'s Store,
    path: PathBuf,
    books: Books,
    /// Whether bookings were void when it was opened.
    settled: bool,
    /// The tenant whose books these are; the host's if none.
    tenancy: Option<Tenancy>,
    _lock: Lock,
}

fn path_in(store: &Store) -> PathBuf {
    store.folders().state.join("ledger.json")
}

fn lock(path: &Path) -> Result<Lock, Error> {
    let path = path.with_extension("lock");
    Lock::wait(&path).map_err(|source| Error::File { what: "lock", path, source })
}

fn read(path: &Path) -> Result<Option<Books>, Error> {
    let damaged = |problem: String| Error::Damaged { path: path.to_owned(), problem };
    let books: Option<Books> = files::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => {
            Error::File { what: "read", path: path.to_owned(), source: error }
        }
        _ => damaged(error.to_string()),
    })?;
    match books {
        Some(books) if books.version > VERSION => {
            Err(damaged(format!("version {}, which needs a newer Carve", books.version)))
        }
        books => Ok(books),
    }
}

/// Whether a process of a guest that has ended is not quite gone, and what it had with it. Else its group is no more.
fn is_in_use(group: &Cgroup) -> bool {
    let removed = Hierarchy::new().remove(&group.path);
    removed.is_err_and(|error| error.source.kind() == io::ErrorKind::ResourceBusy)
}

impl<'s> Ledger<'s> {
    /// The ledger of the host, up to date; nothing where no host file was applied.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn open(store: &'s Store) -> Result<Option<Self>, Error> {
        let mut opened = Self::open_as_is(store)?;
        if let Some(ledger) = &mut opened {
            ledger.settle();
        }
        Ok(opened)
    }

    /// The same without a look at who lives, which takes a look at each: for a VM of the host file, whose
    /// booking holds whether anybody lives or not. So to start all of N VMs takes no N² looks.
    pub(super) fn open_as_is(store: &'s Store) -> Result<Option<Self>, Error> {
        if let Some(tenancy) = Tenancy::own(store.folders())? {
            return Self::open_tenant(store, tenancy).map(Some);
        }
        let path = path_in(store);
        // Most users have none, and no folder to lock it in.
        if !path.exists() {
            return Ok(None);
        }
        let lock = lock(&path)?;
        let Some(books) = read(&path)? else { return Ok(None) };
        Ok(Some(Self { store, path, books, settled: false, tenancy: None, _lock: lock }))
    }

    /// The books of a tenant: what the host file gives its VMs is root's word, the rest its user's.
    fn open_tenant(store: &'s Store, tenancy: Tenancy) -> Result<Self, Error> {
        let path = tenancy.books.join("ledger.json");
        let lock = lock(&path)?;
        let (mut present, mut guests) = match read(&path)? {
            Some(books) => (books.present, books.guests),
            None => Default::default(),
        };
        let reservation = &tenancy.reservation;
        present.bookings.retain(|_, booking| booking.origin == Origin::Command);
        present.volumes.clear();
        for (name, booking) in &reservation.present.bookings {
            guests.remove(name);
            present.bookings.insert(name.clone(), booking.clone());
        }
        let config = reservation.config.clone();
        let books = Books { version: VERSION, config, present, guests };
        let tenancy = Some(tenancy);
        Ok(Self { store, path, books, settled: false, tenancy, _lock: lock })
    }

    /// The same, begun if there is none yet, for `config`.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn begin(store: &'s Store, config: &HostConfig) -> Result<Self, Error> {
        store.folders().make().map_err(crate::guests::Error::from)?;
        let path = path_in(store);
        let lock = lock(&path)?;
        let books = read(&path)?.unwrap_or_else(|| Books {
            version: VERSION,
            config: config.clone(),
            present: Present::default(),
            guests: BTreeMap::new(),
        });
        let mut ledger = Self { store, path, books, settled: false, tenancy: None, _lock: lock };
        ledger.settle();
        Ok(ledger)
    }

    /// What is booked on the host of `store`; nothing without a ledger.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn present(store: &'s Store) -> Result<Present, Error> {
        Ok(Self::open(store)?.map(|ledger| ledger.books.present).unwrap_or_default())
    }

    /// Gives back what the guest of `entry` had, which has ended, and what others have left. What nobody
    /// gives back, the next one does that opens the ledger. A VM of the host file has nothing to give back.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn release(store: &'s Store, entry: &Entry) -> Result<(), Error> {
        if entry.guest.of_file {
            return Ok(());
        }
        match Self::open(store)? {
            Some(ledger) => ledger.lower(),
            None => Ok(()),
        }
    }

    /// Makes lasting that shares were given back, where any were, and lowers what all together are held to and
    /// promised.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub(super) fn lower(&self) -> Result<(), Error> {
        if !self.settled {
            return Ok(());
        }
        let hierarchy = Hierarchy::new();
        // A tenant's own is root's to write.
        if self.tenancy.is_none() && hierarchy.is_usable() {
            let host = Self::host(self.config())?;
            let plan = plan(self.config(), &host, self.booked(), Options::default());
            let above = plan.cgroups.iter().filter(|group| !matches!(group.owner, Owner::Vm(_)));
            if let Err(error) = hierarchy.apply(above) {
                tracing::warn!("{}", crate::explain(&error));
            }
        }
        self.save()
    }

    /// Looks who lives: bookings of commands whose guests have ended are void, whoever ended them.
    pub(super) fn settle(&mut self) {
        let before = self.books.present.bookings.len();
        self.look();
        self.settled = self.books.present.bookings.len() != before;
    }

    fn look(&mut self) {
        let Books { present, guests, .. } = &mut self.books;
        let store = self.store;
        let mut names: BTreeMap<Name, Name> = BTreeMap::new();
        present.bookings.retain(|name, booking| {
            let entry = guests.get(name).and_then(|id| store.load(id).ok().flatten());
            let status = entry.as_ref().and_then(|entry| entry.status().ok());
            booking.running = status.as_ref().is_some_and(|status| status.vmm.is_some());
            // Between two runs its monitor lives, and holds the share.
            let held = booking.running || status.is_some_and(|status| status.monitor.is_some());
            if let Some(entry) = entry.filter(|entry| entry.guest.name != *name) {
                names.insert(name.clone(), entry.guest.name);
            }
            booking.origin == Origin::File || held || booking.cgroup.as_ref().is_some_and(is_in_use)
        });
        for (old, new) in names {
            // Renamed by a command. A VM of the file keeps the file's name here.
            let moves = present.bookings.get(&old).is_some_and(|b| b.origin == Origin::Command)
                && !present.bookings.contains_key(&new);
            if moves && let Some(mut booking) = present.bookings.remove(&old) {
                booking.guest.name = new.clone();
                if let Some(id) = guests.remove(&old) {
                    guests.insert(new.clone(), id);
                }
                present.bookings.insert(new, booking);
            }
        }
        guests.retain(|name, _| present.bookings.contains_key(name));
    }

    /// The tenant whose books these are; the host's if none.
    pub fn tenancy(&self) -> Option<&Tenancy> {
        self.tenancy.as_ref()
    }

    /// The host file as it was applied last.
    pub fn config(&self) -> &HostConfig {
        &self.books.config
    }

    /// What is booked.
    pub fn booked(&self) -> &Present {
        &self.books.present
    }

    /// The same, to be changed. Nothing is lasting before [`Self::save`].
    pub(super) fn booked_mut(&mut self) -> &mut Present {
        &mut self.books.present
    }

    /// Replaces everything: what holds from now on, and what is booked by it.
    pub(super) fn replace(&mut self, config: HostConfig, present: Present) {
        let Books { guests, .. } = &mut self.books;
        guests.retain(|name, _| present.bookings.contains_key(name));
        (self.books.config, self.books.present) = (config, present);
    }

    /// The guest that a booking is for.
    ///
    /// # Errors
    ///
    /// Its file cannot be read.
    pub fn guest(&self, name: &Name) -> Result<Option<Entry>, Error> {
        let Some(id) = self.books.guests.get(name) else { return Ok(None) };
        Ok(self.store.load(id)?)
    }

    /// The name that the guest `id` has a booking by.
    pub(super) fn name_of(&self, id: &Id) -> Option<&Name> {
        self.books.guests.iter().find(|(_, other)| *other == id).map(|(name, _)| name)
    }

    /// Says which guest a booking is for.
    pub(super) fn set_guest(&mut self, name: &Name, id: &Id) {
        self.books.guests.insert(name.clone(), id.clone());
    }

    /// What this host has, pools included.
    pub(super) fn host(config: &HostConfig) -> Result<Host, Error> {
        let folders: Vec<PathBuf> = config.pools.values().map(|pool| pool.path.clone()).collect();
        Ok(Host::read(Path::new("/"), &folders)?)
    }

    /// Makes it lasting.
    ///
    /// # Errors
    ///
    /// The file cannot be written; what was in it before is then.
    pub fn save(&self) -> Result<(), Error> {
        files::write(&self.path, &self.books, true).map_err(|source| Error::File {
            what: "write",
            path: self.path.clone(),
            source,
        })
    }
}
