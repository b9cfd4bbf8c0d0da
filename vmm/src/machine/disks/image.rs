//! What is in a disk's file: its sectors, or an image of them, based on further images, with an overlay
//! on top perhaps.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use devices::virtio::block::backend::{Layer, Qcow2Header, Raw, RawOptions, Storage};
use resources::config::{Disk, DiskFormat, Overlay};
use rustix::fs::fstatfs;

use super::error::{Failure, Problem};
use super::files::{self, Files, Identity};

/// What a qcow2 image begins with.
pub(super) const MAGIC: [u8; 4] = *b"QFI\xfb";
/// The file system in memory (statfs(2)).
const TMPFS: rustix::fs::FsWord = 0x0102_1994;
/// Most images a disk is made of: ends chains that lead back to themselves.
const MAX_CHAIN: usize = 64;

/// The storage of `disk`, called `name`.
pub(super) fn open(
    files: &mut Files,
    name: &str,
    disk: &Disk,
) -> Result<Arc<dyn Storage>, Failure> {
    let mut chain = Chain { files, name, direct: disk.direct, depth: 0 };
    let storage = match &disk.overlay {
        Overlay::None => chain.disk(disk)?,
        Overlay::Discard => {
            let (base, _) = chain.base(disk)?;
            fails_at(&temporary_folder(), temporary_overlay(base).map_err(Problem::Temporary))?
        }
        Overlay::Keep(path) => chain.kept_overlay(disk, path)?,
    };
    fails_at(&disk.path, check_size(storage.capacity(), disk.block_size))?;
    Ok(storage)
}

/// Opens the files of one disk, from the top down.
struct Chain<'a> {
    files: &'a mut Files,
    name: &'a str,
    direct: bool,
    /// Images below the first.
    depth: usize,
}

/// What a file was found to be.
enum Content {
    Raw(File),
    Qcow2(Box<Qcow2Header>),
}

impl Chain<'_> {
    /// A disk that is written to where it is, or only read.
    fn disk(&mut self, disk: &Disk) -> Result<Arc<dyn Storage>, Failure> {
        let Disk { path, readonly, format, block_size, direct, .. } = disk;
        match self.content(path, !readonly, *format)? {
            Content::Raw(file) => fails_at(path, raw(file, *direct, *block_size)),
            Content::Qcow2(header) => {
                let backing = self.backing(&header, path)?;
                Ok(Arc::new(header.on(backing).into_storage()))
            }
        }
    }

    /// A disk that an overlay is put on: read only. Its format, too.
    fn base(&mut self, disk: &Disk) -> Result<(Layer, DiskFormat), Failure> {
        let (layer, format) = self.layer(&disk.path, disk.format)?;
        fails_at(&disk.path, check_size(layer.size(), disk.block_size))?;
        Ok((layer, format))
    }

    /// An image that is only read, and its format.
    fn layer(&mut self, path: &Path, format: DiskFormat) -> Result<(Layer, DiskFormat), Failure> {
        match self.content(path, false, format)? {
            Content::Raw(file) => {
                let layer = Layer::raw(file, self.direct).map_err(Problem::Read);
                Ok((fails_at(path, layer)?, DiskFormat::Raw))
            }
            Content::Qcow2(header) => {
                let backing = self.backing(&header, path)?;
                Ok((header.on(backing), DiskFormat::Qcow2))
            }
        }
    }

    /// The images below the one at `path`.
    fn backing(&mut self, header: &Qcow2Header, path: &Path) -> Result<Option<Layer>, Failure> {
        let Some((name, format)) = header.backing() else { return Ok(None) };
        self.depth += 1;
        if self.depth == MAX_CHAIN {
            return fails_at(path, Err(Problem::BackingChain(MAX_CHAIN)));
        }
        let base = fails_at(path, resolve(name, path))?;
        let format = fails_at(path, backing_format(format))?;
        self.layer(&base, format).map(|(layer, _)| Some(layer))
    }

    fn content(
        &mut self,
        path: &Path,
        write: bool,
        format: DiskFormat,
    ) -> Result<Content, Failure> {
        let file = self.files.open(self.name, path, write)?;
        fails_at(path, recognize(file, write, self.direct, format))
    }

    /// The disk with the overlay at `path`, which is made if there is none.
    fn kept_overlay(&mut self, disk: &Disk, path: &Path) -> Result<Arc<dyn Storage>, Failure> {
        if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            let (base, format) = self.base(disk)?;
            let created = create_overlay(path, &base, &disk.path, format);
            fails_at(path, created)?;
        }
        let file = self.files.open(self.name, path, true)?;
        let recorded = fails_at(path, recognize(file, true, self.direct, DiskFormat::Qcow2))
            .and_then(|content| fails_at(path, overlay_of(content, path, disk)));
        let (header, format) = recorded?;
        let (base, _) = self.base(&Disk { format, ..disk.clone() })?;
        Ok(Arc::new(header.on(Some(base)).into_storage()))
    }
}

/// A [`Failure`] for the [`Problem`] of a path.
fn fails_at<T>(path: &Path, result: Result<T, Problem>) -> Result<T, Failure> {
    result.map_err(|problem| Failure { path: path.to_owned(), problem })
}

/// Finds out what a file is. Nothing of a raw disk is believed, as the guest wrote it, unless `format`
/// says so.
fn recognize(
    file: File,
    write: bool,
    direct: bool,
    format: DiskFormat,
) -> Result<Content, Problem> {
    let mut magic = [0; MAGIC.len()];
    let is_qcow2 = match format {
        DiskFormat::Raw => false,
        DiskFormat::Qcow2 => true,
        DiskFormat::Auto => match file.read_exact_at(&mut magic, 0) {
            Ok(()) => magic == MAGIC,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
            Err(error) => return Err(Problem::Read(error)),
        },
    };
    if direct {
        files::make_direct(&file)?;
    }
    if !is_qcow2 {
        return Ok(Content::Raw(file));
    }
    let header = Qcow2Header::open(file, write, direct).map_err(Problem::Image)?;
    match header.backing() {
        Some((name, _)) if format == DiskFormat::Auto => {
            Err(Problem::BackingUnasked(name.to_owned()))
        }
        _ => Ok(Content::Qcow2(Box::new(header))),
    }
}

fn raw(file: File, direct: bool, block_size: u32) -> Result<Arc<dyn Storage>, Problem> {
    let len = io::Seek::seek(&mut &file, io::SeekFrom::End(0)).map_err(Problem::Read)?;
    check_size(len, block_size)?;
    let in_memory = fstatfs(&file).is_ok_and(|kind| kind.f_type == TMPFS);
    let options = RawOptions { direct, synchronous: in_memory };
    let raw = Raw::new(file, options)
        .map_err(|error| if direct { Problem::NoDirect(error) } else { Problem::Read(error) })?;
    if raw.alignment() > block_size {
        return Err(Problem::DirectBlocks(raw.alignment()));
    }
    Ok(Arc::new(raw))
}

fn check_size(size: u64, block_size: u32) -> Result<(), Problem> {
    match size {
        0 => Err(Problem::Empty),
        size if !size.is_multiple_of(block_size.into()) => {
            Err(Problem::Ragged { size, block_size })
        }
        _ => Ok(()),
    }
}

/// Where the image `name` is that the one at `path` is based on.
fn resolve(name: &str, path: &Path) -> Result<PathBuf, Problem> {
    let name = name.strip_prefix("file:").unwrap_or(name);
    // As QEMU has it: a colon before any slash ends the name of a protocol.
    let first = name.split('/').next().unwrap_or_default();
    if first.contains(':') || name.is_empty() {
        return Err(Problem::BackingName(name.to_owned()));
    }
    Ok(path.parent().unwrap_or(Path::new("")).join(name))
}

fn backing_format(format: Option<&str>) -> Result<DiskFormat, Problem> {
    match format {
        None => Ok(DiskFormat::Auto),
        Some("raw" | "file" | "host_device") => Ok(DiskFormat::Raw),
        Some("qcow2") => Ok(DiskFormat::Qcow2),
        Some(other) => Err(Problem::BackingFormat(other.to_owned())),
    }
}

/// Where temporary overlays are: not where files are in memory, if possible.
fn temporary_folder() -> PathBuf {
    let folders = [std::env::var_os("TMPDIR").map(PathBuf::from), Some("/var/tmp".into())];
    let usable = folders.into_iter().flatten().find(|folder| folder.is_dir());
    usable.unwrap_or_else(std::env::temp_dir)
}

/// `base` with an overlay in a file without a name, which goes away with the last descriptor of it.
fn temporary_overlay(base: Layer) -> io::Result<Arc<dyn Storage>> {
    let file = tempfile::tempfile_in(temporary_folder())?;
    // What the image says it is based on is not looked at.
    Layer::create(file.try_clone()?, base.size(), "base", "raw")?;
    let header = Qcow2Header::open(file, true, false)?;
    Ok(Arc::new(header.on(Some(base)).into_storage()))
}

/// Makes an overlay at `path`, whole or not at all.
fn create_overlay(
    path: &Path,
    base: &Layer,
    base_path: &Path,
    format: DiskFormat,
) -> Result<(), Problem> {
    let base_path = fs::canonicalize(base_path).map_err(Problem::Open)?;
    let name = base_path.to_str().ok_or(Problem::NotUtf8)?;
    let format = if format == DiskFormat::Qcow2 { "qcow2" } else { "raw" };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let make = || {
        let file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
        Layer::create(file.as_file().try_clone()?, base.size(), name, format)?;
        file.as_file().sync_all()?;
        match file.persist_noclobber(path) {
            Ok(_) => Ok(()),
            // Another VM was as quick; whose it is shows when it is opened.
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error.error),
        }
    };
    make().map_err(Problem::CreateOverlay)
}

/// Checks that the image at `path` was made on top of `disk`; what format that had then.
fn overlay_of(
    content: Content,
    path: &Path,
    disk: &Disk,
) -> Result<(Box<Qcow2Header>, DiskFormat), Problem> {
    let Content::Qcow2(header) = content else {
        return Err(Problem::ForeignOverlay("a raw disk".to_owned()));
    };
    let Some((name, format)) = header.backing() else {
        return Err(Problem::ForeignOverlay("an image on its own".to_owned()));
    };
    let base = resolve(name, path)?;
    if Identity::at(&base).ok() != Identity::at(&disk.path).ok() {
        return Err(Problem::ForeignOverlay(format!("one of {}", base.display())));
    }
    let recorded = backing_format(format)?;
    if disk.format != DiskFormat::Auto && recorded != disk.format {
        let recorded = format.unwrap_or("unknown");
        let what = format!("one of a disk of format {recorded}");
        return Err(Problem::ForeignOverlay(what));
    }
    Ok((header, recorded))
}
