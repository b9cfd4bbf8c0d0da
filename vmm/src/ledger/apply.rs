//! [`apply()`]: carries a host file out.
//!
//! In this order, so that nothing is ever given to two: everything is booked; VMs that restart or go
//! are stopped, those that wait for others first; limits are written; VMs are made, changed and
//! started, each after those it comes after. What fails leaves the rest as it is, and the next
//! application goes on from there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use resources::config::Name;
use resources::config::host::{Guest, HostConfig, PowerState};
use resources::enforce::{Hierarchy, HierarchyError};
use resources::plan::{Action, ActionKind, Cgroup, Origin, Owner, Plan, Present};
use serde::Serialize;

use super::books::{self, Ledger};
use super::order::{self, Outcome};
use super::present::{self, replaced};
use super::tenant;
use super::volume;
use crate::explain;
use crate::guests::files::Lock;
use crate::guests::{self, Entry, New, Store, life};

mod live;
mod ready;

/// How a file is applied.
#[derive(Clone, Debug)]
pub struct ApplyOptions {
    /// Remove VMs that are no longer in the file.
    pub prune: bool,
    /// Also remove disks: of removed VMs, and those that cannot be kept when a VM is made anew.
    pub volumes: bool,
    /// How long a guest has to power itself off.
    pub timeout: Duration,
    /// The KVM device.
    pub kvm_device: PathBuf,
}

/// What was done to one VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Its name.
    pub vm: Name,
    /// What was to happen.
    pub kind: ActionKind,
    /// Why it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A file that was applied, at least in part.
#[derive(Debug)]
pub struct Applied {
    /// What was planned.
    pub plan: Plan,
    /// What became of it, by name.
    pub steps: Vec<Step>,
}

/// A file that cannot be applied. Nothing was done.
#[derive(Debug)]
pub struct Refused {
    /// Everything that stands in the way.
    pub plan: Plan,
}

/// Why a file was not applied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another command is at it.
    #[error("another carve apply or carve down is at work on this host; wait for it to end")]
    Busy,
    /// The ledger.
    #[error(transparent)]
    Books(#[from] books::Error),
    /// The guests.
    #[error(transparent)]
    Guests(#[from] guests::Error),
    /// Limits.
    #[error("the plan is booked, but cannot be enforced; apply it again once this is mended")]
    Cgroup(#[from] HierarchyError),
}

/// The lock that keeps `apply` and `down` apart.
pub(super) fn alone(store: &Store) -> Result<Lock, Error> {
    store.folders().make().map_err(guests::Error::from)?;
    let path = store.folders().state.join("apply.lock");
    let failed = |source| books::Error::File { what: "lock", path: path.clone(), source };
    Lock::attempt(&path).map_err(failed)?.ok_or(Error::Busy)
}

/// Carries `config` out. `report` hears of each step as it ends.
///
/// # Errors
///
/// [`Error`]. What becomes of single VMs is no error but a [`Step`].
pub fn apply(
    store: &Store,
    config: &HostConfig,
    options: &ApplyOptions,
    report: &(dyn Fn(&Step) + Sync),
) -> Result<Result<Applied, Refused>, Error> {
    let _alone = alone(store)?;
    let mut ledger = Ledger::begin(store, config)?;
    let host = Ledger::host(config)?;
    let before = ledger.booked().clone();
    let plan = present::plan(store, &ledger, config, &host, (options.prune, options.volumes))?;
    let Some(after) = before.after(&plan, config, &host, options.prune) else {
        return Ok(Err(Refused { plan }));
    };
    let mut booked = after;
    // What is to go holds its share until it is gone.
    let gone = |action: &&Action| action.kind == ActionKind::Remove;
    for action in plan.actions.iter().filter(gone) {
        if let Some(booking) = before.bookings.get(&action.vm) {
            booked.bookings.insert(action.vm.clone(), booking.clone());
        }
    }
    ledger.replace(config.clone(), booked.clone());
    let entries = guests_of(store, &mut ledger)?;
    ledger.save()?;
    drop(ledger);

    let mut work = Work { store, config, options, before: &before, plan: &plan, entries };
    let steps = Mutex::new(BTreeMap::new());
    let tell = |name: &Name, kind: ActionKind, error: Option<String>| {
        let step = Step { vm: name.clone(), kind, error };
        report(&step);
        steps.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), step);
    };
    let ended = |work: &Work<'_>, name: &Name, outcome: &Outcome, last: bool| {
        let failed = match outcome {
            Outcome::Done => None,
            Outcome::Failed(error) => Some(error.clone()),
            Outcome::Blocked(other) => Some(format!("it comes after {other}, which failed")),
        };
        if let Some(kind) = work.kind(name)
            && (last || failed.is_some())
        {
            tell(name, kind, failed);
        }
    };
    let after = config.prerequisites();
    let stopping = plan.actions.iter().filter(|action| work.stops(action)).map(|action| &action.vm);
    let only_stops = |name: &Name| !work.starts(name);
    let stopped = order::run(
        stopping,
        &order::reversed(&after),
        |name| work.stop(name),
        |name, outcome| ended(&work, name, outcome, only_stops(name)),
    );
    let stuck: BTreeSet<&Name> = stopped
        .iter()
        .filter(|(_, outcome)| **outcome != Outcome::Done)
        .map(|(name, _)| *name)
        .collect();
    let hierarchy = Hierarchy::new();
    if hierarchy.is_usable() {
        let of_stuck =
            |group: &&Cgroup| !matches!(&group.owner, Owner::Vm(vm) if stuck.contains(vm));
        hierarchy.apply(plan.cgroups.iter().filter(of_stuck))?;
        hierarchy.sweep(plan.cgroups.iter().map(|group| group.path.as_str()));
        tenant::delegate(store.folders(), &hierarchy, (config, &host, &plan, &booked))?;
    }
    work.create()?;
    let starting = plan.actions.iter().map(|action| &action.vm);
    let starting = starting.filter(|name| work.starts(name) && !stuck.contains(*name));
    order::run(
        starting,
        &after,
        |name| work.start(name),
        |name, outcome| ended(&work, name, outcome, true),
    );
    let unplanned = before.bookings.iter().filter(|(name, booking)| {
        booking.running && booking.origin == Origin::File && work.kind(name).is_none()
    });
    order::run(
        unplanned.map(|(name, _)| name),
        &BTreeMap::new(),
        |name| {
            if work.hold(name)? {
                tell(name, ActionKind::Change, None);
            }
            Ok(())
        },
        |name, outcome| {
            if let Outcome::Failed(error) = outcome {
                tell(name, ActionKind::Change, Some(error.clone()));
            }
        },
    );
    let steps = steps.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Ok(Applied { steps: steps.into_values().collect(), plan }))
}

/// What is done to each VM.
struct Work<'a> {
    store: &'a Store,
    config: &'a HostConfig,
    options: &'a ApplyOptions,
    before: &'a Present,
    plan: &'a Plan,
    /// The guests of VMs, those that cannot be made with the reason.
    entries: BTreeMap<Name, Result<Entry, String>>,
}

/// The guests of all VMs that are booked, found again by their names if the ledger was lost.
fn guests_of(
    store: &Store,
    ledger: &mut Ledger<'_>,
) -> Result<BTreeMap<Name, Result<Entry, String>>, Error> {
    let of_file = ledger.booked().bookings.iter().filter(|(_, b)| b.origin == Origin::File);
    let names: Vec<Name> = of_file.map(|(name, _)| name.clone()).collect();
    let mut entries = BTreeMap::new();
    for name in names {
        if let Some(entry) = ledger.guest(&name)? {
            entries.insert(name, Ok(entry));
        } else if let Some(entry) = store.named(&name)?.filter(|entry| entry.guest.of_file) {
            ledger.set_guest(&name, &entry.guest.id);
            entries.insert(name, Ok(entry));
        }
    }
    Ok(entries)
}

impl Work<'_> {
    fn kind(&self, name: &Name) -> Option<ActionKind> {
        let at = self.plan.actions.binary_search_by(|action| action.vm.cmp(name)).ok()?;
        Some(self.plan.actions[at].kind)
    }

    fn stops(&self, action: &Action) -> bool {
        let running = self.before.bookings.get(&action.vm).is_some_and(|booking| booking.running);
        match action.kind {
            ActionKind::Restart | ActionKind::Recreate | ActionKind::Stop => running,
            ActionKind::Remove => true,
            _ => false,
        }
    }

    fn starts(&self, name: &Name) -> bool {
        matches!(
            self.kind(name),
            Some(
                ActionKind::Create
                    | ActionKind::Start
                    | ActionKind::Change
                    | ActionKind::Restart
                    | ActionKind::Recreate
            )
        )
    }

    fn stop(&self, name: &Name) -> Result<(), String> {
        self.stop_guest(name).map_err(|error| explain(error.as_ref()))
    }

    fn stop_guest(&self, name: &Name) -> Result<(), Box<dyn std::error::Error>> {
        if let Some(Ok(mut entry)) = self.entries.get(name).cloned() {
            life::stop(&mut entry, self.options.timeout)?;
            if self.kind(name) == Some(ActionKind::Remove) {
                life::remove(self.store, &mut entry, true)?;
            }
        }
        if self.kind(name) != Some(ActionKind::Remove) {
            return Ok(());
        }
        let Some(mut ledger) = Ledger::open(self.store)? else { return Ok(()) };
        ledger.booked_mut().bookings.remove(name);
        if self.options.volumes {
            ledger.remove_volumes(name)?;
        }
        Ok(ledger.save()?)
    }

    fn start(&self, name: &Name) -> Result<(), String> {
        let Some(guest) = self.config.guests.get(name) else { return Ok(()) };
        self.start_guest(guest).map_err(|error| explain(error.as_ref()))
    }

    fn start_guest(&self, guest: &Guest) -> Result<(), Box<dyn std::error::Error>> {
        let kind = self.kind(&guest.name);
        let vm = volume::as_kept(guest.vm.clone());
        let running = self.before.bookings.get(&guest.name).is_some_and(|booking| booking.running);
        if kind == Some(ActionKind::Change) && running {
            let mut entry = self.entry(&guest.name)?;
            return live::change(self.store, &mut entry, guest, vm);
        }
        if kind == Some(ActionKind::Recreate) {
            for (_, path) in replaced(self.config, self.before, &guest.name) {
                volume::remove(&path)?;
            }
        }
        volume::make(&vm)?;
        let mut entry = self.entry(&guest.name)?;
        live::note(&mut entry, guest, vm)?;
        if guest.state == PowerState::Running {
            life::start(&mut entry)?;
            if let (Some(asked), Some(vsock)) = (&guest.ready, &guest.vm.vsock) {
                ready::wait(&entry, vsock, asked)?;
            }
        }
        Ok(())
    }

    /// Holds a running VM, to which nothing is to happen, to what it is.
    fn hold(&self, name: &Name) -> Result<bool, String> {
        let Some(guest) = self.config.guests.get(name) else { return Ok(false) };
        let vm = volume::as_kept(guest.vm.clone());
        let held = self.entry(name).map_err(Into::into);
        let held = held.and_then(|mut entry| live::hold(self.store, &mut entry, guest, vm));
        held.map_err(|error| explain(error.as_ref()))
    }

    fn entry(&self, name: &Name) -> Result<Entry, String> {
        match self.entries.get(name) {
            Some(found) => found.clone(),
            None => Err(format!("the guest of {name} was removed meanwhile; apply the file again")),
        }
    }

    /// Makes the guests that are to be started and are not there.
    fn create(&mut self) -> Result<(), Error> {
        let missing: Vec<&Guest> = (self.plan.actions.iter())
            .filter(|action| self.starts(&action.vm) && !self.entries.contains_key(&action.vm))
            .filter_map(|action| self.config.guests.get(&action.vm))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        for guest in missing {
            let made = self.create_guest(guest).map_err(|error| explain(&error));
            self.entries.insert(guest.name.clone(), made);
        }
        // Once for all: their processes look for their bookings here when they are started.
        let Some(mut ledger) = Ledger::open(self.store)? else { return Ok(()) };
        for (name, entry) in &self.entries {
            if let Ok(entry) = entry {
                ledger.set_guest(name, &entry.guest.id);
            }
        }
        Ok(ledger.save()?)
    }

    fn create_guest(&self, guest: &Guest) -> Result<Entry, guests::Error> {
        self.store.create(New {
            confinement: crate::jail::Settings::default(),
            name: Some(guest.name.clone()),
            // Paths of a host file are absolute by now.
            folder: "/".into(),
            kvm_device: self.options.kvm_device.clone(),
            labels: guest.labels.clone(),
            restart: guest.restart,
            remove: false,
            detached: true,
            of_file: true,
            config: volume::as_kept(guest.vm.clone()),
        })
    }
}
