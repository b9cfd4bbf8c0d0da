//! Raw disks: a file or block device whose bytes are the disk's, by io_uring or, where the host
//! refuses that, by plain system calls on the queue's worker.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::file::{BlockFile, Iovecs};
use super::uring::UringEngine;
use super::{Bounce, Data, Engine, Operation, Storage};
use crate::memory::GuestMemory;

/// How a raw disk is used.
#[derive(Clone, Copy, Debug, Default)]
pub struct RawOptions {
    /// The file was opened with O_DIRECT.
    pub direct: bool,
    /// Do without io_uring. Better for files in memory (tmpfs), which a ring would hand to threads of the
    /// kernel one by one, as it cannot ask them not to wait.
    pub synchronous: bool,
}

/// A raw disk.
#[derive(Debug)]
pub struct Raw {
    file: Arc<BlockFile>,
    capacity: AtomicU64,
    synchronous: bool,
    direct_align: u32,
}

impl Raw {
    /// The disk in `file`, a regular file (or memfd) or a block device; bytes after the last whole
    /// sector are not part of it.
    ///
    /// # Errors
    ///
    /// It is something else, its size cannot be told, or direct I/O does not work on it.
    pub fn new(mut file: File, options: RawOptions) -> io::Result<Self> {
        let kind = file.metadata()?.file_type();
        let is_device = kind.is_block_device();
        if !is_device && !kind.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is neither a regular file nor a block device",
            ));
        }
        let size = file.seek(SeekFrom::End(0))?;
        let direct = if options.direct { Some(direct_alignment(&file)?) } else { None };
        Ok(Self {
            direct_align: direct.and_then(|align| u32::try_from(align).ok()).unwrap_or(1),
            file: Arc::new(BlockFile {
                file,
                is_device,
                direct,
                no_discard: AtomicBool::new(false),
                lost: AtomicBool::new(false),
            }),
            capacity: AtomicU64::new(size / 512 * 512),
            synchronous: options.synchronous,
        })
    }

    /// Bytes that the host reads and writes at least at a time: 1 unless I/O is direct.
    pub fn alignment(&self) -> u32 {
        self.direct_align
    }
}

/// The smallest piece that direct I/O can read, into memory aligned no better than that.
fn direct_alignment(file: &File) -> io::Result<usize> {
    let read = |align: usize| {
        let mut buffer = vec![0; 8192 + 2 * align];
        let start = buffer.as_ptr().align_offset(8192).min(8191) + align;
        file.read_at(&mut buffer[start..][..align], 0).map(|_| align)
    };
    read(512).or_else(|_| read(4096))
}

impl Storage for Raw {
    fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Acquire)
    }

    fn host_size(&self) -> io::Result<u64> {
        (&self.file.file).seek(SeekFrom::End(0))
    }

    fn grow(&self, bytes: u64) -> io::Result<()> {
        // Whoever owns a block device, or this file, may have made it larger already.
        if self.host_size()? < bytes {
            if self.file.is_device {
                return Err(io::Error::other("the block device is smaller"));
            }
            self.file.file.set_len(bytes)?;
        }
        self.capacity.store(bytes, Ordering::Release);
        Ok(())
    }

    fn engine(&self, memory: &Arc<GuestMemory>, slots: u16) -> io::Result<Box<dyn Engine>> {
        let plain = PlainEngine::new(Arc::clone(&self.file));
        if self.synchronous {
            return Ok(Box::new(plain));
        }
        match UringEngine::new(plain, memory, slots) {
            Ok(engine) => Ok(Box::new(engine)),
            Err((plain, error)) => match error.raw_os_error() {
                // Not in this kernel (or not enough of it), forbidden, or the limit of locked memory (before 5.12).
                Some(libc::ENOSYS | libc::EPERM | libc::ENOMEM | libc::EINVAL) => {
                    tracing::info!("no io_uring ({error}): disks use plain system calls");
                    Ok(Box::new(plain))
                }
                _ => Err(error),
            },
        }
    }
}

/// Plain system calls: every operation is over when it returns.
#[derive(Debug)]
pub(super) struct PlainEngine {
    pub(super) file: Arc<BlockFile>,
    iovecs: Iovecs,
    bounce: Bounce,
}

impl PlainEngine {
    fn new(file: Arc<BlockFile>) -> Self {
        Self { file, iovecs: Iovecs::default(), bounce: Bounce::default() }
    }

    pub(super) fn run(&mut self, operation: Operation<'_>) -> io::Result<()> {
        match operation {
            Operation::Read(offset, data) => self.read(offset, &data),
            Operation::Write(offset, data) => self.write(offset, &data),
            Operation::Flush => self.file.flush(),
            Operation::Discard(range) => self.file.discard(range),
            Operation::WriteZeroes(range, unmap) => self.file.write_zeroes(range, unmap),
        }
    }

    fn read(&mut self, offset: u64, data: &Data<'_>) -> io::Result<()> {
        data.iovecs(true, &mut self.iovecs.0);
        if self.file.takes(&self.iovecs.0) {
            return self.file.read(&mut self.iovecs.0, offset);
        }
        let file = &self.file.file;
        self.bounce.fill(data, |buffer, at| file.read_exact_at(buffer, offset + at))
    }

    fn write(&mut self, offset: u64, data: &Data<'_>) -> io::Result<()> {
        data.iovecs(false, &mut self.iovecs.0);
        if self.file.takes(&self.iovecs.0) {
            return self.file.write(&mut self.iovecs.0, offset);
        }
        let file = &self.file.file;
        self.bounce.drain(data, |buffer, at| file.write_all_at(buffer, offset + at))
    }
}

impl Engine for PlainEngine {
    fn start(&mut self, _: u16, operation: Operation<'_>) -> Option<io::Result<()>> {
        Some(self.run(operation))
    }
}
