//! What a host file makes of this host as it is: the plan, and what only its guests and files can tell
//! against it.

use std::path::PathBuf;

use resources::config::host::{HostConfig, HostConflict};
use resources::config::{Code, Name};
use resources::enforce::Hierarchy;
use resources::inventory::Host;
use resources::plan::{self, ActionKind, Options, Origin, Plan, Present, Reservation};

use super::books::{Error, Ledger};
use super::tenant::unknown_users;
use super::volume;
use crate::guests::Store;

/// The plan of `config` for this `host` as it is, beside what is booked. With `prune` VMs that are no
/// longer in the file go, with `volumes` disks that cannot be kept.
///
/// # Errors
///
/// The ledger or guests cannot be read.
pub fn plan(
    store: &Store,
    ledger: &Ledger<'_>,
    config: &HostConfig,
    host: &Host,
    (prune, volumes): (bool, bool),
) -> Result<Plan, Error> {
    let present = ledger.booked();
    let mut plan = plan::plan(config, host, present, Options { prune });
    plan.conflicts.extend(names_taken(store, ledger, &plan)?);
    plan.conflicts.extend(unknown_users(config)?);
    if !volumes {
        plan.conflicts.extend(disks_lost(config, present, &plan));
    }
    Ok(plan)
}

/// VMs to be made whose name a guest has that is not of the file.
fn names_taken(
    store: &Store,
    ledger: &Ledger<'_>,
    plan: &Plan,
) -> Result<Vec<HostConflict>, Error> {
    let mut conflicts = Vec::new();
    let hierarchy = Hierarchy::new();
    for action in plan.actions.iter().filter(|action| action.kind == ActionKind::Create) {
        let name = &action.vm;
        let allocation = plan.allocations.get(name);
        let tenant =
            allocation.and_then(|allocation| Some((allocation, allocation.tenant.as_ref()?)));
        let of_user = tenant.is_some_and(|(allocation, tenant)| {
            let path = &allocation.cgroup;
            let (above, own) = path.rsplit_once('/').unwrap_or_default();
            let in_scope = format!("{above}/{}/{own}", Reservation::scope(tenant));
            [path, &in_scope].iter().any(|path| !hierarchy.processes(path).is_empty())
        });
        if of_user {
            let message = format!("{name} is the name of a guest that the tenant's user started");
            let key = format!("vm.{name}");
            let conflict = HostConflict::new(Code::NameTaken, key, message).of(name);
            conflicts.push(conflict.remedy("choose another name, or have the user end that guest"));
            continue;
        }
        let Some(entry) = store.named(&action.vm)? else { continue };
        // Of the file as it was, before the ledger was lost.
        if entry.guest.of_file || ledger.guest(&action.vm)?.is_some() {
            continue;
        }
        let message = format!("{name} is the name of a guest that a command made");
        let conflict = HostConflict::new(Code::NameTaken, format!("vm.{name}"), message).of(name);
        conflicts.push(conflict.remedy(format!("remove that guest: carve rm {name}")));
    }
    Ok(conflicts)
}

/// Disks whose content a recreation would replace.
fn disks_lost(config: &HostConfig, before: &Present, plan: &Plan) -> Vec<HostConflict> {
    let recreated = plan.actions.iter().filter(|action| action.kind == ActionKind::Recreate);
    let mut conflicts = Vec::new();
    for action in recreated {
        for (disk, path) in replaced(config, before, &action.vm) {
            let message = format!(
                "{}: the disk {disk} would be made anew, and what is in {} be lost",
                action.vm,
                path.display()
            );
            let section = &config.guests[&action.vm].section;
            let key = format!("vm.{section}.disk.{disk}.image");
            let conflict = HostConflict::new(Code::LiveChange, key, message).of(&action.vm);
            conflicts.push(conflict.remedy("apply it with --volumes if that is wanted"));
        }
    }
    conflicts
}

/// Disks of a VM that are there and are to begin as something else.
pub(super) fn replaced(config: &HostConfig, before: &Present, vm: &Name) -> Vec<(Name, PathBuf)> {
    let Some((was, is)) = before.bookings.get(vm).zip(config.guests.get(vm)) else {
        return Vec::new();
    };
    let mut replaced = Vec::new();
    for (name, disk) in &is.vm.disk {
        let Some(old) = was.guest.vm.disk.get(name).filter(|old| old.path == disk.path) else {
            continue;
        };
        if old.volume.as_ref().zip(disk.volume.as_ref()).is_some_and(|(a, b)| a.image != b.image) {
            replaced.push((name.clone(), disk.path.clone()));
        }
    }
    replaced
}

impl Ledger<'_> {
    /// Removes the disks that were made in pools for `vm`, and what is booked for them. Returns whether
    /// there were any.
    ///
    /// # Errors
    ///
    /// A file cannot be removed.
    pub fn remove_volumes(&mut self, vm: &Name) -> Result<bool, Error> {
        let volumes = &mut self.booked_mut().volumes;
        let own: Vec<PathBuf> = volumes
            .iter()
            .filter(|(_, volume)| volume.vm == *vm)
            .map(|(path, _)| path.clone())
            .collect();
        for path in &own {
            volume::remove(path).map_err(Box::new)?;
            volumes.remove(path);
        }
        Ok(!own.is_empty())
    }

    /// Whether `name` is a VM of the host file.
    pub fn is_of_file(&self, name: &Name) -> bool {
        self.booked().bookings.get(name).is_some_and(|booking| booking.origin == Origin::File)
    }
}

/// [`plan()`] for the host of `store`, whether a host file was applied before or not.
///
/// # Errors
///
/// The ledger or guests cannot be read.
pub fn plan_here(
    store: &Store,
    config: &HostConfig,
    host: &Host,
    prune: bool,
    volumes: bool,
) -> Result<Plan, Error> {
    match Ledger::open(store)? {
        Some(ledger) => plan(store, &ledger, config, host, (prune, volumes)),
        None => {
            let mut plan = plan::plan(config, host, &Present::default(), Options { prune });
            plan.conflicts.extend(unknown_users(config)?);
            Ok(plan)
        }
    }
}

/// Whether the host file, as it was applied last, has a VM called `name`. A ledger that cannot be read
/// says so to whoever starts a guest.
pub fn has_name(store: &Store, name: &Name) -> bool {
    let ledger = Ledger::open(store).ok().flatten();
    ledger.is_some_and(|ledger| ledger.config().guests.contains_key(name))
}

/// Forgets what is booked for a VM whose guest was removed, unless the host file still has it; with
/// `volumes` removes its disks in pools. Returns whether there was anything.
///
/// # Errors
///
/// The ledger or a disk.
pub fn forget(store: &Store, vm: &Name, volumes: bool) -> Result<bool, Error> {
    let Some(mut ledger) = Ledger::open(store)? else { return Ok(false) };
    let stays = ledger.config().guests.contains_key(vm);
    let booked = !stays && ledger.booked_mut().bookings.remove(vm).is_some();
    let removed = volumes && ledger.remove_volumes(vm)?;
    ledger.save()?;
    Ok(booked || removed)
}
