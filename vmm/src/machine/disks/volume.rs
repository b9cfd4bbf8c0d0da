//! What making disks from images needs to know of images.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use devices::virtio::block::backend::Layer;
use resources::config::{Disk, DiskFormat};

use super::error::{Error, Failure, Problem};
use super::files::Files;
use super::image;

/// Whether the image at `path`, which is the operator's and no guest's, is a qcow2 image.
pub(crate) fn is_qcow2(path: &Path) -> bool {
    let mut magic = [0; image::MAGIC.len()];
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut magic, 0));
    read.is_ok() && magic == image::MAGIC
}

/// Size of the disk in the qcow2 image at `path`, in bytes.
pub(crate) fn size(path: &Path) -> Result<u64, Error> {
    let disk = Disk { format: DiskFormat::Qcow2, readonly: true, ..Disk::new(path.to_owned()) };
    let name = path.display().to_string();
    let opened = image::open(&mut Files::default(), &name, &disk);
    Ok(opened.map_err(|failure| failure.of(&name))?.capacity())
}

/// Makes an overlay of `bytes` in `file`, which is empty, on top of the qcow2 image at `base`.
pub(crate) fn overlay(file: &File, base: &Path, bytes: u64) -> io::Result<()> {
    let base = std::fs::canonicalize(base)?;
    let name = base.to_str().ok_or_else(|| io::Error::other(Problem::NotUtf8))?;
    Layer::create(file.try_clone()?, bytes, name, "qcow2")
}

/// Makes a disk that nobody uses at least `bytes` large.
pub(crate) fn grow(name: &str, disk: &Disk, bytes: u64) -> Result<(), Error> {
    let grown = || {
        let storage = image::open(&mut Files::default(), name, disk)?;
        if storage.capacity() < bytes {
            let failed = |error| Failure { path: disk.path.clone(), problem: Problem::Open(error) };
            storage.grow(bytes).map_err(failed)?;
        }
        Ok(())
    };
    grown().map_err(|failure: Failure| failure.of(name))
}
