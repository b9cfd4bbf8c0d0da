//! What of a guest changes while it runs, and what is only written down for its next start.

use resources::config::host::Guest;
use resources::config::{Bandwidth, Disk, Net, VmConfig};

use crate::api::types::{DiskUpdate, LimitsUpdate, NetUpdate};
use crate::guests::{Entry, Store, Update};
use crate::ledger::verify::limits::in_force;

/// Changes the running guest of `entry` to what `guest` is now, its machine to `vm`.
pub(super) fn change(
    store: &Store,
    entry: &mut Entry,
    guest: &Guest,
    vm: VmConfig,
) -> Result<(), Box<dyn std::error::Error>> {
    update(&in_force(entry)?, &vm).apply(store, entry)?;
    note(entry, guest, vm)
}

/// Puts right what somebody changed about a running guest that was to stay as it is. Whether there was
/// anything.
pub(super) fn hold(
    store: &Store,
    entry: &mut Entry,
    guest: &Guest,
    vm: VmConfig,
) -> Result<bool, Box<dyn std::error::Error>> {
    let update = update(&in_force(entry)?, &vm);
    let differs = !update.is_empty();
    if differs {
        update.apply(store, entry)?;
        note(entry, guest, vm)?;
    }
    Ok(differs)
}

/// Writes down what the guest is from its next start on.
pub(super) fn note(
    entry: &mut Entry,
    guest: &Guest,
    vm: VmConfig,
) -> Result<(), Box<dyn std::error::Error>> {
    let _lock = entry.lock()?;
    entry.reload()?;
    entry.guest.config = vm;
    entry.guest.restart = guest.restart;
    entry.guest.labels.clone_from(&guest.labels);
    Ok(entry.save()?)
}

/// What of `is` differs from `was` and can be changed in a running machine.
fn update(was: &VmConfig, is: &VmConfig) -> Update {
    let disks = is.disk.iter().filter_map(|(name, disk)| {
        let update = of_disk(was.disk.get(name)?, disk);
        (update != DiskUpdate::default()).then(|| (name.clone(), update))
    });
    let nets = is.net.iter().filter_map(|(name, net)| {
        let update = of_net(was.net.get(name)?, net);
        (update != NetUpdate::default()).then(|| (name.clone(), update))
    });
    let target = |vm: &VmConfig| vm.balloon.as_ref().map(|balloon| balloon.target);
    Update {
        disks: disks.collect(),
        nets: nets.collect(),
        balloon: target(is).filter(|_| target(was) != target(is)),
        ..Update::default()
    }
}

/// No limit is 0.
fn rate(bandwidth: Option<Bandwidth>) -> u64 {
    bandwidth.map_or(0, Bandwidth::bytes_per_second)
}

fn limits(
    was: (Option<u64>, Option<Bandwidth>),
    is: (Option<u64>, Option<Bandwidth>),
) -> LimitsUpdate {
    LimitsUpdate {
        operations_per_second: (was.0 != is.0).then(|| is.0.unwrap_or(0)),
        bytes_per_second: (was.1 != is.1).then(|| rate(is.1)),
        ..LimitsUpdate::default()
    }
}

fn unless_none(update: LimitsUpdate) -> Option<LimitsUpdate> {
    (update != LimitsUpdate::default()).then_some(update)
}

fn of_disk(was: &Disk, is: &Disk) -> DiskUpdate {
    let size = |disk: &Disk| disk.volume.as_ref().map(|volume| volume.size);
    let mut update = limits((was.iops, was.bandwidth), (is.iops, is.bandwidth));
    // A burst of its own is said with every limit, as a new limit forgets it.
    let burst = |limit: Option<(u64, u64)>| limit.map(|(_, burst)| burst);
    let differs = was.operations_limit() != is.operations_limit();
    update.operations_burst = burst(is.operations_limit()).filter(|_| differs);
    let differs = was.bandwidth_limit() != is.bandwidth_limit();
    update.bytes_burst = burst(is.bandwidth_limit()).filter(|_| differs);
    DiskUpdate {
        // One that somebody made larger meanwhile stays so.
        size: size(is).filter(|_| size(was) < size(is)).map(resources::Size::bytes),
        limits: unless_none(update),
    }
}

fn of_net(was: &Net, is: &Net) -> NetUpdate {
    let of = |was: &resources::config::NetLimits, is: &resources::config::NetLimits| {
        unless_none(limits((was.packets, was.bandwidth), (is.packets, is.bandwidth)))
    };
    NetUpdate {
        link_up: (was.link != is.link).then_some(is.link == resources::config::LinkState::Up),
        receive: of(&was.receive, &is.receive),
        send: of(&was.send, &is.send),
    }
}
