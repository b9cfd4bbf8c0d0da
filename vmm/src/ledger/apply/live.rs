//! What of a guest changes while it runs, and what is only written down for its next start.

use resources::config::host::Guest;
use resources::config::{Bandwidth, Disk, Net, VmConfig};

use crate::api::types::{DiskUpdate, LimitsUpdate, NetUpdate};
use crate::guests::{Entry, Store, Update};

/// Changes the running guest of `entry` to what `guest` is now, its machine to `vm`.
pub(super) fn change(
    store: &Store,
    entry: &mut Entry,
    guest: &Guest,
    vm: VmConfig,
) -> Result<(), Box<dyn std::error::Error>> {
    update(&entry.guest.config, &vm).apply(store, entry)?;
    note(entry, guest, vm)
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
) -> Option<LimitsUpdate> {
    let update = LimitsUpdate {
        operations_per_second: (was.0 != is.0).then(|| is.0.unwrap_or(0)),
        bytes_per_second: (was.1 != is.1).then(|| rate(is.1)),
    };
    (was != is).then_some(update)
}

fn of_disk(was: &Disk, is: &Disk) -> DiskUpdate {
    let size = |disk: &Disk| disk.volume.as_ref().map(|volume| volume.size);
    DiskUpdate {
        size: size(is).filter(|_| size(was) != size(is)).map(resources::Size::bytes),
        limits: limits((was.iops, was.bandwidth), (is.iops, is.bandwidth)),
    }
}

fn of_net(was: &Net, is: &Net) -> NetUpdate {
    let of = |was: &resources::config::NetLimits, is: &resources::config::NetLimits| {
        limits((was.packets, was.bandwidth), (is.packets, is.bandwidth))
    };
    NetUpdate {
        link_up: (was.link != is.link).then_some(is.link == resources::config::LinkState::Up),
        receive: of(&was.receive, &is.receive),
        send: of(&was.send, &is.send),
    }
}
