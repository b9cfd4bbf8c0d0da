//! Guests that boot from disks and work on them. Runs on a KVM host (`cargo xtask host`).
#![allow(clippy::unwrap_used, unsafe_code, missing_docs)]

mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::disks::{Fio, Scratch, fio};
use support::guests::{BOOT, DEFAULT, Guest, LONG, assert_clean, root_image, value};
use support::rates::assert_limits;
use support::{socket_of, tool};
use vmm::api::client::Client;
use vmm::api::types::{DiskStatistics, Statistics};

const MIB: u64 = 1 << 20;

/// Writes `pattern` over the whole of `/dev/vdb` of 8 MiB.
const FILL: &str = "yes pattern | head -c 8M | dd of=/dev/vdb bs=1M iflag=fullblock oflag=direct conv=fsync 2>&1 || echo bad=fill";

/// What [`FILL`] leaves.
fn filled() -> Vec<u8> {
    b"pattern\n".repeat(1 << 20)
}

/// A Debian with another disk, as `/dev/vdb`.
fn on(transport: &str, disk: &str) -> Guest {
    Guest::debian(DEFAULT, "ext4").with(disk).with(&format!("--transport {transport}"))
}

#[track_caller]
fn boots_from(id: &str, kind: &str, file_system: &str) {
    let script =
        "echo debian=$(cat /etc/debian_version); echo type=$(findmnt -no FSTYPE /); fio --version";
    let log = Guest::debian(id, kind).run(script).expect(0).text();
    assert!(value(&log, "debian").starts_with("12"), "{log}");
    assert_eq!(value(&log, "type"), file_system);
    assert!(log.contains("fio-3"), "{log}");
}

macro_rules! boots_from {
    ($($name:ident: $id:literal, $kind:literal, $file_system:literal;)+) => {
        $(#[test] fn $name() { boots_from($id, $kind, $file_system); })+
    };
}

// Every kernel from one image, and every image with one kernel.
boots_from! {
    debian_6_1_cloud_boots_from_ext4: "debian-6.1-cloud", "ext4", "ext4";
    debian_6_1_boots_from_ext4: "debian-6.1", "ext4", "ext4";
    debian_6_12_cloud_boots_from_ext4: "debian-6.12-cloud", "ext4", "ext4";
    debian_6_12_boots_from_ext4: "debian-6.12", "ext4", "ext4";
    debian_6_12_cloud_boots_from_btrfs: "debian-6.12-cloud", "btrfs", "btrfs";
    debian_6_1_cloud_boots_from_qcow2: "debian-6.1-cloud", "qcow2", "ext4";
}

#[track_caller]
fn writes_and_reads(transport: &str) {
    let disk = Scratch::raw(8 * MIB);
    let file = fs::File::options().write(true).open(disk.path()).unwrap();
    file.write_all_at(b"found=here\n", 5 * MIB + 512).unwrap();
    let script = format!(
        "dd if=/dev/vdb bs=512 skip={} count=1 2>/dev/null | head -1; {FILL}",
        (5 * MIB + 512) / 512
    );
    let log = on(transport, &disk.argument("")).run(&script).expect(0).text();
    assert_eq!(value(&log, "found"), "here");
    assert!(!log.contains("bad="), "{log}");
    assert_eq!(fs::read(disk.path()).unwrap(), filled());
}

/// Reads what Carve counts of the second disk of the guest `name`, and since when.
#[track_caller]
fn counters(name: &str) -> impl FnMut() -> (Duration, DiskStatistics) {
    let mut client = Client::connect(&socket_of(name)).unwrap();
    move || {
        let mut all: Statistics = client.get("/v1/stats").unwrap();
        (Duration::from_millis(all.uptime), all.disks.remove("disk1").unwrap())
    }
}

/// Options of fio that have as many jobs, each on a vCPU and so on a queue of its own.
fn jobs(count: u64) -> String {
    format!(
        "--numjobs={count} --group_reporting --cpus_allowed=0-{} --cpus_allowed_policy=split",
        count - 1
    )
}

/// Random writes of mixed sizes by way of each queue, read back with checksums: one request at a time, and 32.
#[track_caller]
fn verifies(transport: &str, disk: &Scratch, options: &str, queues: u64) {
    let options = format!("{options},queues={queues}");
    let guest =
        on(transport, &disk.argument(&options)).with(&format!("--cpus {queues} --name verifies"));
    let sizes = [(1, 4), (32, 24)];
    let script = sizes.map(|(depth, mib)| {
        let (each, jobs) = (mib / queues, jobs(queues));
        let job = format!("--iodepth={depth} --rw=randwrite --bsrange=4k-64k --size={each}m --offset_increment={each}m {jobs}");
        fio("/dev/vdb", &job)
    });
    let mut running =
        guest.start(Some(&format!("{}; echo verified; read line", script.join("; "))));
    running.wait_for("verified", BOOT);
    let (_, counted) = counters("verifies")();
    running.send(b"\n");
    let log = running.finish(BOOT).expect(0).text();
    assert_clean(&log);
    let done = Fio::all(&log);
    assert_eq!(done.len(), 2);
    for (done, (_, mib)) in done.into_iter().zip(sizes) {
        assert!(done.written >= mib << 10 && done.read >= done.written, "{done:?}");
    }
    let used = counted.queues.iter().filter(|queue| queue.writes > 0 && queue.reads > 0);
    assert_eq!(used.count() as u64, queues, "{counted:?}");
}

#[track_caller]
fn keeps_qcow2_sound(transport: &str) {
    let disk = Scratch::qcow2("32M", "cluster_size=64k");
    verifies(transport, &disk, ",format=qcow2", 1);
    tool(&format!("qemu-img check -q {}", disk.path().display()));
}

/// Has a guest write to the file system that it runs from, one request at a time and 32, until its VMM is killed. The
/// checker of the file system puts up with what is left, and the next guest finds every file that was synced.
#[track_caller]
fn root_survives(id: &str, kind: &str, [repair, check]: [&str; 2], options: &str, arguments: &str) {
    let disk = Scratch::copy(root_image(kind));
    let guest = Guest::new(id).with(&disk.argument(options)).with(arguments);
    let guest = guest.cmdline("root=/dev/vda rw init=/bin/carve-test");
    let script = [("one", 1, 2), ("many", 32, 16)].map(|(name, depth, mib)| {
        fio(
            &format!("/root/{name}"),
            &format!("--iodepth={depth} --rw=randwrite --bs=4k --size={mib}m"),
        )
    });
    let script = format!(
        "{}; cd /root; md5sum one many >sums; sync; echo kept=yes; \
         fio --name=noise --filename=noise --direct=1 --rw=randwrite --size=32m --fsync=8 --loops=1000 >/dev/null",
        script.join("; ")
    );
    let mut running = guest.start(Some(&script));
    running.wait_for_count("fio=", 2, LONG);
    let done = Fio::all(&running.wait_for("kept=yes", LONG));
    assert_eq!(done.iter().map(|done| done.written).collect::<Vec<_>>(), [2 << 10, 16 << 10]);
    std::thread::sleep(Duration::from_secs(2));
    running.signal(libc::SIGKILL);
    running.finish(LONG);
    let repaired = Command::new("sh").args(["-c", repair, "sh"]).arg(disk.path()).output().unwrap();
    assert!(repaired.status.success(), "{repaired:?}");
    let script = "cd /root; md5sum -c sums >/dev/null && echo whole=yes; cd /; sync; mount -o remount,ro / && echo clean=yes";
    let log = guest.run(script).expect(0).text();
    assert_eq!((value(&log, "whole"), value(&log, "clean")), ("yes", "yes"), "{log}");
    tool(&format!("{check} {}", disk.path().display()));
}

#[test]
fn a_root_on_ext4_survives_the_death_of_carve() {
    // It gives up at what more than the journal is needed for; 1 is that it has replayed that.
    let check = ["e2fsck -fp \"$1\"; test $? -le 1", "e2fsck -fn"];
    root_survives("debian-6.1-cloud", "ext4", check, "", "--transport pci");
    let many = "--transport mmio --cpus 4";
    root_survives("debian-6.1-cloud", "ext4", check, ",queues=4", many);
}

#[test]
fn a_root_on_btrfs_survives_the_death_of_carve() {
    let check = ["btrfs check --readonly \"$1\"", "btrfs check --readonly"];
    root_survives("debian-6.12-cloud", "btrfs", check, "", "--transport mmio");
    let many = "--transport pci --cpus 4";
    root_survives("debian-6.12-cloud", "btrfs", check, ",queues=4", many);
}

#[test]
fn an_overlay_takes_the_writes_and_has_them_the_next_time() {
    let disk = Scratch::raw(8 * MIB);
    let overlay = disk.beside("overlay.qcow2");
    let guest = Guest::debian(DEFAULT, "ext4")
        .with(&disk.argument(&format!(",overlay={}", overlay.display())));
    guest.run(FILL).expect(0);
    assert_eq!(disk.allocated(), 0, "the disk itself was written");
    let log = guest.run("yes pattern | head -c 8M | cmp - /dev/vdb && echo same=yes");
    assert_eq!(value(&log.expect(0).text(), "same"), "yes");
    tool(&format!("qemu-img check -q {}", overlay.display()));
}

#[test]
fn a_discarded_overlay_leaves_the_disk_as_it_was() {
    let disk = Scratch::raw(8 * MIB);
    let guest = Guest::debian(DEFAULT, "ext4").with(&disk.argument(",overlay=discard"));
    let script =
        format!("{FILL}; dd if=/dev/vdb bs=1M iflag=direct 2>/dev/null | md5sum | sed 's/^/sum=/'");
    let log = guest.run(&script).expect(0).text();
    let expected = disk.beside("expected");
    fs::write(&expected, filled()).unwrap();
    let sum = tool(&format!("md5sum {}", expected.display()));
    assert_eq!(value(&log, "sum").split(' ').next(), sum.split(' ').next());
    assert_eq!(disk.allocated(), 0);
}

#[test]
fn a_readonly_disk_takes_no_writes() {
    let disk = Scratch::raw(8 * MIB);
    let script =
        "echo ro=$(blockdev --getro /dev/vdb); echo x > /dev/vdb && echo bad=written; true";
    let guest = Guest::debian(DEFAULT, "ext4").with(&disk.argument(",readonly"));
    let log = guest.run(script).expect(0).text();
    assert_eq!(value(&log, "ro"), "1");
    assert!(!log.contains("bad="), "{log}");
    assert_eq!(disk.allocated(), 0);
}

#[track_caller]
fn discards(transport: &str) {
    for disk in [Scratch::raw(8 * MIB), Scratch::qcow2("8M", "cluster_size=64k")] {
        let guest = on(transport, &disk.argument(""));
        let script = format!(
            "{FILL}; blkdiscard -o 1M -l 6M /dev/vdb || echo bad=discard; blkdiscard -z -o 7M -l 1M /dev/vdb || echo bad=zero; \
             echo zeros=$(dd if=/dev/vdb bs=1M skip=1 iflag=direct 2>/dev/null | tr -d '\\0' | wc -c)"
        );
        let log = guest.run(&script).expect(0).text();
        assert!(!log.contains("bad="), "{log}");
        assert_eq!(value(&log, "zeros"), "0");
        assert!(disk.allocated() < 3 * MIB, "{} of {:?} left", disk.allocated(), disk.path());
    }
}

support::on_pci_and_mmio! {
    what_the_guest_writes_is_in_the_file_and_what_is_in_the_file_it_reads: writes_and_reads();
    fio_reads_back_what_it_wrote_to_a_raw_disk: verifies(&Scratch::raw(32 * MIB), "", 1);
    fio_reads_back_what_it_wrote_through_four_queues:
        verifies(&Scratch::raw(32 * MIB), ",queue_size=64", 4);
    fio_reads_back_what_it_wrote_to_a_qcow2_image_that_stays_sound: keeps_qcow2_sound();
    discarded_blocks_give_their_room_back_to_the_host: discards();
}

#[test]
fn a_file_system_trims_what_was_deleted() {
    let disk = Scratch::raw(64 * MIB);
    let script = "mkfs.ext4 -q -O ^has_journal /dev/vdb; mkdir /tmp/m; mount /dev/vdb /tmp/m; \
        head -c 24M /dev/urandom > /tmp/m/file; sync; rm /tmp/m/file; sync; fstrim -v /tmp/m; umount /tmp/m && echo done=yes";
    let guest = Guest::debian(DEFAULT, "ext4").with(&disk.argument(""));
    let log = guest.run(script).expect(0).text();
    assert_eq!(value(&log, "done"), "yes");
    assert!(disk.allocated() < 8 * MIB, "{} bytes left: {log}", disk.allocated());
}

#[test]
fn the_guest_sees_serial_number_block_size_and_queues() {
    let disk = Scratch::raw(8 * MIB);
    let options = ",serial=the-data-disk,block_size=4096,queues=2";
    let guest = Guest::debian(DEFAULT, "ext4").with(&disk.argument(options)).with("--cpus 2");
    let script = "cd /sys/block/vdb; echo serial=$(cat serial); echo block=$(cat queue/logical_block_size); \
        echo queues=$(ls mq | wc -l); echo sectors=$(cat size)";
    let log = guest.run(script).expect(0).text();
    let found = ["serial", "block", "queues", "sectors"].map(|key| value(&log, key));
    assert_eq!(found, ["the-data-disk", "4096", "2", "16384"]);
}

#[test]
fn twelve_disks_are_found_in_the_order_they_were_given() {
    let disks: Vec<_> = (1..=12).map(|mib| Scratch::raw(mib * MIB)).collect();
    let guest =
        disks.iter().fold(Guest::debian(DEFAULT, "ext4"), |g, disk| g.with(&disk.argument("")));
    let script = "for d in b c d e f g h i j k l m; do echo vd$d=$(($(cat /sys/block/vd$d/size) / 2048)); done";
    let log = guest.run(script).expect(0).text();
    for (mib, letter) in (1..=12).zip('b'..) {
        assert_eq!(value(&log, &format!("vd{letter}")), mib.to_string());
    }
}

#[test]
fn what_was_synced_survives_the_death_of_carve() {
    for disk in [Scratch::raw(64 * MIB), Scratch::qcow2("64M", "cluster_size=64k")] {
        let guest = Guest::debian(DEFAULT, "ext4").with(&disk.argument(""));
        let script = "mkfs.ext4 -q /dev/vdb; mkdir /tmp/m; mount /dev/vdb /tmp/m; echo kept > /tmp/m/file; sync; echo synced=yes; \
            while :; do head -c 1M /dev/urandom > /tmp/m/noise; done";
        let mut running = guest.start(Some(script));
        running.wait_for("synced=yes", BOOT);
        running.signal(libc::SIGKILL);
        running.finish(BOOT);
        let check = "mkdir /tmp/m; mount /dev/vdb /tmp/m && echo file=$(cat /tmp/m/file); umount /tmp/m; e2fsck -fn /dev/vdb >/tmp/log && echo sound=yes";
        let log = guest.run(check).expect(0).text();
        assert_eq!((value(&log, "file"), value(&log, "sound")), ("kept", "yes"), "{log}");
    }
}

/// Has a guest fill a disk of 8 MiB that is in a file system with less room, until there is more.
#[track_caller]
fn survives_a_full_host(disk: &Scratch) {
    let script = format!(
        "w() {{ yes pattern | head -c $1 | dd of=/dev/vdb bs=64k iflag=fullblock oflag=direct conv=fsync 2>/tmp/said; }}; \
         r() {{ yes pattern | head -c $1 | cmp -n $1 - /dev/vdb; }}; \
         w 2M || echo bad=before; w 8M && echo bad=full; echo told=$(sed -n 's/.*dd.*: //p' /tmp/said); \
         echo 1 > /proc/sys/vm/drop_caches; r 2097152 && echo before=kept; dd if=/dev/vdb of=/dev/null bs=1M iflag=direct || echo bad=read; \
         echo full; read line; {FILL}; r 8388608 && echo after=kept"
    );
    let mut guest = Guest::debian(DEFAULT, "ext4").with(&disk.argument("")).start(Some(&script));
    guest.wait_for("\nfull", BOOT);
    disk.make_room_for(32 * MIB);
    guest.send(b"\n");
    let log = guest.finish(BOOT).expect(0).text();
    assert_clean(&log);
    assert!(!log.contains("bad="), "{log}");
    assert_eq!(value(&log, "told"), "Input/output error");
    assert_eq!((value(&log, "before"), value(&log, "after")), ("kept", "kept"));
}

#[test]
fn a_full_host_costs_a_sparse_disk_what_cannot_be_written_and_nothing_else() {
    let disk = Scratch::raw(8 * MIB).in_room_for(5 * MIB);
    survives_a_full_host(&disk);
    assert!(fs::read(disk.path()).unwrap() == filled(), "the file has something else");
}

#[test]
fn a_full_host_leaves_a_qcow2_image_sound() {
    let disk = Scratch::qcow2("8M", "cluster_size=64k").in_room_for(5 * MIB);
    survives_a_full_host(&disk);
    tool(&format!("qemu-img check {}", disk.path().display()));
    let plain = disk.beside("plain");
    tool(&format!("qemu-img convert -O raw {} {}", disk.path().display(), plain.display()));
    assert!(fs::read(plain).unwrap() == filled(), "the image has something else");
}

/// A guest keeps both queues of a disk busy, which together do what the limit says.
#[track_caller]
fn is_limited(
    options: &str,
    job: &str,
    limit: (&str, u64),
    count: impl Fn(&DiskStatistics) -> u64,
) {
    let disk = Scratch::raw(16 * MIB);
    let guest = Guest::debian(DEFAULT, "ext4").with(&disk.argument(&format!("{options},queues=2")));
    let script = format!(
        "fio --name=busy --thread --filename=/dev/vdb --direct=1 --ioengine=libaio --time_based --runtime=600 {} {job} >/dev/null & \
         echo busy=yes; read line; kill %1",
        jobs(2)
    );
    let mut running = guest.with("--cpus 2 --name limited").start(Some(&script));
    running.wait_for("busy=yes", BOOT);
    let mut read = counters("limited");
    assert_limits([limit], || {
        let (time, disk) = read();
        (time, [count(&disk)])
    });
    let (_, disk) = read();
    assert!(disk.queues.iter().all(|queue| queue.reads > 0 && queue.writes > 0), "{disk:?}");
    running.send(b"\n");
    assert_clean(&running.finish(BOOT).expect(0).text());
}

#[test]
fn all_queues_together_serve_as_many_requests_a_second_as_the_limit_says() {
    let job = "--rw=randrw --bs=4k --iodepth=16";
    let count = |disk: &DiskStatistics| disk.reads + disk.writes + disk.flushes;
    is_limited(",iops=100", job, ("requests", 100), count);
}

#[test]
fn all_queues_together_move_as_many_bytes_a_second_as_the_limit_says() {
    let job = "--rw=randrw --bsrange=4k-256k --iodepth=8";
    let options = ",bandwidth=2MB/s,bandwidth_burst=512KiB";
    let count = |disk: &DiskStatistics| disk.read_bytes + disk.written_bytes;
    is_limited(options, job, ("bytes", 2_000_000), count);
}

#[test]
fn two_guests_share_a_disk_only_if_neither_writes() {
    let disk = Scratch::raw(8 * MIB);
    let reader = Guest::new(DEFAULT).with(&disk.argument(",readonly"));
    let writer = Guest::new(DEFAULT).with(&disk.argument(""));
    let mut first = reader.start(Some("read line"));
    first.wait_for("carve-guest: ready", BOOT);
    reader.run("true").expect(0);
    let mut second = writer.start(Some("true"));
    second.close_input();
    let refused = second.finish(BOOT).expect(125);
    assert!(refused.stderr.contains(&file_name(disk.path())), "{}", refused.stderr);
    first.send(b"\n");
    first.finish(BOOT).expect(0);
    writer.run("true").expect(0);
}

#[test]
fn a_disk_that_the_host_enlarges_grows_in_the_running_guest() {
    let disk = Scratch::raw(8 * MIB);
    let script = "echo before=$(cat /sys/block/vda/size); echo grow; \
        for i in $(seq 600); do [ $(cat /sys/block/vda/size) = 16384 ] || break; sleep 0.1; done; \
        echo after=$(cat /sys/block/vda/size); echo end | dd of=/dev/vda bs=512 seek=32767 conv=sync 2>/dev/null || echo bad=write; sync";
    let mut guest = Guest::new(DEFAULT).with(&disk.argument("")).start(Some(script));
    guest.wait_for("grow", BOOT);
    fs::File::options().write(true).open(disk.path()).unwrap().set_len(16 * MIB).unwrap();
    let log = guest.finish(BOOT).expect(0).text();
    assert_clean(&log);
    assert_eq!((value(&log, "before"), value(&log, "after")), ("16384", "32768"));
    assert!(!log.contains("bad="), "{log}");
    let mut last = [0; 4];
    let file = fs::File::open(disk.path()).unwrap();
    file.read_exact_at(&mut last, 16 * MIB - 512).unwrap();
    assert_eq!(&last, b"end\n");
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}
