//! Disks as users name them: what is opened, what is refused and with which words, who is kept out.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::Command;

use devices::virtio::VirtioDevice;
use devices::virtio::test_driver::{Driver, Part};
use resources::config::{DiskFormat, Overlay};
use tempfile::TempDir;

use super::*;

const MIB: u64 = 1 << 20;

/// A folder with a raw disk of 1 MiB, `disk.img`.
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    file(&folder, "disk.img", MIB);
    folder
}

fn file(folder: &TempDir, name: &str, len: u64) {
    File::create(folder.path().join(name)).unwrap().set_len(len).unwrap();
}

/// The disk in `name`, with further options as on the command line.
fn disk(folder: &TempDir, name: &str) -> (String, Disk) {
    let mut disk: Disk = name.parse().unwrap();
    disk.path = folder.path().join(&disk.path);
    if let Overlay::Keep(path) = &mut disk.overlay {
        *path = folder.path().join(&path);
    }
    (name.to_owned(), disk)
}

fn open(folder: &TempDir, names: &[&str]) -> Result<Disks, Error> {
    Disks::open(&names.iter().map(|name| disk(folder, name)).collect::<Vec<_>>())
}

/// What opening these disks fails with.
#[track_caller]
fn refused(folder: &TempDir, names: &[&str]) -> Error {
    open(folder, names).err().expect("an error")
}

#[track_caller]
fn assert_words(error: &Error, words: &[&str]) {
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "no `{word}` in: {text}");
    }
}

/// A driver of the only disk of `disks`.
fn driver(disks: &Disks) -> Driver<Block> {
    Driver::new(disks.devices().unwrap().remove(0), u64::MAX)
}

fn header(kind: u32, sector: u64) -> Part {
    let sector = sector.to_le_bytes();
    Part::Out([&kind.to_le_bytes()[..], &[0; 4], &sector].concat())
}

#[track_caller]
fn write(driver: &mut Driver<Block>, sector: u64, byte: u8) {
    let parts = [header(1, sector), Part::Out(vec![byte; 512]), Part::In(1)];
    assert_eq!(driver.queues[0].request(&parts), [0]);
}

#[track_caller]
fn read(driver: &mut Driver<Block>, sector: u64) -> u8 {
    let bytes = driver.queues[0].request(&[header(0, sector), Part::In(512), Part::In(1)]);
    assert_eq!((bytes.len(), bytes[512]), (513, 0));
    bytes[0]
}

fn byte_at(folder: &TempDir, name: &str, at: u64) -> u8 {
    let mut byte = [0];
    File::open(folder.path().join(name)).unwrap().read_exact_at(&mut byte, at).unwrap();
    byte[0]
}

/// Whether there is qemu-img, which has then made what was asked for.
fn qemu_img(folder: &Path, arguments: &str) -> bool {
    let run = Command::new("qemu-img").args(arguments.split(' ')).current_dir(folder).output();
    let Ok(output) = run else {
        println!("skipped: there is no qemu-img here");
        return false;
    };
    assert!(output.status.success(), "qemu-img {arguments}: {output:?}");
    true
}

#[test]
fn a_disk_outlives_its_devices() {
    let folder = folder();
    let disks = open(&folder, &["disk.img,serial=abc,queues=2,block_size=4096"]).unwrap();
    assert!(
        disks.names().all(|name| disks.named(name).is_none()) && disks.named("other").is_none()
    );
    let mut first = driver(&disks);
    assert_eq!(first.queues.len(), 2);
    write(&mut first, 3, 7);
    disks.named(disks.names().next().unwrap()).unwrap().grow(2 * MIB).unwrap();
    drop(first);
    let mut second = driver(&disks);
    assert_eq!(read(&mut second, 3), 7);
    write(&mut second, 4095, 8);
    drop((second, disks));
    open(&folder, &["disk.img"]).unwrap();
    assert_eq!(byte_at(&folder, "disk.img", 2 * MIB - 1), 8);
}

#[test]
fn what_cannot_be_a_disk_is_refused_with_a_remedy() {
    let folder = folder();
    file(&folder, "empty", 0);
    file(&folder, "ragged", 1000);
    file(&folder, "odd", 4096 + 512);
    fs::write(folder.path().join("not.qcow2"), b"QFI\xfb and so on").unwrap();
    symlink("/dev/null", folder.path().join("null")).unwrap();
    for (name, words) in [
        ("none.img", &["none.img", "does not exist", "truncate -s"][..]),
        (".", &["is a folder"]),
        ("null", &["character device"]),
        ("empty", &["is empty"]),
        ("ragged", &["1000 bytes", "truncate -s %512"]),
        ("odd,block_size=4096", &["4608 bytes", "blocks of 4096"]),
        ("disk.img,format=qcow2", &["format=raw"]),
        ("not.qcow2", &["format=raw"]),
        ("disk.img,overlay=none/over.qcow2", &["over.qcow2", "folder exists"]),
        ("disk.img,overlay=ragged", &["ragged", "qcow2"]),
        ("none.img,overlay=discard", &["none.img", "does not exist"]),
        ("empty,overlay=discard", &["is empty"]),
    ] {
        let error = refused(&folder, &[name]);
        assert_eq!(error.disk, name);
        assert_words(&error, words);
    }
    assert!(!folder.path().join("over.qcow2").exists());
}

#[test]
fn a_file_has_one_writer_or_any_number_of_readers() {
    let folder = folder();
    fs::hard_link(folder.path().join("disk.img"), folder.path().join("link.img")).unwrap();
    symlink("disk.img", folder.path().join("soft.img")).unwrap();
    let [writer, reader, overlay] = ["disk.img", "link.img,readonly", "soft.img,overlay=discard"];
    for (first, second, allowed) in [
        (writer, "link.img", false),
        (writer, reader, false),
        (writer, overlay, false),
        (reader, writer, false),
        (overlay, writer, false),
        (reader, "disk.img,readonly", true),
        (reader, overlay, true),
        (overlay, overlay, true),
    ] {
        // One VM.
        let both = open(&folder, &[first, second]);
        assert_eq!(both.is_ok(), allowed, "{first} and {second}");
        if let Err(error) = both {
            assert!(matches!(&error.problem, Problem::Twice(other) if other == first), "{error}");
        }
        // Two VMs, and one after the other, the device still there.
        let one = open(&folder, &[first]).unwrap();
        let other = open(&folder, &[second]);
        assert_eq!(other.is_ok(), allowed, "{first} and {second}");
        let device = one.devices().unwrap();
        drop((one, other));
        assert_eq!(open(&folder, &[second]).is_ok(), allowed);
        drop(device);
        assert!(open(&folder, &[second]).is_ok());
    }
}

#[test]
fn qemu_and_its_locks_are_respected_and_the_other_way_round() {
    let folder = folder();
    let qemu = |arguments: &str| {
        let mut command = Command::new("qemu-io");
        command.args(["-f", "raw"]).args(arguments.split(' ')).arg("disk.img");
        command.current_dir(folder.path()).output().map(|output| output.status.success())
    };
    let Ok(true) = qemu("-r -c quit") else {
        println!("skipped: there is no qemu-io here");
        return;
    };
    let reader = open(&folder, &["disk.img,readonly"]).unwrap();
    assert!(qemu("-r -c quit").unwrap() && !qemu("-c quit").unwrap());
    drop(reader);
    let writer = open(&folder, &["disk.img"]).unwrap();
    assert!(!qemu("-r -c quit").unwrap() && !qemu("-c quit").unwrap());
    drop(writer);

    for (mode, reader_allowed) in [("-r", true), ("-n", false)] {
        let mut child = Command::new("qemu-io")
            .args(["-f", "raw", mode, "disk.img"])
            .current_dir(folder.path())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // Its prompt: the disk is open.
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        assert_words(&refused(&folder, &["disk.img"]), &["in use by another process"]);
        let reader = open(&folder, &["disk.img,readonly"]);
        assert_eq!(reader.is_ok(), reader_allowed);
        drop(child.stdin.take());
        child.wait().unwrap();
    }
    assert!(open(&folder, &["disk.img"]).is_ok());
}

#[test]
fn a_discarded_overlay_leaves_no_trace_but_lasts_over_a_reset() {
    let folder = folder();
    for _ in 0..2 {
        let disks = open(&folder, &["disk.img,overlay=discard"]).unwrap();
        let mut first = driver(&disks);
        assert_eq!(read(&mut first, 9), 0);
        write(&mut first, 9, 1);
        drop(first);
        assert_eq!(read(&mut driver(&disks), 9), 1);
        assert_eq!(byte_at(&folder, "disk.img", 9 * 512), 0);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_kept_overlay_is_found_again_and_fits_no_other_disk() {
    let folder = folder();
    file(&folder, "other.img", MIB);
    let name = "disk.img,overlay=over.qcow2";
    for round in 0..3 {
        let disks = open(&folder, &[name]).unwrap();
        let mut driver = driver(&disks);
        assert_eq!(read(&mut driver, 9), round);
        write(&mut driver, 9, round + 1);
        assert!(matches!(refused(&folder, &[name]).problem, Problem::WriteLocked));
    }
    assert_eq!(byte_at(&folder, "disk.img", 9 * 512), 0);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    let error = refused(&folder, &["other.img,overlay=over.qcow2"]);
    assert_words(&error, &["not an overlay of this disk", "disk.img"]);
    assert_words(&refused(&folder, &["disk.img,format=qcow2,overlay=over.qcow2"]), &["raw"]);
    assert_words(&refused(&folder, &["over.qcow2"]), &["disk.img", "format=qcow2"]);
    assert!(open(&folder, &["over.qcow2,format=qcow2,readonly"]).is_ok());
    qemu_img(folder.path(), "check -q over.qcow2");
}

#[test]
fn images_are_followed_to_their_bases_only_when_asked_to() {
    let folder = folder();
    if !qemu_img(folder.path(), "create -q -f qcow2 -b disk.img -F raw middle.qcow2") {
        return;
    }
    qemu_img(folder.path(), "create -q -f qcow2 -b middle.qcow2 -F qcow2 top.qcow2");
    qemu_img(folder.path(), "create -q -f qcow2 alone.qcow2 1M");
    let disk = File::options().write(true).open(folder.path().join("disk.img")).unwrap();
    disk.write_all_at(&[5; 512], 1024).unwrap();
    assert!(open(&folder, &["alone.qcow2"]).is_ok());
    assert_words(&refused(&folder, &["top.qcow2"]), &["middle.qcow2", "format=qcow2"]);
    let disks = open(&folder, &["top.qcow2,format=qcow2"]).unwrap();
    assert_eq!(read(&mut driver(&disks), 2), 5);
    // All of the chain is in use.
    assert!(matches!(refused(&folder, &["disk.img"]).problem, Problem::WriteLocked));
    assert!(open(&folder, &["middle.qcow2,format=qcow2,readonly"]).is_ok());
    let both = ["top.qcow2,format=qcow2", "disk.img"];
    drop(disks);
    assert!(matches!(refused(&folder, &both).problem, Problem::Twice(_)));
    // An overlay on a chain.
    let disks = open(&folder, &["top.qcow2,format=qcow2,overlay=discard"]).unwrap();
    assert_eq!(read(&mut driver(&disks), 2), 5);
}

#[test]
fn chains_that_lead_nowhere_are_refused() {
    let folder = folder();
    if !qemu_img(folder.path(), "create -q -f qcow2 -u -b b.qcow2 -F qcow2 a.qcow2 1M") {
        return;
    }
    qemu_img(folder.path(), "create -q -f qcow2 -u -b a.qcow2 -F qcow2 b.qcow2 1M");
    qemu_img(folder.path(), "create -q -f qcow2 -u -b gone.img -F raw c.qcow2 1M");
    qemu_img(folder.path(), "create -q -f qcow2 -u -b nbd:localhost:1 -F raw d.qcow2 1M");
    qemu_img(folder.path(), "create -q -f qcow2 -u -b disk.img -F vmdk e.qcow2 1M");
    let refused = |name: &str| refused(&folder, &[&format!("{name},format=qcow2,readonly")]);
    assert!(matches!(refused("a.qcow2").problem, Problem::BackingChain(_)));
    assert_words(&refused("c.qcow2"), &["gone.img does not exist"]);
    assert_words(&refused("d.qcow2"), &["nbd:localhost:1"]);
    assert_words(&refused("e.qcow2"), &["vmdk"]);
}

#[test]
fn limits_and_format_come_from_the_configuration() {
    let folder = folder();
    let (name, mut disk) = disk(&folder, "disk.img,iops=100,bandwidth=10MB");
    disk.format = DiskFormat::Raw;
    let disks = Disks::open(&[(name, disk)]).unwrap();
    let device = disks.devices().unwrap().remove(0);
    assert_eq!(device.queue_sizes(), [256]);
    let handle = disks.named(disks.names().next().unwrap()).unwrap();
    let limits = handle.limits().get();
    assert_eq!(limits.operations.map(|rate| rate.per_second), Some(100));
    assert_eq!(limits.bandwidth.map(|rate| rate.per_second), Some(10_000_000));
}
