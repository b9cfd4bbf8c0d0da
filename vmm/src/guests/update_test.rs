//! Changes of guests that do not run, on a file system of their own.

use std::collections::BTreeMap;

use resources::config::{NetSpec, VmSpec, numbered};
use tempfile::TempDir;

use super::*;
use crate::guests::{Folders, New};
use crate::jail::Settings;

fn guest(remove: bool) -> (TempDir, Store, Entry) {
    let folder = tempfile::tempdir().unwrap();
    let folders = Folders {
        state: folder.path().join("state"),
        runtime: folder.path().join("run"),
        tenants: folder.path().join("tenants"),
    };
    let store = Store::new(folders);
    let net = NetSpec { tap: Some("tap0".into()), ..NetSpec::default() };
    let disk: Disk = "disk.img,iops=10,iops_burst=20".parse().unwrap();
    let spec = VmSpec {
        kernel: Some("/boot/vmlinuz".into()),
        disk: numbered("disk", vec![disk]),
        net: numbered("net", vec![net]),
        balloon: Some(BalloonSpec::default()),
        ..VmSpec::default()
    };
    let new = New {
        name: Some("web".parse().unwrap()),
        folder: "/".into(),
        kvm_device: "/dev/kvm".into(),
        labels: BTreeMap::new(),
        restart: Restart::No,
        remove,
        confinement: Settings::default(),
        detached: true,
        of_file: false,
        config: spec.resolve().unwrap(),
    };
    let entry = store.create(new).unwrap();
    (folder, store, entry)
}

fn disk(name: &str, update: DiskUpdate) -> Update {
    Update { disks: vec![(name.parse().unwrap(), update)], ..Update::default() }
}

fn limits(bytes: u64, operations: u64) -> LimitsUpdate {
    LimitsUpdate {
        bytes_per_second: Some(bytes),
        operations_per_second: Some(operations),
        ..LimitsUpdate::default()
    }
}

#[test]
fn what_changes_about_a_guest_that_does_not_run_is_there_at_its_next_start() {
    let (_folder, store, mut entry) = guest(false);
    let limited = DiskUpdate { size: None, limits: Some(limits(1_000_000, 500)) };
    let net = NetUpdate { link_up: Some(false), receive: None, send: Some(limits(0, 7)) };
    let update = Update {
        nets: vec![("net0".parse().unwrap(), net)],
        balloon: Some(Size::from_mib(16)),
        restart: Some(Restart::Always),
        labels: vec![("tier".into(), "front".into())],
        ..disk("disk0", limited)
    };
    update.apply(&store, &mut entry).unwrap();
    let read = store.find("web").unwrap().guest;
    assert_eq!(read, entry.guest);
    let disk = &read.config.disk[0];
    assert_eq!((disk.iops, disk.iops_burst), (Some(500), None));
    assert_eq!(disk.bandwidth, Bandwidth::new(1_000_000));
    let net = &read.config.net[0];
    assert_eq!((net.link, net.send.packets, net.send.bandwidth), (LinkState::Down, Some(7), None));
    assert_eq!(read.config.balloon.unwrap().target, Size::from_mib(16));
    assert_eq!((read.restart, read.labels["tier"].as_str()), (Restart::Always, "front"));
}

#[test]
fn zero_lifts_a_limit_and_what_is_left_out_stays() {
    let (_folder, store, mut entry) = guest(false);
    let only = LimitsUpdate { operations_per_second: Some(0), ..LimitsUpdate::default() };
    let update = disk("disk0", DiskUpdate { size: None, limits: Some(only) });
    update.apply(&store, &mut entry).unwrap();
    assert_eq!(entry.guest.config.disk[0].iops, None);
    let bytes = LimitsUpdate { bytes_per_second: Some(5), ..LimitsUpdate::default() };
    let net = NetUpdate { receive: Some(bytes), ..NetUpdate::default() };
    let update = Update { nets: vec![("net0".parse().unwrap(), net)], ..Update::default() };
    update.apply(&store, &mut entry).unwrap();
    let net = &entry.guest.config.net[0];
    assert_eq!((net.link, net.receive.bandwidth), (LinkState::Up, Bandwidth::new(5)));
}

#[test]
fn what_the_hosts_kernel_moves_gets_no_limits() {
    let (_folder, store, mut entry) = guest(false);
    entry.guest.config.net[0].vhost = true;
    entry.save().unwrap();
    let change =
        |update| Update { nets: vec![("net0".parse().unwrap(), update)], ..Update::default() };
    let limited = NetUpdate { send: Some(limits(0, 7)), ..NetUpdate::default() };
    let refused = change(limited).apply(&store, &mut entry).unwrap_err().to_string();
    assert!(refused.contains("`net0` of web") && refused.contains("leave vhost out"), "{refused}");
    assert_eq!(entry.guest.config.net[0].send.packets, None);
    let link = NetUpdate { link_up: Some(false), ..NetUpdate::default() };
    change(link).apply(&store, &mut entry).unwrap();
}

#[test]
fn a_change_that_cannot_be_is_refused_before_any_other_is_made() {
    let (_folder, store, mut entry) = guest(true);
    let before = entry.guest.clone();
    let size = DiskUpdate { size: Some(1 << 30), limits: None };
    let refusals = [
        (disk("disk0", size), "carve start web"),
        (disk("root", DiskUpdate::default()), "`disk0`"),
        (Update { balloon: Some(Size::from_bytes(5)), ..Update::default() }, "4KiB"),
        (Update { balloon: Some(Size::from_mib(1 << 20)), ..Update::default() }, "smaller"),
        (Update { restart: Some(Restart::Always), ..Update::default() }, "--rm"),
    ];
    for (update, word) in refusals {
        let update = Update {
            disks: [(
                "disk0".parse().unwrap(),
                DiskUpdate { limits: Some(limits(1, 1)), size: None },
            )]
            .into_iter()
            .chain(update.disks)
            .collect(),
            ..update
        };
        let refused = update.apply(&store, &mut entry).unwrap_err().to_string();
        assert!(refused.contains("web") && refused.contains(word), "{refused}");
        assert_eq!(store.find("web").unwrap().guest, before);
    }
}
