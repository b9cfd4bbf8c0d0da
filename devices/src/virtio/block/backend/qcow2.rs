//! qcow2 images, with the images they are based on, by the library `imago` on the queue's worker.
//!
//! The library follows no reference to another file by itself: whoever opens an image looks at what
//! [`Qcow2Header`] says it is based on, and hands that over opened.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use imago::file::File;
use imago::format::PreallocateMode;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::storage::ext::StorageExt;
use imago::{FormatAccess, FormatCreateBuilder, Mapping, StorageOpenOptions};

use super::file::ZEROS;
use super::{Bounce, Engine, Operation, Range, Storage};
use crate::memory::GuestMemory;

/// A qcow2 image whose backing image has yet to be found.
#[derive(Debug)]
pub struct Qcow2Header {
    image: Qcow2<File>,
}

impl Qcow2Header {
    /// The image in `file`, which was opened for what `writable` says, and with O_DIRECT if `direct`.
    ///
    /// # Errors
    ///
    /// It is no qcow2 image, a damaged one, or one that needs more than is supported: a data file of
    /// its own, encryption, zstd compression, extended L2 entries.
    pub fn open(file: fs::File, writable: bool, direct: bool) -> io::Result<Self> {
        let storage = storage(file, writable, direct)?;
        if writable && !caught(|| counts_itself(&storage))? {
            return Err(io::Error::other(
                "the image is damaged: its first cluster is not counted as used; repair it (qemu-img check -r all)",
            ));
        }
        let image = caught(|| Qcow2::open_image(storage, writable))?;
        if image.requires_external_data_file() {
            return Err(io::Error::other("images with an external data file are not supported"));
        }
        Ok(Self { image })
    }

    /// Name and format of the image that this one is based on, as they stand in the image.
    pub fn backing(&self) -> Option<(&str, Option<&str>)> {
        let name = self.image.implicit_backing_file()?;
        Some((name, self.image.implicit_backing_format().map(String::as_str)))
    }

    /// The image, on top of `backing`.
    pub fn on(mut self, backing: Option<Layer>) -> Layer {
        self.image.set_data_file(None);
        self.image.set_backing(backing.map(|layer| layer.0));
        Layer(FormatAccess::new(self.image))
    }
}

/// An image and everything below it.
#[derive(Debug)]
pub struct Layer(FormatAccess<File>);

impl Layer {
    /// A raw image to be read only.
    ///
    /// # Errors
    ///
    /// Its size cannot be told.
    pub fn raw(file: fs::File, direct: bool) -> io::Result<Self> {
        Ok(Self(FormatAccess::new(Raw::open_image(storage(file, false, direct)?, false)?)))
    }

    /// Makes a qcow2 image in `file`, which is empty: all of it is still in an image of `size` bytes
    /// called `name` of format `format`.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn create(file: fs::File, size: u64, name: &str, format: &str) -> io::Result<()> {
        Qcow2::<File>::create_builder(storage(file, true, false)?)
            .size(size)
            .backing(name.to_owned(), format.to_owned())
            .create()
    }

    /// Size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.0.size()
    }

    /// A disk of it.
    pub fn into_storage(self) -> impl Storage {
        Image { access: Arc::new(RwLock::new(self.0)) }
    }
}

/// Whether the refcount of the first cluster, which the header is in, is none but zero (docs/interop/qcow2.rst in QEMU).
/// Where it is zero the library would give that cluster to the guest, or without a refcount block for it look for one
/// until its stack is full.
fn counts_itself(storage: &File) -> io::Result<bool> {
    /// The first bytes of an image.
    const MAGIC: u64 = 0x5146_49fb;
    /// Of a refcount table's entry: where the block is.
    const OFFSET: u64 = !0x1ff;
    let long = |at: u64| {
        let mut bytes = [0; 8];
        storage.read(&mut bytes[..], at)?;
        io::Result::Ok(u64::from_be_bytes(bytes))
    };
    let begin = long(0)?;
    if begin >> 32 != MAGIC {
        // The library says that it is no such image.
        return Ok(true);
    }
    let version = begin & u64::from(u32::MAX);
    // A table of no clusters has no first entry, whatever is where it would be.
    let clusters = long(56)? >> 32;
    let block = long(long(48)?)? & OFFSET;
    if clusters == 0 || block == 0 {
        return Ok(false);
    }
    let order = if version >= 3 { long(96)? >> 32 } else { 4 };
    // Refcounts of whole bytes are big-endian; of smaller ones the first is in the lowest bits.
    let first = long(block)?;
    Ok(match order {
        0..3 => first >> 56 & ((1 << (1 << order)) - 1) != 0,
        3..6 => first >> (64 - (1 << order)) != 0,
        // The library knows no other.
        _ => first != 0,
    })
}

/// What `call` answers. Images are untrusted input: should one of them make the library panic, that is an
/// error of this one operation.
fn caught<T>(call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| {
        Err(io::Error::other("the image is damaged in a way nobody thought of"))
    })
}

fn storage(file: fs::File, writable: bool, direct: bool) -> io::Result<File> {
    File::from_open_file(file, StorageOpenOptions::new().write(writable).direct(direct))
}

/// A disk in an image. Whoever discards is alone with it.
struct Image {
    access: Arc<RwLock<FormatAccess<File>>>,
}

impl Storage for Image {
    fn capacity(&self) -> u64 {
        read(&self.access).size() / 512 * 512
    }

    fn grow(&self, bytes: u64) -> io::Result<()> {
        caught(|| read(&self.access).resize_grow(bytes, PreallocateMode::None))
    }

    fn engine(&self, _: &Arc<GuestMemory>, _: u16) -> io::Result<Box<dyn Engine>> {
        Ok(Box::new(ImageEngine { access: Arc::clone(&self.access), bounce: Bounce::default() }))
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

struct ImageEngine {
    access: Arc<RwLock<FormatAccess<File>>>,
    bounce: Bounce,
}

impl ImageEngine {
    fn run(&mut self, operation: Operation<'_>) -> io::Result<()> {
        match operation {
            Operation::Read(offset, data) => {
                let access = read(&self.access);
                self.bounce.fill(&data, |buffer, at| access.read(buffer, offset + at))
            }
            Operation::Write(offset, data) => {
                let access = read(&self.access);
                self.bounce.drain(&data, |buffer, at| access.write(buffer, offset + at))
            }
            Operation::Flush => {
                let access = read(&self.access);
                access.flush()?;
                access.sync()
            }
            Operation::Discard(range) => self.discard(range),
            Operation::WriteZeroes(range, unmap) => self.write_zeroes(range, unmap),
        }
    }

    fn write_zeroes(&self, Range { offset, len }: Range, unmap: bool) -> io::Result<()> {
        let done = if unmap {
            let mut access = self.access.write().unwrap_or_else(PoisonError::into_inner);
            punch(&access, offset, len)?;
            access.discard_to_zero(offset, len)
        } else {
            read(&self.access).write_zeroes(offset, len)
        };
        match done {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            done => return done,
        }
        // Images of version 2 cannot say that something is zero.
        let access = read(&self.access);
        let mut at = 0;
        while at < len {
            let piece = usize::try_from(len - at).unwrap_or(usize::MAX).min(ZEROS.0.len());
            access.write(&ZEROS.0[..piece], offset + at)?;
            at += piece as u64;
        }
        Ok(())
    }

    fn discard(&self, range: Range) -> io::Result<()> {
        let mut access = self.access.write().unwrap_or_else(PoisonError::into_inner);
        punch(&access, range.offset, range.len)?;
        match access.discard_to_any(range.offset, range.len) {
            // Nobody relies on it.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            done => done,
        }
    }
}

/// Gives the room of what is about to be discarded back to the host: the library only marks it as
/// free for other clusters. What a snapshot in the image has, too, is not writable, and stays.
fn punch(access: &FormatAccess<File>, mut offset: u64, mut len: u64) -> io::Result<()> {
    while len > 0 {
        let (mapping, mapped) = access.get_mapping(offset, len)?;
        if mapped == 0 {
            return Ok(());
        }
        if let Mapping::Raw { storage, offset: host, writable: true, .. } = mapping {
            storage.discard(host, mapped)?;
        }
        offset += mapped;
        len -= mapped;
    }
    Ok(())
}

impl Engine for ImageEngine {
    fn start(&mut self, _: u16, operation: Operation<'_>) -> Option<io::Result<()>> {
        Some(caught(|| self.run(operation)))
    }
}

impl Drop for ImageEngine {
    fn drop(&mut self) {
        // The queue is given back, perhaps for a snapshot: the image file is then whole.
        if let Err(error) = caught(|| read(&self.access).flush()) {
            tracing::warn!("a qcow2 image cannot be brought up to date: {error}");
        }
    }
}
