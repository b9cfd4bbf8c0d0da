//! Disks in pools: made, enlarged and removed.
//!
//! A disk without an image is a sparse file. One from a raw image is a copy of it that shares the
//! image's blocks where the file system can; one from a qcow2 image is an overlay of it. What is in a
//! raw disk is never looked at to tell its format: the guest wrote it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use resources::Size;
use resources::config::{Disk, DiskFormat, VmConfig, Volume};
use rustix::fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, ioctl_ficlone, seek};

use crate::machine::disks::volume as image;

/// Why there is no disk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file.
    #[error("cannot {what} {}: {source}", .path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On which.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The image is larger than the disk made from it.
    #[error(
        "the image {} has {image}, more than the {size} of the disk; give the disk at least that size",
        .path.display()
    )]
    Larger {
        /// The image.
        path: PathBuf,
        /// Its size.
        image: Size,
        /// The disk's.
        size: Size,
    },
    /// The disk cannot be used.
    #[error(transparent)]
    Disk(#[from] crate::machine::disks::Error),
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { what, path, source }
}

/// The machine as its guest keeps it: with the format of each disk in a pool, and without the name.
pub(super) fn as_kept(mut vm: VmConfig) -> VmConfig {
    // The guest has it, and may be renamed.
    vm.name = None;
    for disk in vm.disk.values_mut() {
        if let Some(volume) = &disk.volume {
            disk.format = format(volume);
        }
    }
    vm
}

fn format(volume: &Volume) -> DiskFormat {
    let is_qcow2 = volume.image.as_deref().is_some_and(image::is_qcow2);
    if is_qcow2 { DiskFormat::Qcow2 } else { DiskFormat::Raw }
}

/// Makes every disk in a pool that is not there, and enlarges what is smaller than it should be. Call
/// it while the guest does not run.
///
/// # Errors
///
/// The first that cannot be.
pub(super) fn make(vm: &VmConfig) -> Result<(), Error> {
    for (name, disk) in &vm.disk {
        let Some(volume) = &disk.volume else { continue };
        if fs::symlink_metadata(&disk.path).is_ok() {
            image::grow(name, disk, volume.size.bytes())?;
        } else {
            create(disk, volume)?;
        }
    }
    Ok(())
}

/// Makes a disk, whole or not at all.
fn create(disk: &Disk, volume: &Volume) -> Result<(), Error> {
    let path = &disk.path;
    let folder = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(failed("make the folder of the pool,", folder))?;
    // For its owner alone, as all that is made so.
    let temporary =
        tempfile::NamedTempFile::new_in(folder).map_err(failed("make a file in", folder))?;
    let file = temporary.as_file();
    match &volume.image {
        Some(image) if disk.format == DiskFormat::Qcow2 => {
            let base = image::size(image)?;
            check(image, base, volume.size)?;
            image::overlay(file, image, volume.size.bytes())
                .map_err(failed("make an overlay at", path))?;
        }
        Some(image) => copy(file, image, volume)?,
        None => {}
    }
    if disk.format != DiskFormat::Qcow2 {
        file.set_len(volume.size.bytes()).map_err(failed("set the size of", path))?;
        if volume.preallocate {
            fallocate(file, FallocateFlags::empty(), 0, volume.size.bytes())
                .map_err(|error| failed("take the space for", path)(error.into()))?;
        }
    }
    file.sync_all().map_err(failed("write", path))?;
    temporary.persist_noclobber(path).map_err(|error| failed("name", path)(error.error))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("write", folder))
}

fn check(image: &Path, base: u64, size: Size) -> Result<(), Error> {
    if base > size.bytes() {
        let path = image.to_owned();
        return Err(Error::Larger { path, image: Size::from_bytes(base), size });
    }
    Ok(())
}

/// Copies a raw image: its blocks where the file system shares them (`FICLONE`), else what is not a hole.
fn copy(file: &File, image: &Path, volume: &Volume) -> Result<(), Error> {
    let source = File::open(image).map_err(failed("open the image", image))?;
    let len = source.metadata().map_err(failed("read the image", image))?.len();
    check(image, len, volume.size)?;
    if ioctl_ficlone(file, &source).is_ok() {
        return Ok(());
    }
    let copied = || -> io::Result<()> {
        let mut at = 0;
        while at < len {
            let data = match seek(&source, SeekFrom::Data(at)) {
                Ok(data) => data,
                // Nothing but a hole is left.
                Err(rustix::io::Errno::NXIO) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let hole = seek(&source, SeekFrom::Hole(data))?;
            copy_extent(&source, file, data, hole)?;
            at = hole;
        }
        Ok(())
    };
    copied().map_err(failed("copy the image", image))
}

fn copy_extent(source: &File, file: &File, from: u64, to: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let (mut read_at, mut write_at) = (from, from);
    while read_at < to {
        let left = usize::try_from(to - read_at).unwrap_or(usize::MAX).min(1 << 30);
        match copy_file_range(source, Some(&mut read_at), file, Some(&mut write_at), left) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            // Across file systems that cannot: by hand.
            Err(
                rustix::io::Errno::XDEV | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL,
            ) => {
                let mut buffer = vec![0; left.min(1 << 20)];
                source.read_exact_at(&mut buffer, read_at)?;
                file.write_all_at(&buffer, read_at)?;
                let len = u64::try_from(buffer.len()).unwrap_or(0);
                (read_at, write_at) = (read_at + len, write_at + len);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Removes a disk. One that is gone is no error.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("remove the disk", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod volume_test {
    use std::os::unix::fs::MetadataExt;

    use resources::config::host::{Layers, Source};

    use super::*;

    /// The machine of a VM with one disk of `size` in a pool below `folder`.
    fn machine(folder: &Path, size: Size, image: Option<&Path>) -> VmConfig {
        let image = image.map_or(String::new(), |image| format!(", image = {image:?}"));
        let text = format!(
            "[pool.p]\npath = {:?}\n[vm.vm]\nkernel = \"/k\"\ndisk.d = {{ pool = \"p\", size = \"{size}\"{image} }}",
            folder.join("pool")
        );
        let source = Source { path: "f".into(), content: text.into_bytes() };
        let mut guests = Layers::parse(vec![source]).unwrap().resolve().unwrap().guests;
        as_kept(guests.pop_first().unwrap().1.vm)
    }

    #[test]
    fn a_disk_is_made_sparse_and_grows() {
        let folder = tempfile::tempdir().unwrap();
        let mut vm = machine(folder.path(), Size::from_bytes(64 << 20), None);
        make(&vm).unwrap();
        let path = vm.disk[0].path.clone();
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.len(), found.blocks(), found.mode() & 0o777), (64 << 20, 0, 0o600));
        vm.disk[0].volume.as_mut().unwrap().size = Size::from_bytes(96 << 20);
        make(&vm).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 96 << 20);
        remove(&path).unwrap();
        remove(&path).unwrap();
    }

    #[test]
    fn a_raw_image_is_copied_without_its_holes() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("base.img");
        let mut content = vec![0u8; 8 << 20];
        content[5 << 20..(5 << 20) + 4].copy_from_slice(b"data");
        let file = File::create(&image).unwrap();
        file.set_len(8 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"data", 5 << 20).unwrap();
        let vm = machine(folder.path(), Size::from_bytes(16 << 20), Some(&image));
        make(&vm).unwrap();
        content.resize(16 << 20, 0);
        assert!(fs::read(&vm.disk[0].path).unwrap() == content);
        assert!(fs::metadata(&vm.disk[0].path).unwrap().blocks() * 512 < 1 << 20);
        let small = machine(folder.path(), Size::from_bytes(4 << 20), Some(&image));
        remove(&small.disk[0].path).unwrap();
        let error = make(&small).unwrap_err().to_string();
        assert!(error.contains("8MiB") && error.contains("4MiB"), "{error}");
    }
}
