//! Changing guests while they run and counting what they do, with guests of a few instructions on this
//! host's own KVM.
#![allow(clippy::unwrap_used, unsafe_code, missing_docs)]

mod support;

use std::time::{Duration, Instant};

use support::inside::Guest;
use support::payload;
use vmm::api::types::{
    BalloonUpdate, ConsoleSize, DiskUpdate, LimitsUpdate, NetUpdate, Statistics,
};
use vmm::{End, Notice};

const MIB: u64 = 1 << 20;

/// A guest that writes to the disk `data` all the time, and the disk.
fn writer() -> (Guest, tempfile::NamedTempFile) {
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(MIB).unwrap();
    let config = format!("[balloon]\n[disk.data]\npath = {:?}\n", disk.path());
    let mut guest = Guest::start(payload::disk_pci(), &config);
    guest.wait_for(|output| output.contains('.').then_some(()));
    (guest, disk)
}

fn size(size: u64) -> DiskUpdate {
    DiskUpdate { size: Some(size), ..DiskUpdate::default() }
}

support::kvm_tests! {
    fn a_disk_grows_while_it_is_written_and_while_the_guest_is_paused() {
        let (mut guest, disk) = writer();
        guest.change("disks/data", &size(2 * MIB)).unwrap();
        guest.order("pause");
        guest.change("disks/data", &size(3 * MIB)).unwrap();
        guest.order("resume");
        assert_eq!(disk.as_file().metadata().unwrap().len(), 3 * MIB);
        assert_eq!(guest.get::<Statistics>("stats").disks["data"].size, 3 * MIB);
        let updated = guest.notices().into_iter().find(|notice| matches!(notice, Notice::Updated(_)));
        assert_eq!(updated, Some(Notice::Updated("disk data: size 2097152".to_owned())));
        guest.send(b"q");
        assert_eq!(guest.finish().0, End::PoweredOff);
    }

    fn what_cannot_be_is_refused_by_name_and_changes_nothing() {
        let (mut guest, disk) = writer();
        let shrunk = guest.change("disks/data", &size(MIB / 2)).unwrap_err();
        assert!(shrunk.status == 422 && shrunk.detail.contains("`data`"), "{shrunk:?}");
        let ragged = guest.change("disks/data", &size(2 * MIB + 1)).unwrap_err();
        assert_eq!(ragged.status, 422);
        let nothing = guest.change("disks/data", &DiskUpdate::default()).unwrap_err();
        assert!(nothing.detail.contains("size or limits"), "{nothing:?}");
        let unknown = guest.change("disks/root", &size(MIB)).unwrap_err();
        assert!(unknown.status == 404 && unknown.detail.contains("`data`"), "{unknown:?}");
        let link = NetUpdate { link_up: Some(false), ..NetUpdate::default() };
        assert_eq!(guest.change("nets/lan", &link).unwrap_err().status, 404);
        let all = BalloonUpdate { target: 1 << 40 };
        assert_eq!(guest.change("balloon", &all).unwrap_err().status, 422);
        assert_eq!(disk.as_file().metadata().unwrap().len(), MIB);
        assert_eq!(guest.notices(), [Notice::Started]);
    }

    fn a_limit_holds_from_when_it_is_set_until_it_is_lifted() {
        let (mut guest, _disk) = writer();
        let limited = |operations| LimitsUpdate { operations_per_second: Some(operations), ..LimitsUpdate::default() };
        let change = |operations| DiskUpdate { limits: Some(limited(operations)), ..DiskUpdate::default() };
        let writes = |guest: &mut Guest| guest.get::<Statistics>("stats").disks["data"].writes;
        guest.change("disks/data", &change(200)).unwrap();
        let (before, start) = (writes(&mut guest), Instant::now());
        std::thread::sleep(Duration::from_secs(1));
        let (after, most) = (writes(&mut guest), start.elapsed().as_secs_f64() * 200.0 + 50.0);
        #[allow(clippy::cast_precision_loss)]
        let done = (after - before) as f64;
        assert!(done > 50.0 && done < most, "{done} writes of {most}");
        guest.change("disks/data", &change(0)).unwrap();
        guest.take_output();
        guest.wait_for(|output| (output.matches('.').count() > 8).then_some(()));
    }

    fn a_balloons_target_is_told_and_a_console_has_a_size() {
        let (mut guest, _disk) = writer();
        guest.change("balloon", &BalloonUpdate { target: 16 * MIB }).unwrap();
        let memory = guest.get::<Statistics>("stats").memory;
        assert_eq!((memory.size, memory.balloon_target, memory.balloon), (128 * MIB, 16 * MIB, 0));
        guest.put("console/size", &ConsoleSize { columns: 100, rows: 30 });
    }

    fn what_a_guest_does_is_counted_over_resets() {
        let (mut guest, _disk) = writer();
        let first = guest.get::<Statistics>("stats");
        assert!(first.vcpus.len() == 1 && first.vcpus[0].exits > 0 && first.vcpus[0].cpu_time > 0);
        let disk = &first.disks["data"];
        assert!(disk.writes >= 256 && disk.errors == 0, "{disk:?}");
        let queue = &disk.queues[0];
        assert_eq!(queue.written_bytes, queue.writes * 512);
        assert_eq!(queue.latency.iter().sum::<u64>(), queue.writes);
        assert!(first.memory.resident > 0 && first.cpu_time >= first.vcpus[0].cpu_time / 2);
        guest.take_output();
        guest.order("reset");
        guest.wait_for(|output| output.contains('.').then_some(()));
        let second = guest.get::<Statistics>("stats");
        assert!(second.disks["data"].writes >= disk.writes + 256);
        assert!(second.vcpus[0].cpu_time > first.vcpus[0].cpu_time);
        assert!(second.vcpus[0].exits > first.vcpus[0].exits);
    }
}
