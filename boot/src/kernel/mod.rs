//! The guest's kernel: recognised, unpacked if it is a bzImage, kept in a cache, and loaded at
//! every boot and reboot at a base chosen anew.
//!
//! A kernel file is untrusted input. Where a bzImage cannot be unpacked here it is loaded as it is
//! and the guest decompresses itself. Where the kernel goes is decided in [`crate::BootSource`].

pub mod bzimage;
pub mod cache;
pub mod elf;
mod extracted;
#[cfg(test)]
pub(crate) mod fixture;
pub mod image;
pub mod kaslr;
pub mod payload;
mod read_at;
pub mod recognise;
pub mod relocations;

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use self::bzimage::Header;
use self::cache::{Cache, FileId};
use self::extracted::Extracted;
use self::image::{Image, Layout};
use self::kaslr::{MIN_ALIGNMENT, Shift};
use self::recognise::Format;
use crate::{Protocol, cmdline, layout};

pub use self::read_at::ReadAt;

/// Largest bzImage that is read into memory to unpack it; distributions' have up to 20 MiB.
const MAX_BZIMAGE: u64 = 512 << 20;

/// Why a file cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the kernel {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// A pipe, directory or device; a reboot could not read it again.
    #[error("the kernel {} is not a regular file; write it to a file first", .0.display())]
    NotRegular(PathBuf),
    /// No bytes.
    #[error("the kernel {} is empty; copy it again", .0.display())]
    Empty(PathBuf),
    /// Not a kernel, or not one for this machine.
    #[error("{} cannot be booted", .path.display())]
    Unrecognised {
        /// The file.
        path: PathBuf,
        /// What it is.
        #[source]
        source: recognise::Error,
    },
    /// A bzImage that cannot be booted.
    #[error("the bzImage {} cannot be booted", .path.display())]
    BzImage {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: bzimage::Error,
    },
    /// An ELF file that cannot be booted.
    #[error("the kernel {} cannot be booted", .path.display())]
    Elf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: elf::Error,
    },
    /// More than any kernel has.
    #[error("the bzImage {} has {size} bytes; no kernel has more than {MAX_BZIMAGE}", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: u64,
    },
    /// PVH was asked for.
    #[error(
        "the kernel {} has no PVH entry point; use the Linux boot protocol, or a kernel built with \
         CONFIG_PVH", .0.display()
    )]
    NoPvhEntry(PathBuf),
    /// A kernel that can only be entered by its own decompressor, which has no such entry point.
    #[error("the kernel {} is too old to unpack itself in 64-bit mode and cannot be unpacked here", .0.display())]
    NoEntry(PathBuf),
    /// Copying to guest memory failed.
    #[error("cannot load the kernel {}", .path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// What failed.
        #[source]
        source: image::Error,
    },
    /// Copying to guest memory failed.
    #[error("cannot read the bzImage {} into guest memory", .path.display())]
    LoadBzImage {
        /// The file.
        path: PathBuf,
        /// What failed.
        #[source]
        source: vm_memory::GuestMemoryError,
    },
    /// The relocation table is no good.
    #[error("cannot relocate the kernel {}; `nokaslr` boots it unrelocated", .path.display())]
    Relocate {
        /// The file.
        path: PathBuf,
        /// What failed.
        #[source]
        source: relocations::Error,
    },
    /// The file is another one than when it was opened.
    #[error("the kernel {} has changed since it was opened; start again", .0.display())]
    Changed(PathBuf),
}

/// How a kernel is to be opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory in which extracted kernels are kept; `None` extracts at every start.
    pub cache: Option<PathBuf>,
    /// Whether to unpack a bzImage in the VMM, which is faster and lets the cache work.
    pub extract: bool,
    /// Boot protocol to use; `None` takes the best the kernel offers.
    pub protocol: Option<Protocol>,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache: None, extract: true, protocol: None }
    }
}

/// A kernel kept open, so that a reboot loads it again.
#[derive(Debug)]
pub struct Kernel {
    path: PathBuf,
    // The lock covers the file's cursor: guest memory is filled with plain reads.
    file: Mutex<File>,
    protocol: Protocol,
    body: Body,
}

#[derive(Debug)]
enum Body {
    /// An ELF file, loaded from where it is.
    Elf(Image),
    /// A bzImage unpacked here.
    Extracted(Box<Extracted>),
    /// A bzImage that unpacks itself, at this address.
    Compressed { header: Header, address: u64 },
}

impl Kernel {
    /// Takes a file opened for reading; `path` is only for messages.
    ///
    /// A bzImage is unpacked unless the cache has it already, which takes up to a second.
    pub fn open(file: File, path: &Path, options: &Options) -> Result<Self, Error> {
        let read_error = |source| Error::Read { path: path.to_owned(), source };
        let metadata = file.metadata().map_err(read_error)?;
        if !metadata.is_file() {
            return Err(Error::NotRegular(path.to_owned()));
        }
        let length = metadata.len();
        if length == 0 {
            return Err(Error::Empty(path.to_owned()));
        }
        let cache = options.cache.as_deref().filter(|_| options.extract).map(Cache::new);
        let id = FileId::new(&metadata);
        let known = cache.as_ref().and_then(|cache| cache.find_file(&id));
        let body = match known {
            Some(entry) => {
                tracing::debug!(kernel = %path.display(), "taking the extracted kernel from the cache");
                Body::Extracted(Box::new(Extracted::cached(entry, cache)))
            }
            None => match Self::recognise(&file, length, path)? {
                Format::Elf => Body::Elf(Self::parse_elf(&file, length, path)?),
                Format::BzImage => Self::open_bzimage(&file, length, path, options.extract, cache)?,
            },
        };
        let mut kernel = Self {
            path: path.to_owned(),
            file: Mutex::new(file),
            protocol: Protocol::Linux64,
            body,
        };
        kernel.protocol = kernel.choose_protocol(options.protocol)?;
        Ok(kernel)
    }

    fn recognise(file: &File, length: u64, path: &Path) -> Result<Format, Error> {
        let mut head = vec![0; recognise::HEAD.min(usize::try_from(length).unwrap_or(usize::MAX))];
        ReadAt::read_exact_at(file, &mut head, 0)
            .map_err(|source| Error::Read { path: path.to_owned(), source })?;
        recognise::recognise(&head)
            .map_err(|source| Error::Unrecognised { path: path.to_owned(), source })
    }

    fn parse_elf(file: &File, length: u64, path: &Path) -> Result<Image, Error> {
        let elf_error = |source| Error::Elf { path: path.to_owned(), source };
        let elf = elf::parse(file, length).map_err(elf_error)?;
        let mut image = elf.image;
        // Tools that unpack a bzImage leave the table behind the ELF file.
        image.relocations = relocations::Table::find(file, elf.end, length)
            .map_err(|source| Error::Load { path: path.to_owned(), source })?
            .filter(|_| image.layout.linux);
        Ok(image)
    }

    fn open_bzimage(
        file: &File,
        length: u64,
        path: &Path,
        extract: bool,
        cache: Option<Cache>,
    ) -> Result<Body, Error> {
        if length > MAX_BZIMAGE {
            return Err(Error::TooLarge { path: path.to_owned(), size: length });
        }
        if extract && let Some(extracted) = Extracted::open(file, path, cache)? {
            return Ok(Body::Extracted(Box::new(extracted)));
        }
        let mut head = vec![0; recognise::HEAD.min(usize::try_from(length).unwrap_or(usize::MAX))];
        ReadAt::read_exact_at(file, &mut head, 0)
            .map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let bzimage_error = |source| Error::BzImage { path: path.to_owned(), source };
        let header = Header::parse(&head, length).map_err(bzimage_error)?;
        if !header.has_entry_64() {
            return Err(Error::NoEntry(path.to_owned()));
        }
        let address = header.preferred_address().map_err(bzimage_error)?;
        tracing::debug!(kernel = %path.display(), "the guest decompresses its kernel itself");
        Ok(Body::Compressed { header, address })
    }

    fn choose_protocol(&self, forced: Option<Protocol>) -> Result<Protocol, Error> {
        let layout = self.layout();
        let pvh = layout.is_some_and(|layout| layout.pvh_entry.is_some());
        match forced {
            Some(Protocol::Pvh) if !pvh => Err(Error::NoPvhEntry(self.path.clone())),
            Some(protocol) => Ok(protocol),
            // Linux gets more from its own protocol. For anything else the note is all that is
            // known about how it wants to be entered.
            None if pvh && !layout.is_some_and(|layout| layout.linux) => Ok(Protocol::Pvh),
            None => Ok(Protocol::Linux64),
        }
    }

    fn layout(&self) -> Option<&Layout> {
        match &self.body {
            Body::Elf(image) => Some(&image.layout),
            Body::Extracted(extracted) => Some(&extracted.layout),
            Body::Compressed { .. } => None,
        }
    }

    pub(crate) fn header(&self) -> Option<&Header> {
        match &self.body {
            Body::Elf(_) => None,
            Body::Extracted(extracted) => Some(&extracted.header),
            Body::Compressed { header, .. } => Some(header),
        }
    }

    /// The path for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The protocol by which it is booted.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Whether the guest need not decompress it.
    pub fn is_extracted(&self) -> bool {
        !matches!(self.body, Body::Compressed { .. })
    }

    /// Guest-physical addresses it needs if it is not moved, `init_size` included.
    pub fn memory(&self) -> Range<u64> {
        let init_size = self.header().map_or(0, Header::init_size);
        match &self.body {
            Body::Compressed { header, address } => {
                let code = header.code();
                *address..*address + init_size.max(code.end - code.start)
            }
            _ => self.layout().map_or(0..0, |layout| {
                let start = layout.start();
                start..layout.end().max(start + init_size)
            }),
        }
    }

    /// Whether its base can be randomised here.
    pub fn is_relocatable(&self) -> bool {
        let by_header = self.header().is_none_or(Header::is_relocatable);
        by_header
            && match &self.body {
                Body::Elf(image) => image.relocations.is_some(),
                Body::Extracted(extracted) => extracted.has_relocations,
                Body::Compressed { .. } => false,
            }
    }

    /// Alignment that a move must keep.
    pub(crate) fn alignment(&self) -> u64 {
        self.header().map_or(MIN_ALIGNMENT, Header::alignment)
    }

    /// Longest command line it takes, in bytes without the NUL.
    pub fn command_line_limit(&self) -> u64 {
        let limit = self.header().map_or(cmdline::DEFAULT_LIMIT, Header::command_line_limit);
        limit.min(layout::COMMAND_LINE_ROOM - 1)
    }

    /// First guest-physical address that its initrd must not reach.
    pub fn initrd_ceiling(&self) -> u64 {
        self.header().map_or(layout::MMIO_HOLE.start, Header::initrd_ceiling)
    }

    /// Guest-physical address of its entry point when moved by `shift`.
    pub(crate) fn entry(&self, shift: Shift) -> Result<u64, Error> {
        match (&self.body, self.layout(), self.protocol) {
            (Body::Compressed { header, address }, ..) => Ok(address + header.entry_64()),
            (_, Some(layout), Protocol::Linux64) => Ok(layout.entry + shift.physical),
            (_, layout, _) => {
                let entry = layout.and_then(|layout| layout.pvh_entry).map(u64::from);
                Ok(entry.ok_or(Error::NoPvhEntry(self.path.clone()))? + shift.physical)
            }
        }
    }

    /// Copies it to guest memory, which is zero, and relocates it.
    pub(crate) fn load<M: GuestMemoryBackend>(
        &self,
        memory: &M,
        shift: Shift,
    ) -> Result<(), Error> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        match &self.body {
            Body::Elf(image) => load_image(image, &*file, &self.path, memory, shift),
            Body::Extracted(extracted) => extracted.load(&file, &self.path, memory, shift),
            Body::Compressed { header, address } => {
                let code = header.code();
                let length = usize::try_from(code.end - code.start).unwrap_or(usize::MAX);
                file.seek(SeekFrom::Start(code.start))
                    .map_err(|source| Error::Read { path: self.path.clone(), source })?;
                memory
                    .read_exact_volatile_from(GuestAddress(*address), &mut *file, length)
                    .map_err(|source| Error::LoadBzImage { path: self.path.clone(), source })
            }
        }
    }
}

/// Copies an image to guest memory and relocates it.
fn load_image<M: GuestMemoryBackend>(
    image: &Image,
    source: &dyn ReadAt,
    path: &Path,
    memory: &M,
    shift: Shift,
) -> Result<(), Error> {
    image
        .load(source, memory, shift.physical)
        .map_err(|source| Error::Load { path: path.to_owned(), source })?;
    if shift.virtual_shift == 0 {
        return Ok(());
    }
    let Some(table) = &image.relocations else { return Ok(()) };
    let sites = table
        .apply(source, &image.layout, memory, shift.physical, shift.virtual_shift)
        .map_err(|source| Error::Relocate { path: path.to_owned(), source })?;
    tracing::debug!(sites, "relocated the kernel");
    Ok(())
}

#[cfg(test)]
#[path = "kernel_test.rs"]
mod kernel_test;
