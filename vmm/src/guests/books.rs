//! [`Books`]: what is written down about a run of a guest, and put away after it; by this process itself, or by
//! its [`Clerk`] where it cannot do that from within its jail.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};

use resources::config::{Connection, ConsoleTarget, Forward};
use rustix::process::getppid;

use super::clerk::{Clerk, Errand};
use super::record::Ended;
use super::store::{Entry, Store};
use crate::jail::Switch;
use crate::jail::seccomp::Process;
use crate::ledger::{Companion, Ledger};
use crate::machine::passt::{self, Outside};
use crate::machine::unix_socket;

/// Writes the exit record that the user of a foreground run wants.
pub type WriteExitRecord = Box<dyn Fn(&[u8]) -> Result<(), String>>;

/// Something could not be written down.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// The books of one run.
pub struct Books {
    desk: Desk,
    clerk: Option<Clerk>,
}

/// What is needed to do an errand.
struct Desk {
    store: Store,
    entry: Entry,
    exit_record: Option<WriteExitRecord>,
    /// Whether what is asked for may be the guest's wish.
    closed: Cell<bool>,
    companion: RefCell<Option<Companion>>,
}

impl fmt::Debug for Books {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Books").field("clerk", &self.clerk).finish_non_exhaustive()
    }
}

impl Books {
    /// Opens the books of a run of the guest. This process must have no other thread yet.
    ///
    /// # Errors
    ///
    /// The clerk cannot be started.
    pub fn open(
        store: &Store,
        entry: &Entry,
        exit_record: Option<WriteExitRecord>,
    ) -> Result<Self, Error> {
        let (store, entry) = (store.clone(), entry.clone());
        let desk = Desk::new(store, entry, exit_record);
        if desk.entry.guest.confinement.jail == Switch::Off {
            return Ok(Self { desk, clerk: None });
        }
        let serve = |errand, fd| desk.serve(errand, fd);
        // passt is for the host's network.
        let mut networks = desk.entry.guest.config.net.values();
        let apart = !networks.any(|net| matches!(net.connection, Connection::User { .. }));
        let clerk = Clerk::start(serve, || desk.finish(), apart).map_err(|error| {
            Error(format!("the process carve-clerk cannot be started: {error}"))
        })?;
        Ok(Self { clerk: Some(clerk), desk })
    }

    fn entrust(&self, errand: Errand) -> Result<(), Error> {
        let done = match &self.clerk {
            Some(clerk) => clerk.ask(&errand, None),
            None => self.desk.serve(errand, None),
        };
        done.map_err(Error)
    }

    /// Has the clerk, where there is one, share what this process has taken of the host.
    ///
    /// # Errors
    ///
    /// The kernel does not let it.
    pub fn share(&self) -> Result<(), Error> {
        let Some(clerk) = &self.clerk else { return Ok(()) };
        clerk.stays();
        self.entrust(Errand::Share)
    }

    /// The process (a pidfd) that has made namespaces for the jail, if there is one.
    pub fn lender(&self) -> Option<OwnedFd> {
        self.clerk.as_ref()?.lender()
    }

    /// Notes an event in the journal.
    pub fn note(&self, event: &str, details: &[(&str, String)]) {
        let details = details.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
        if let Err(error) = self.entrust(Errand::Note(event.to_owned(), details.collect())) {
            tracing::warn!("the journal cannot be written to: {error}");
        }
    }

    /// Writes down how the run ended.
    ///
    /// # Errors
    ///
    /// The record cannot be written.
    pub fn end(&self, ended: Ended) -> Result<(), Error> {
        self.entrust(Errand::Ended(Box::new(ended)))
    }

    /// Gives back the guest's share of the host, once it has ended.
    ///
    /// # Errors
    ///
    /// The ledger cannot be written.
    pub fn release(&self) -> Result<(), Error> {
        self.entrust(Errand::Release)
    }

    /// Writes the exit record that was asked for.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn write_exit_record(&self, text: Vec<u8>) -> Result<(), Error> {
        self.entrust(Errand::ExitRecord(text))
    }

    /// Removes the guest.
    ///
    /// # Errors
    ///
    /// A file cannot be removed.
    pub fn remove(&self) -> Result<(), Error> {
        self.entrust(Errand::Remove)
    }

    /// The store it is in.
    pub fn store(&self) -> &Store {
        &self.desk.store
    }

    /// The guest.
    pub fn entry(&self) -> &Entry {
        &self.desk.entry
    }
}

impl Outside for Books {
    fn is_needed(&self) -> bool {
        self.clerk.is_some()
    }

    fn start_passt(
        &self,
        options: &passt::Options,
        forwards: &[Forward],
        news: OwnedFd,
    ) -> Result<(), String> {
        let errand = Errand::Passt(options.clone(), forwards.to_vec());
        let clerk = self.clerk.as_ref().ok_or("there is no clerk")?;
        clerk.ask(&errand, Some(news.as_fd()))
    }

    fn close(&self) -> Result<(), String> {
        self.entrust(Errand::Closed).map_err(|Error(why)| why)
    }
}

impl Desk {
    fn new(store: Store, entry: Entry, exit_record: Option<WriteExitRecord>) -> Self {
        let (closed, companion) = (Cell::new(false), RefCell::new(None));
        Self { store, entry, exit_record, closed, companion }
    }

    /// Gives back what the guest had, once its VMM is gone.
    fn finish(&self) {
        let Some(companion) = self.companion.take() else { return };
        companion.part();
        if let Err(error) = Ledger::release(&self.store, &self.entry) {
            tracing::warn!("{}", kept(&error));
        }
    }

    fn serve(&self, errand: Errand, fd: Option<OwnedFd>) -> Result<(), String> {
        let Self { store, entry, exit_record, closed, companion } = self;
        let text = |error: &(dyn std::error::Error + 'static)| crate::explain(error);
        match errand {
            Errand::Note(event, details) => {
                let details: Vec<_> =
                    details.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
                store.note(entry, &event, &details);
                Ok(())
            }
            Errand::Ended(ended) => {
                self.remove_sockets();
                let mut record = match entry.record().map_err(|error| text(&error))? {
                    Some(record) => record,
                    None => return Err("the record of the run is gone".to_owned()),
                };
                store.end_run(entry, &mut record, *ended).map_err(|error| text(&error))
            }
            Errand::ExitRecord(bytes) => match exit_record {
                Some(write) => write(&bytes),
                None => Err("no exit record was asked for".to_owned()),
            },
            Errand::Share if closed.get() => Err("the guest runs already".to_owned()),
            Errand::Share => {
                let vmm = getppid().ok_or("the VMM is gone")?;
                let joined = Companion::join(vmm).map_err(|error| text(&error))?;
                companion.replace(joined);
                Ok(())
            }
            Errand::Release if companion.borrow().is_some() => Ok(()),
            Errand::Release => Ledger::release(store, entry).map_err(|error| kept(&error)),
            Errand::Remove => {
                let _lock = entry.lock().map_err(|error| text(&error))?;
                store.remove(entry).map_err(|error| text(&error))
            }
            Errand::Closed => {
                closed.set(true);
                // Its threads that keep passt processes are there, and start them again.
                let confined = Process::Clerk.confine(entry.guest.confinement.seccomp);
                confined.map_err(|error| format!("the clerk has no filter (seccomp): {error}"))
            }
            Errand::Passt(..) if closed.get() => {
                Err("no more networks can be had once the guest runs".to_owned())
            }
            Errand::Passt(options, forwards) => {
                let news = fd.ok_or("no descriptor came with the errand")?;
                passt::serve(options, &forwards, news).map_err(|error| text(&error))
            }
        }
    }

    /// Removes the sockets of the guest's devices that nobody listens on any more.
    fn remove_sockets(&self) {
        let config = &self.entry.guest.config;
        let consoles = config.console.values().filter_map(|console| match &console.target {
            ConsoleTarget::Socket(path) => Some(path),
            _ => None,
        });
        let vsock = config.vsock.iter().map(|vsock| &vsock.socket);
        for path in consoles.chain(vsock) {
            let path = self.entry.guest.folder.join(path);
            unix_socket::remove_if_stale(&path);
        }
    }
}

fn kept(error: &crate::ledger::Error) -> String {
    format!("the guest's share of the host is not given back yet: {error}")
}

#[cfg(test)]
mod books_test {
    use rustix::fs::{Mode, OFlags};

    use super::*;
    use crate::guests::store::store_test::{new, store};

    fn desk() -> (tempfile::TempDir, Desk) {
        let (folder, store) = store();
        let entry = store.create(new(Some("web"))).unwrap();
        (folder, Desk::new(store, entry, None))
    }

    #[test]
    fn who_may_be_the_guest_gets_no_network() {
        let (_folder, desk) = desk();
        desk.serve(Errand::Closed, None).unwrap();
        let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()).unwrap();
        let mac = [2, 0, 0, 0, 0, 1];
        let options = passt::Options { name: "net.lan".into(), mac, mtu: 1500, host: true };
        let refused = desk.serve(Errand::Passt(options, Vec::new()), Some(null)).unwrap_err();
        assert!(refused.contains("once the guest runs"), "{refused}");
    }

    #[test]
    fn notes_without_end_do_not_make_the_record_grow_without_end() {
        let (_folder, desk) = desk();
        desk.entry.write_record(&crate::guests::record::Record::begin(1, 0)).unwrap();
        for number in 0..500 {
            let details = vec![("path".to_owned(), format!("/disk{number}"))];
            desk.serve(Errand::Note(crate::run::DISK_FULL.to_owned(), details), None).unwrap();
        }
        assert_eq!(desk.entry.record().unwrap().unwrap().no_room.len(), 64);
    }
}
