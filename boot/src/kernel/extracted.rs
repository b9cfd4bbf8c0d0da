//! A kernel unpacked from its bzImage: in the cache where that works, else in memory until it has
//! been loaded.

use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use vm_memory::GuestMemoryBackend;

use super::bzimage::{self, Header};
use super::cache::{Cache, Entry, FileId, Hash};
use super::image::{self, Image, Layout};
use super::kaslr::Shift;
use super::read_at::ReadAt;
use super::{Error, elf, load_image, payload, relocations};

/// An unpacked kernel.
#[derive(Debug)]
pub(super) struct Extracted {
    pub header: Header,
    pub layout: Layout,
    pub has_relocations: bool,
    cache: Option<Cache>,
    storage: Mutex<Storage>,
}

/// Where the bytes are.
#[derive(Debug)]
enum Storage {
    /// In an entry of the cache, which other processes share.
    Cached(Entry),
    /// In our own memory, until the first boot.
    Memory(Image, Vec<u8>),
    /// Nowhere: a reboot unpacks them again, which is rarer than memory is dear.
    Dropped,
}

impl Extracted {
    /// A kernel found in the cache.
    pub(super) fn cached(entry: Entry, cache: Option<Cache>) -> Self {
        Self {
            header: entry.header,
            layout: entry.image.layout.clone(),
            has_relocations: entry.image.relocations.is_some(),
            cache,
            storage: Mutex::new(Storage::Cached(entry)),
        }
    }

    /// Unpacks the bzImage in `file`, unless the cache has its content under another name. `None`
    /// where that is impossible and the guest had better try itself.
    pub(super) fn open(
        file: &File,
        path: &Path,
        cache: Option<Cache>,
    ) -> Result<Option<Self>, Error> {
        let Some((header, storage)) = unpack(file, path, cache.as_ref())? else { return Ok(None) };
        let image = match &storage {
            Storage::Cached(entry) => &entry.image,
            Storage::Memory(image, _) => image,
            Storage::Dropped => return Ok(None),
        };
        let (layout, has_relocations) = (image.layout.clone(), image.relocations.is_some());
        let storage = Mutex::new(storage);
        Ok(Some(Self { header, layout, has_relocations, cache, storage }))
    }

    /// Copies the kernel to guest memory and relocates it. A damaged cache entry is discarded and
    /// the kernel unpacked again from `file`.
    pub(super) fn load<M: GuestMemoryBackend>(
        &self,
        file: &File,
        path: &Path,
        memory: &M,
        shift: Shift,
    ) -> Result<(), Error> {
        let mut storage = self.storage.lock().unwrap_or_else(PoisonError::into_inner);
        if let Storage::Cached(entry) = &*storage {
            match load_image(&entry.image, &entry.file, path, memory, shift) {
                Err(error) if is_damage(&error) => {
                    tracing::warn!(
                        kernel = %path.display(), %error,
                        "the cached kernel is damaged, unpacking it again"
                    );
                    entry.discard();
                    entry
                        .image
                        .clear(memory, shift.physical)
                        .map_err(|source| Error::Load { path: path.to_owned(), source })?;
                    *storage = Storage::Dropped;
                }
                result => return result,
            }
        }
        if matches!(*storage, Storage::Dropped) {
            *storage = self.unpack_again(file, path)?;
        }
        match std::mem::replace(&mut *storage, Storage::Dropped) {
            Storage::Cached(entry) => {
                let result = load_image(&entry.image, &entry.file, path, memory, shift);
                *storage = Storage::Cached(entry);
                result
            }
            Storage::Memory(image, bytes) => {
                load_image(&image, &bytes.as_slice(), path, memory, shift)
            }
            Storage::Dropped => Err(Error::Changed(path.to_owned())),
        }
    }

    fn unpack_again(&self, file: &File, path: &Path) -> Result<Storage, Error> {
        let changed = || Error::Changed(path.to_owned());
        let (header, storage) = unpack(file, path, self.cache.as_ref())?.ok_or_else(changed)?;
        let image = match &storage {
            Storage::Cached(entry) => &entry.image,
            Storage::Memory(image, _) => image,
            Storage::Dropped => return Err(changed()),
        };
        // Memory was laid out for the kernel that was opened.
        let same = header == self.header
            && image.layout == self.layout
            && image.relocations.is_some() == self.has_relocations;
        if same { Ok(storage) } else { Err(changed()) }
    }
}

/// Whether loading failed because the source does not hold what was stored there.
fn is_damage(error: &Error) -> bool {
    let damaged = |error: &image::Error| !matches!(error, image::Error::Write { .. });
    match error {
        Error::Load { source, .. } => damaged(source),
        // A damaged table is noticed at a wild site before its checksum is.
        Error::Relocate { source: relocations::Error::Site(_), .. } => true,
        Error::Relocate { source: relocations::Error::Table(source), .. } => damaged(source),
        _ => false,
    }
}

fn unpack(
    file: &File,
    path: &Path,
    cache: Option<&Cache>,
) -> Result<Option<(Header, Storage)>, Error> {
    let started = Instant::now();
    let read_error = |source| Error::Read { path: path.to_owned(), source };
    let metadata = file.metadata().map_err(read_error)?;
    let id = FileId::new(&metadata);
    let mut content = vec![0; usize::try_from(metadata.len()).unwrap_or(usize::MAX)];
    ReadAt::read_exact_at(file, &mut content, 0).map_err(read_error)?;
    let cache = cache.map(|cache| (cache, Hash::of(&content)));
    if let Some((cache, hash)) = &cache
        && let Some(entry) = cache.find_content(hash, &id)
    {
        return Ok(Some((entry.header, Storage::Cached(entry))));
    }
    let header = Header::parse(&content, content.len() as u64)
        .map_err(|source| Error::BzImage { path: path.to_owned(), source })?;
    let Some((bytes, image)) = unpack_payload(&content, &header, path)? else { return Ok(None) };
    drop(content);
    tracing::debug!(
        kernel = %path.display(), bytes = bytes.len(), took = ?started.elapsed(),
        "unpacked the kernel"
    );
    if let Some((cache, hash)) = &cache {
        // The hash is that of the bytes read; the id must be, too.
        let unchanged = file.metadata().is_ok_and(|now| FileId::new(&now) == id);
        if unchanged {
            match cache.store(hash, &id, &header, &image, &bytes) {
                Ok(entry) => return Ok(Some((header, Storage::Cached(entry)))),
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the unpacked kernel is not cached; the next start will take as long"
                ),
            }
        }
    }
    Ok(Some((header, Storage::Memory(image, bytes))))
}

/// Unpacks the ELF kernel and its relocation table from a whole bzImage. `None`, and a line in the
/// log, where the payload is not what is expected.
fn unpack_payload(
    content: &[u8],
    header: &Header,
    path: &Path,
) -> Result<Option<(Vec<u8>, Image)>, Error> {
    let payload = header.payload();
    let range = usize::try_from(payload.start).ok().zip(usize::try_from(payload.end).ok());
    let payload = range.and_then(|(start, end)| content.get(start..end)).unwrap_or_default();
    let bytes = match payload::extract(payload, output_limit(header)) {
        Ok(bytes) => bytes,
        Err(error @ payload::Error::Unsupported(_)) => {
            tracing::debug!(kernel = %path.display(), %error, "cannot unpack the kernel");
            return Ok(None);
        }
        Err(error) => {
            tracing::warn!(
                kernel = %path.display(), error = &error as &dyn std::error::Error,
                "cannot unpack the kernel; if the guest stays silent, the file is damaged"
            );
            return Ok(None);
        }
    };
    let source = &bytes.as_slice();
    let length = bytes.len() as u64;
    let elf = match elf::parse(source, length) {
        Ok(elf) => elf,
        Err(source @ elf::Error::Architecture(_)) => {
            return Err(Error::Elf { path: path.to_owned(), source });
        }
        Err(error) => {
            tracing::warn!(
                kernel = %path.display(), error = &error as &dyn std::error::Error,
                "cannot use the unpacked kernel"
            );
            return Ok(None);
        }
    };
    let relocations = relocations::Table::find(source, elf.end, length)
        .map_err(|source| Error::Load { path: path.to_owned(), source })?;
    let image = Image { relocations, ..elf.image };
    Ok(Some((bytes, image)))
}

/// The kernel unpacks itself in place, so its output fits in the memory it asks for.
fn output_limit(header: &bzimage::Header) -> usize {
    let init_size = usize::try_from(header.init_size()).unwrap_or(usize::MAX);
    if init_size == 0 { payload::MAX_OUTPUT } else { init_size.min(payload::MAX_OUTPUT) }
}
