//! What has to be done to each VM: the difference between what it is and what it is to be.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::roster::{Entry, Roster};
use super::{Allocation, Cgroup, Options, Origin, Owner, Present, Problems};
use crate::config::host::{Guest, HostConfig, HostConflict, PowerState};
use crate::config::{Code, Name};

/// What happens to a VM, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Action {
    /// Its name.
    pub vm: Name,
    /// What happens.
    pub kind: ActionKind,
    /// Why, and what of it changes.
    pub reasons: Vec<String>,
}

/// What can happen to a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActionKind {
    /// It is made, and started if it is to run.
    Create,
    /// It is there and is started.
    Start,
    /// It is changed without a restart.
    Change,
    /// It is restarted to become what it is to be.
    Restart,
    /// It is made anew, disks that changed included.
    Recreate,
    /// It is stopped and keeps its share.
    Stop,
    /// It is no longer in the file and removed; its disks stay.
    Remove,
    /// It is no longer in the file and stays.
    Gone,
    /// It cannot be what it is to be.
    Refuse,
}

impl ActionKind {
    /// Whether carrying it out changes something.
    #[must_use]
    pub fn is_change(self) -> bool {
        !matches!(self, Self::Gone | Self::Refuse)
    }

    /// As a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Start => "start",
            Self::Change => "change live",
            Self::Restart => "restart",
            Self::Recreate => "recreate",
            Self::Stop => "stop",
            Self::Remove => "remove",
            Self::Gone => "not in the file",
            Self::Refuse => "refuse",
        }
    }
}

/// What a change of a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Takes {
    Nothing,
    Restart,
    Recreate,
}

/// Refuses changes that can be made neither live nor by a restart.
pub(super) fn check(config: &HostConfig, present: &Present, problems: &mut Problems) {
    for (name, booking) in &present.bookings {
        let Some(guest) = config.guests.get(name) else { continue };
        if booking.origin == Origin::Command {
            let message = format!("{name} is the name of a guest that a command started");
            let conflict =
                HostConflict::new(Code::NameTaken, format!("vm.{}", guest.section), message)
                    .of(name)
                    .remedy(format!("remove that guest: carve rm {name}"))
                    .remedy("rename one of the two: carve rename");
            problems.push(conflict);
            continue;
        }
        for (disk, was) in booking.guest.vm.disk.iter().filter(|_| booking.running) {
            let Some(is) = guest.vm.disk.get(disk) else { continue };
            let pools = was.volume.as_ref().zip(is.volume.as_ref());
            let Some((_, volume)) = pools.filter(|(was, is)| was.pool == is.pool) else { continue };
            if was.path != is.path {
                let message = format!(
                    "pool {} moves away from under {name}, whose disk {disk} is open in {}",
                    volume.pool,
                    was.path.display()
                );
                let conflict = HostConflict::new(
                    Code::LiveChange,
                    format!("pool.{}.path", volume.pool),
                    message,
                )
                .of(name)
                .remedy("stop its VMs, move the files, then change the path");
                problems.push(conflict);
            }
        }
    }
}

/// What happens to every VM to which something happens, by name.
pub(super) fn actions(
    present: &Present,
    roster: &Roster<'_>,
    conflicts: &[HostConflict],
    allocations: &BTreeMap<Name, Allocation>,
    cgroups: &[Cgroup],
    options: Options,
) -> Vec<Action> {
    let mut refused: BTreeMap<&Name, Vec<String>> = BTreeMap::new();
    for conflict in conflicts {
        for vm in &conflict.vms {
            let codes = refused.entry(vm).or_default();
            if !codes.contains(&conflict.code.to_string()) {
                codes.push(conflict.code.to_string());
            }
        }
    }
    let groups: BTreeMap<&Name, &Cgroup> = cgroups
        .iter()
        .filter_map(|group| match &group.owner {
            Owner::Vm(vm) => Some((vm, group)),
            Owner::Host | Owner::Tenant(_) => None,
        })
        .collect();
    let action = |vm: &Name, kind, reasons| Action { vm: vm.clone(), kind, reasons };
    let mut actions: Vec<Action> = Vec::new();
    for entry in roster.entries.iter().filter(|entry| entry.in_file) {
        let name = entry.name();
        let (kind, reasons) = match refused.remove(name) {
            Some(codes) => (ActionKind::Refuse, codes),
            None => match step(entry, groups.get(name).copied(), allocations.get(name)) {
                Some(step) => step,
                None => continue,
            },
        };
        actions.push(action(name, kind, reasons));
    }
    for (name, booking) in &present.bookings {
        if booking.origin == Origin::File && !roster.is_in_file(name) {
            let (kind, reason) = if options.prune {
                (ActionKind::Remove, "no longer in the file; its disks are kept")
            } else {
                (ActionKind::Gone, "still there and holding its share; --prune removes it")
            };
            actions.push(action(name, kind, vec![reason.to_owned()]));
        }
    }
    actions.sort_by(|a, b| a.vm.cmp(&b.vm));
    actions
}

/// What happens to a VM that can be.
fn step(
    entry: &Entry<'_>,
    group: Option<&Cgroup>,
    allocation: Option<&Allocation>,
) -> Option<(ActionKind, Vec<String>)> {
    let guest = entry.guest;
    let Some(booking) = entry.booking else {
        let stopped = guest.state == PowerState::Stopped;
        let reasons =
            if stopped { vec!["new, and not to run".to_owned()] } else { vec!["new".to_owned()] };
        return Some((ActionKind::Create, reasons));
    };
    let (mut takes, mut reasons) = difference(&booking.guest, guest);
    if let Some(allocation) = allocation
        && booking.cpus != allocation.cpus
        && reasons.is_empty()
    {
        reasons.push(format!("host CPUs {} -> {}", booking.cpus.cpus(), allocation.cpus.cpus()));
        let moved = allocation.cpus.dedicated().is_some();
        takes = takes.max(if moved { Takes::Restart } else { Takes::Nothing });
    }
    if reasons.is_empty() && booking.cgroup.as_ref() != group {
        reasons.push("limits of its control group".to_owned());
    }
    let kind = match (booking.running, guest.state, takes) {
        (_, _, Takes::Recreate) => ActionKind::Recreate,
        (true, PowerState::Stopped, _) => {
            reasons.insert(0, "state running -> stopped".to_owned());
            ActionKind::Stop
        }
        (false, PowerState::Running, _) => {
            reasons.insert(0, "it does not run".to_owned());
            ActionKind::Start
        }
        (true, PowerState::Running, Takes::Restart) => ActionKind::Restart,
        // One that does not run becomes what it is to be when it is started.
        _ if reasons.is_empty() => return None,
        _ => ActionKind::Change,
    };
    Some((kind, reasons))
}

/// What differs between `was` and `is`, in words, and what it takes.
fn difference(was: &Guest, is: &Guest) -> (Takes, Vec<String>) {
    let (mut takes, mut reasons) = (Takes::Nothing, Vec::new());
    if was == is {
        return (takes, reasons);
    }
    let leaves = |guest: &Guest| {
        let mut leaves = BTreeMap::new();
        collect(&serde_json::to_value(guest).unwrap_or_default(), String::new(), &mut leaves);
        leaves
    };
    let (was, is) = (leaves(was), leaves(is));
    let keys: std::collections::BTreeSet<&String> = was.keys().chain(is.keys()).collect();
    for key in keys {
        let (before, after) = (was.get(key), is.get(key));
        // What is said as a state is done as one.
        if before == after || key == "state" || key == "section" {
            continue;
        }
        takes = takes.max(of_key(key));
        let show = |value: Option<&Value>| match value {
            None => "nothing".to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        };
        let key = key.strip_prefix("vm.").unwrap_or(key);
        reasons.push(format!("{key} {} -> {}", show(before), show(after)));
    }
    // Devices have an order, which leaves do not show.
    if reasons.is_empty() {
        takes = Takes::Restart;
        reasons.push("order of its devices".to_owned());
    }
    (takes, reasons)
}

/// Every value of `value` that is neither a table nor absent, by its path.
fn collect(value: &Value, path: String, leaves: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(table) => {
            for (key, value) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                collect(value, path, leaves);
            }
        }
        Value::Null => {}
        value => drop(leaves.insert(path, value.clone())),
    }
}

/// What a change of the value at `key` takes. The keys are those of [`Guest`].
fn of_key(key: &str) -> Takes {
    let parts: Vec<&str> = key.split('.').collect();
    match parts.as_slice() {
        ["restart" | "after" | "labels" | "ready" | "enforce", ..] | ["cpu", "shared", _] => {
            Takes::Nothing
        }
        ["vm", "memory", "min"] | ["vm", "balloon", "target"] => Takes::Nothing,
        // Growing only: shrinking has been refused.
        ["vm", "disk", _, "size" | "iops" | "iops_burst" | "bandwidth" | "bandwidth_burst"] => {
            Takes::Nothing
        }
        [
            "vm",
            "net",
            _,
            "rx_bandwidth" | "rx_packets" | "tx_bandwidth" | "tx_packets" | "link",
        ] => Takes::Nothing,
        ["vm", "disk", _, "pool" | "image"] => Takes::Recreate,
        _ => Takes::Restart,
    }
}
