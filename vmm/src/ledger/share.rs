//! [`Share`]: what the process of a guest takes of a divided host before it runs the guest.
//!
//! The guest's own process books, after it has taken the lock that shows it lives: so a booking ends
//! with it, however it ends.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use resources::CpuSet;
use resources::config::Name;
use resources::config::host::{Enforce, HostConflict, OnFull};
use resources::enforce::{Hierarchy, HierarchyError, ProcessError, Settings};
use resources::plan::{Booking, Cgroup, HostCpus, Origin, Owner, Present, admit};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::books::{self, Ledger};
use super::tenant::Tenancy;
use crate::guests::{Entry, Store};

/// Why a guest gets no share of the host.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ledger.
    #[error(transparent)]
    Books(#[from] books::Error),
    /// It does not fit.
    #[error("the host has no room for the guest {name}: {}", list(.conflicts))]
    Refused {
        /// Its name.
        name: Name,
        /// Everything that stands in the way.
        conflicts: Vec<HostConflict>,
    },
    /// A control group.
    #[error("the host's division cannot be enforced")]
    Cgroup(#[from] HierarchyError),
    /// The kernel lets nobody into a tenant's group who comes from outside, but root.
    #[error(
        "guests of {user} run in the tenant {tenant}, but this session is outside its control group; begin one inside as root: carve enter {tenant}"
    )]
    Outside {
        /// The tenant.
        tenant: Name,
        /// Its user.
        user: String,
    },
    /// The process.
    #[error("the host's division cannot be enforced")]
    Process(#[from] ProcessError),
}

fn list(conflicts: &[HostConflict]) -> String {
    let texts: Vec<String> = conflicts
        .iter()
        .map(|conflict| {
            let remedies = conflict.remedies.join("; or ");
            let remedies =
                if remedies.is_empty() { String::new() } else { format!("; {remedies}") };
            format!("{} [{}]{remedies}", conflict.message, conflict.code)
        })
        .collect();
    texts.join("; ")
}

/// A share of the host that this process has; a share of an undivided host is all of it.
#[derive(Debug, Default)]
pub struct Share {
    group: Option<Group>,
    /// The CPU of each vCPU; none where they run where they like.
    pub pins: Vec<u32>,
    /// Folders of pools whose guests are paused while they are full.
    pub pools: Vec<PathBuf>,
    /// What does not hold: controllers that are missing, and settings of the process.
    pub unenforced: Vec<String>,
}

#[derive(Debug)]
struct Group {
    hierarchy: Hierarchy,
    path: String,
    /// Where this process was before.
    before: Option<String>,
    /// Whether it goes with the guest.
    temporary: bool,
}

impl Share {
    /// Books the guest of `entry`, and moves this process, which has no other thread yet, to where it
    /// is held to its share.
    ///
    /// # Errors
    ///
    /// [`Error`]; nothing is booked then.
    pub fn take(store: &Store, entry: &Entry) -> Result<Self, Error> {
        let Some(mut ledger) = Ledger::open_as_is(store)? else {
            return Ok(Self::default());
        };
        let name = ledger.name_of(&entry.guest.id).cloned();
        let booked = name.and_then(|name| {
            let booking = ledger.booked().bookings.get(&name)?;
            (booking.origin == Origin::File).then(|| booking.clone())
        });
        let hierarchy = Hierarchy::new();
        let (booking, above) = match booked {
            Some(booking) => {
                let above = booking.cgroup.as_ref().map(|own| above(&ledger, own));
                (booking, above.transpose()?.unwrap_or_default())
            }
            None => {
                ledger.settle();
                book(&mut ledger, entry)?
            }
        };
        let held = Self::held(hierarchy, &booking, &above);
        let mut share = held.map_err(|error| outside(error, ledger.tenancy()))?;
        let pools = &ledger.config().pools;
        let own = booking.guest.volumes().filter_map(|(_, volume)| pools.get(&volume.pool));
        let pausing = own.filter(|pool| pool.on_full == OnFull::Pause);
        share.pools = pausing.map(|pool| pool.path.clone()).collect();
        if booking.origin == Origin::Command {
            // Only now: what cannot be enforced is not promised.
            ledger.save()?;
        }
        Ok(share)
    }

    fn held(hierarchy: Hierarchy, booking: &Booking, above: &[Cgroup]) -> Result<Self, Error> {
        let mut group = None;
        if let Some(own) = booking.cgroup.as_ref().filter(|_| hierarchy.is_usable()) {
            let before = own_group();
            hierarchy.apply(above)?;
            hierarchy.occupy(own)?;
            let temporary = booking.origin == Origin::Command;
            group = Some(Group { hierarchy, path: own.path.clone(), before, temporary });
        }
        let missing = booking.cgroup.as_ref().map(|group| &group.unenforced);
        let mut unenforced: Vec<String> = missing.into_iter().flatten().cloned().collect();
        for refused in settings(booking).apply() {
            if booking.guest.enforce == Enforce::Strict {
                return Err(refused.into());
            }
            unenforced.push(refused.setting.to_owned());
        }
        let share = Self { group, pins: pins(&booking.cpus), unenforced, pools: Vec::new() };
        Ok(share)
    }

    /// Whether the host is divided, and this process in a control group of its share.
    pub fn is_a_part(&self) -> bool {
        self.group.is_some()
    }

    /// Gives the share back at the end of the run. What this process can no longer do, the next command
    /// does.
    pub fn leave(self) {
        let Some(Group { hierarchy, path, before: Some(before), temporary }) = self.group else {
            return;
        };
        if hierarchy.enter(before.trim_start_matches('/')).is_ok() && temporary {
            let _ = hierarchy.remove(&path);
        }
    }
}

/// Says what to do where a user's session is not where it could move to its tenant's groups.
fn outside(error: Error, tenancy: Option<&Tenancy>) -> Error {
    match (error, tenancy) {
        (Error::Cgroup(HierarchyError { source, path, .. }), Some(tenancy))
            if source.kind() == io::ErrorKind::PermissionDenied
                && path.ends_with("cgroup.procs") =>
        {
            let Tenancy { reservation, user, .. } = tenancy;
            Error::Outside { tenant: reservation.tenant.clone(), user: user.clone() }
        }
        (error, _) => error,
    }
}

/// Books a guest that a command started; what is returned is its booking, and the control groups that
/// change for it.
fn book(ledger: &mut Ledger<'_>, entry: &Entry) -> Result<(Booking, Vec<Cgroup>), Error> {
    let config = ledger.config().clone();
    let host = Ledger::host(&config)?;
    let name = entry.guest.name.clone();
    // Its own from before: between two runs it keeps its share, and is asked again whether it fits.
    if let Some(old) = ledger.name_of(&entry.guest.id).cloned() {
        ledger.booked_mut().bookings.remove(&old);
    }
    let reservation = ledger.tenancy().map(|tenancy| &tenancy.reservation);
    let tenant = reservation.map(|reservation| reservation.tenant.clone());
    let cookie = reservation.is_some_and(|reservation| reservation.core_scheduling);
    let of_tenant = tenant.is_some();
    let guest = config.guest_of_command(name.clone(), tenant, entry.guest.config.clone());
    let mut admission = admit(&config, &host, ledger.booked(), &guest)
        .map_err(|conflicts| Error::Refused { name: name.clone(), conflicts })?;
    let mut own = admission.cgroup().cloned();
    if let Some(tenancy) = ledger.tenancy() {
        // Those that root limits are not its user's to write.
        let of_user = |name: &Name| !config.guests.contains_key(name);
        let groups = &mut admission.cgroups;
        groups.retain(|group| matches!(&group.owner, Owner::Vm(name) if of_user(name)));
        groups.iter_mut().chain(&mut own).for_each(|group| tenancy.reservation.place(group));
    }
    let allocation = &admission.allocation;
    let booking = Booking {
        guest,
        cpus: allocation.cpus.clone(),
        cgroup: own,
        core_scheduling: allocation.core_scheduling || cookie,
        // To come later in a shortage takes CAP_SYS_RESOURCE.
        oom_score_adj: if of_tenant { 0 } else { allocation.oom_score_adj },
        running: true,
        origin: Origin::Command,
    };
    let changed = changed(ledger.booked_mut(), &admission.cgroups);
    ledger.booked_mut().bookings.insert(name.clone(), booking.clone());
    ledger.set_guest(&name, &entry.guest.id);
    Ok((booking, changed))
}

/// The groups that are not those of VMs, and of VMs that are booked those that change; the bookings
/// follow.
fn changed(present: &mut Present, groups: &[Cgroup]) -> Vec<Cgroup> {
    let mut changed = Vec::new();
    for group in groups {
        match &group.owner {
            Owner::Host | Owner::Tenant(_) => changed.push(group.clone()),
            Owner::Vm(name) => {
                let Some(booking) = present.bookings.get_mut(name) else { continue };
                if booking.cgroup.as_ref() != Some(group) {
                    booking.cgroup = Some(group.clone());
                    changed.push(group.clone());
                }
            }
        }
    }
    changed
}

/// The groups above `own`, which are not there after the host was booted.
fn above(ledger: &Ledger<'_>, own: &Cgroup) -> Result<Vec<Cgroup>, Error> {
    let hierarchy = Hierarchy::new();
    let parent = own.path.rsplit_once('/').map_or("", |(parent, _)| parent);
    if hierarchy.folder(parent).exists() {
        return Ok(Vec::new());
    }
    let config = ledger.config();
    let host = Ledger::host(config)?;
    let plan = resources::plan::plan(config, &host, ledger.booked(), Default::default());
    Ok(plan.cgroups.into_iter().filter(|group| !matches!(group.owner, Owner::Vm(_))).collect())
}

/// The CPU of each vCPU.
fn pins(cpus: &HostCpus) -> Vec<u32> {
    match cpus {
        HostCpus::Dedicated { pins, .. } => pins.clone(),
        HostCpus::Shared { .. } => Vec::new(),
    }
}

fn settings(booking: &Booking) -> Settings {
    let (cpus, nodes) = match &booking.cpus {
        HostCpus::Dedicated { workers, nodes, .. } => (workers.clone(), nodes.clone()),
        // Their control group says where they run, and may change; a mask of their own would not.
        HostCpus::Shared { cpus, .. } => {
            let held = booking.cgroup.as_ref().is_some_and(|g| !g.unenforced.contains("cpuset"));
            (if held { CpuSet::default() } else { cpus.clone() }, CpuSet::default())
        }
    };
    Settings {
        cpus,
        nodes,
        core_scheduling: booking.core_scheduling,
        oom_score_adj: booking.oom_score_adj,
    }
}

/// A process beside a guest's VMM that is charged to the guest's share, until the VMM has ended: then it can give back
/// what a VMM in a jail cannot.
#[derive(Debug)]
pub struct Companion {
    hierarchy: Hierarchy,
    before: String,
    vmm: OwnedFd,
}

impl Companion {
    /// Moves this process to where the process `vmm` is; none where that is no other place.
    ///
    /// # Errors
    ///
    /// The kernel lets it not.
    pub fn join(vmm: Pid) -> Result<Option<Self>, HierarchyError> {
        let hierarchy = Hierarchy::new();
        let number = vmm.as_raw_pid().to_string();
        let (Some(before), Some(there)) = (own_group(), group_of(&number)) else { return Ok(None) };
        let gone = |error: rustix::io::Errno| HierarchyError {
            what: "watch the process".to_owned(),
            path: PathBuf::from("/proc").join(&number),
            source: error.into(),
        };
        if before == there {
            return Ok(None);
        }
        let vmm = pidfd_open(vmm, PidfdFlags::empty()).map_err(gone)?;
        hierarchy.enter(there.trim_start_matches('/'))?;
        Ok(Some(Self { hierarchy, before, vmm }))
    }

    /// Waits until the VMM has ended, and goes back to where it came from.
    pub fn part(self) {
        let _ = poll(&mut [PollFd::new(&self.vmm, PollFlags::IN)], None);
        if let Err(error) = self.hierarchy.enter(self.before.trim_start_matches('/')) {
            tracing::warn!("{}", crate::explain(&error));
        }
    }
}

/// The control group of this process, of version 2.
fn own_group() -> Option<String> {
    group_of("self")
}

fn group_of(process: &str) -> Option<String> {
    let listed = fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    listed.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}
