//! qcow2 images, checked and compared by `qemu-img`.
#![allow(clippy::cast_possible_truncation)] // Sizes chosen by the test, and bytes of a pattern.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;

use super::backend::{Layer, Qcow2Header};
use super::io_test::{check_against_model, steps};
use super::test_disk::*;
use super::*;
use crate::virtio::test_driver::{Driver, Part};

const MIB: usize = 1 << 20;

/// A folder with images made by `qemu-img`.
struct Images(tempfile::TempDir);

impl Images {
    /// None, with the reason printed, where there is no `qemu-img`.
    fn new() -> Option<Self> {
        let found = Command::new("qemu-img").arg("--version").output();
        if found.is_err() {
            println!("skipped: there is no qemu-img here");
            return None;
        }
        Some(Self(tempfile::tempdir().unwrap()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    #[track_caller]
    fn qemu_img(&self, arguments: &str) {
        let output = Command::new("qemu-img")
            .args(arguments.split(' '))
            .current_dir(self.0.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "qemu-img {arguments}: {output:?}");
    }

    fn open(&self, name: &str, writable: bool) -> Qcow2Header {
        Qcow2Header::open(open(&self.path(name), writable), writable, false).unwrap()
    }
}

fn open(path: &Path, writable: bool) -> File {
    OpenOptions::new().read(true).write(writable).open(path).unwrap()
}

fn storage(layer: Layer) -> Arc<dyn Storage> {
    Arc::new(layer.into_storage())
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 512 * 3 + at) as u8).collect()
}

#[test]
fn an_image_of_qemu_is_read_and_written() {
    let Some(images) = Images::new() else { return };
    for options in ["compat=1.1", "compat=0.10", "cluster_size=4k", "lazy_refcounts=on"] {
        images.qemu_img(&format!("create -q -f qcow2 -o {options} disk.qcow2 64M"));
        let storage = storage(images.open("disk.qcow2", true).on(None));
        assert_eq!(storage.capacity(), 64 << 20);
        let mut driver = driver(&storage);
        let queue = &mut driver.queues[0];
        let data = pattern(3 * MIB);
        write(queue, 33, &data);
        assert_eq!(read(queue, 33, data.len()), data);
        assert_eq!(read(queue, 100_000, 4096), [0; 4096]);
        assert_eq!(ranges(queue, DISCARD, &[segment(1000, 1000, 0)]), 0);
        assert_eq!(ranges(queue, WRITE_ZEROES, &[segment(2000, 1000, 1)]), 0);
        assert_eq!(ranges(queue, WRITE_ZEROES, &[segment(3100, 500, 0)]), 0);
        assert_eq!(ask(queue, &[header(FLUSH, 0), Part::In(1)]).0, 0);
        let kept = read(queue, 0, 4 * MIB);
        let at = |sector: usize, sectors: usize| sector * 512..(sector + sectors) * 512;
        assert!(kept[at(2000, 1000)].iter().chain(&kept[at(3100, 500)]).all(|&byte| byte == 0));
        assert_eq!(kept[at(3600, 1000)], data[at(3600 - 33, 1000)]);
        driver.device.quiesce();
        images.qemu_img("check -q disk.qcow2");
        images.qemu_img("convert -f qcow2 -O raw disk.qcow2 disk.raw");
        assert_eq!(std::fs::read(images.path("disk.raw")).unwrap()[..4 * MIB], kept);
    }
}

#[test]
fn an_image_that_does_not_count_its_header_is_not_written_to() {
    let file = memfd(0);
    Layer::create(file.try_clone().unwrap(), 1 << 20, "base", "raw").unwrap();
    let open = |writable| Qcow2Header::open(file.try_clone().unwrap(), writable, false);
    let long = |at| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at).unwrap();
        u64::from_be_bytes(bytes)
    };
    let table = long(48);
    let block = long(table);
    assert!(open(true).is_ok());
    // The first refcount of two bytes, all of the offset of the block it is in, and the number of clusters of the table.
    for (damaged, zeros) in [(block, 2), (table, 8), (56, 4)] {
        let good = long(damaged).to_be_bytes();
        file.write_all_at(&[0; 8][..zeros], damaged).unwrap();
        let error = open(true).unwrap_err().to_string();
        assert!(error.contains("not counted as used"), "{error}");
        assert!(open(false).is_ok());
        file.write_all_at(&good, damaged).unwrap();
    }
    assert!(open(true).is_ok());
}

#[test]
fn a_compressed_image_is_read() {
    let Some(images) = Images::new() else { return };
    std::fs::write(images.path("disk.raw"), pattern(4 * MIB)).unwrap();
    images.qemu_img("convert -c -f raw -O qcow2 disk.raw disk.qcow2");
    let mut driver = driver(&storage(images.open("disk.qcow2", true).on(None)));
    let queue = &mut driver.queues[0];
    assert_eq!(read(queue, 0, 2 * MIB), pattern(4 * MIB)[..2 * MIB]);
    write(queue, 5, &[9; 512]);
    assert_eq!(read(queue, 4, 1024)[512..], [9; 512]);
    driver.device.quiesce();
    images.qemu_img("check -q disk.qcow2");
}

#[test]
fn an_overlay_keeps_its_base_as_it_was() {
    let Some(images) = Images::new() else { return };
    let original = pattern(8 * MIB);
    std::fs::write(images.path("base.raw"), &original).unwrap();
    let base = open(&images.path("base.raw"), false);
    File::create_new(images.path("over.qcow2")).unwrap();
    let file = open(&images.path("over.qcow2"), true);
    Layer::create(file.try_clone().unwrap(), 8 << 20, "base.raw", "raw").unwrap();
    let image = Qcow2Header::open(file, true, false).unwrap();
    assert_eq!(image.backing(), Some(("base.raw", Some("raw"))));
    let storage = storage(image.on(Some(Layer::raw(base, false).unwrap())));
    assert_eq!(storage.capacity(), 8 << 20);
    let mut driver = driver(&storage);
    let queue = &mut driver.queues[0];
    assert_eq!(read(queue, 8, MIB), original[4096..][..MIB]);
    write(queue, 9, &[1; 1024]);
    assert_eq!(ranges(queue, WRITE_ZEROES, &[segment(4000, 2000, 1)]), 0);
    let mut wanted = original.clone();
    wanted[9 * 512..][..1024].fill(1);
    wanted[4000 * 512..][..2000 * 512].fill(0);
    assert!(read(queue, 0, 3 * MIB) == wanted[..3 * MIB]);
    driver.device.quiesce();
    drop(driver);
    drop(storage);
    assert_eq!(std::fs::read(images.path("base.raw")).unwrap(), original);
    images.qemu_img("check -q over.qcow2");
    std::fs::write(images.path("wanted.raw"), &wanted).unwrap();
    images.qemu_img("compare -q -f qcow2 -F raw over.qcow2 wanted.raw");
}

#[test]
fn a_chain_of_three_images_is_one_disk_that_can_grow() {
    let Some(images) = Images::new() else { return };
    std::fs::write(images.path("base.raw"), pattern(2 * MIB)).unwrap();
    images.qemu_img("create -q -f qcow2 -b base.raw -F raw middle.qcow2");
    images.qemu_img("create -q -f qcow2 -b middle.qcow2 -F qcow2 top.qcow2");
    let base = Layer::raw(open(&images.path("base.raw"), false), false).unwrap();
    let middle = images.open("middle.qcow2", false).on(Some(base));
    let top = images.open("top.qcow2", true);
    assert_eq!(top.backing(), Some(("middle.qcow2", Some("qcow2"))));
    let mut driver = driver(&storage(top.on(Some(middle))));
    write(&mut driver.queues[0], 1, &[5; 512]);
    assert_eq!(read(&mut driver.queues[0], 2, MIB), pattern(2 * MIB)[1024..][..MIB]);
    driver.device.handle().grow(4 << 20).unwrap();
    assert_eq!(driver.signals.config(), 1);
    let queue = &mut driver.queues[0];
    assert_eq!(read(queue, 8000, 512), [0; 512]);
    write(queue, 8191, &[6; 512]);
    assert_eq!(read(queue, 8191, 512), [6; 512]);
    driver.device.quiesce();
    images.qemu_img("check -q top.qcow2");
}

#[test]
fn requests_survive_pause_and_restore() {
    let Some(images) = Images::new() else { return };
    images.qemu_img("create -q -f qcow2 disk.qcow2 8M");
    let storage = storage(images.open("disk.qcow2", true).on(None));
    let properties = || Properties { queues: 2, ..Properties::default() };
    let mut driver = Driver::new(block(&storage, properties()), u64::MAX);
    for round in 0..10u8 {
        for (index, queue) in driver.queues.iter_mut().enumerate() {
            for at in 0..20 {
                let sector = index as u64 * 4096 + at * 16;
                queue.post(&[header(OUT, sector), Part::Out(vec![round; 8192]), Part::In(1)]);
            }
            queue.kick();
        }
        if round % 2 == 0 {
            driver.save_and_restore(block(&storage, properties()));
        } else {
            driver.pause_and_resume();
        }
        for (index, queue) in driver.queues.iter_mut().enumerate() {
            (0..20).for_each(|_| assert_eq!(queue.wait_used().1, [0]));
            assert!(queue.poll_used().is_none());
            assert_eq!(read(queue, index as u64 * 4096, 20 * 8192), vec![round; 20 * 8192]);
        }
    }
    driver.device.quiesce();
    images.qemu_img("check -q disk.qcow2");
}

#[test]
fn what_is_no_image_is_refused() {
    let Some(images) = Images::new() else { return };
    let refused = |name: &str| {
        Qcow2Header::open(open(&images.path(name), true), true, false).unwrap_err().to_string()
    };
    std::fs::write(images.path("raw"), vec![0; MIB]).unwrap();
    refused("raw");
    std::fs::write(images.path("short"), b"QFI\xfb\0\0\0\x03").unwrap();
    refused("short");
    images.qemu_img("create -q -f qcow2 -o data_file=data.raw external.qcow2 1M");
    assert!(refused("external.qcow2").contains("data file"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn random_requests_do_what_a_model_does(steps in steps()) {
        let Some(images) = Images::new() else { return Ok(()) };
        images.qemu_img("create -q -f qcow2 -o cluster_size=4k disk.qcow2 256k");
        check_against_model(&storage(images.open("disk.qcow2", true).on(None)), &steps);
        images.qemu_img("check -q disk.qcow2");
    }

    #[test]
    fn damaged_images_are_refused_or_answered_never_worse(
        damage in proptest::collection::vec((0usize..200_000, any::<u8>()), 1..40),
    ) {
        let Some(images) = Images::new() else { return Ok(()) };
        std::fs::write(images.path("disk.raw"), pattern(MIB)).unwrap();
        images.qemu_img("convert -f raw -O qcow2 disk.raw disk.qcow2");
        let mut bytes = std::fs::read(images.path("disk.qcow2")).unwrap();
        for (at, byte) in damage {
            // Most of what matters is at the beginning.
            bytes[if at % 2 == 0 { at % 512 } else { at }] = byte;
        }
        std::fs::write(images.path("disk.qcow2"), bytes).unwrap();
        if let Ok(image) = Qcow2Header::open(open(&images.path("disk.qcow2"), true), true, false) {
            let storage = storage(image.on(None));
            if storage.capacity() < MIB as u64 {
                return Ok(());
            }
            let mut driver = driver(&storage);
            let queue = &mut driver.queues[0];
            for at in 0..8 {
                ask(queue, &[header(IN, at * 128), Part::In(65536), Part::In(1)]);
                ask(queue, &[header(OUT, at * 128), Part::Out(vec![1; 65536]), Part::In(1)]);
            }
            ask(queue, &[header(FLUSH, 0), Part::In(1)]);
        }
    }
}
