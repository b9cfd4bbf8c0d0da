//! A writer for `cpio` archives of the "newc" format, the one the kernel unpacks as an initramfs
//! (Documentation/driver-api/early-userspace/buffer-format.rst). No compression, no hard links.

use std::io::{self, Write};

/// Name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";
/// Headers, names and contents start on multiples of this many bytes.
const ALIGNMENT: u64 = 4;

const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFCHR: u32 = 0o020_000;

/// An archive being written. Entries are owned by root and dated at the epoch, so that the same
/// input always gives the same bytes.
#[derive(Debug)]
pub struct Archive<W> {
    out: W,
    inode: u32,
    written: u64,
}

impl<W: Write> Archive<W> {
    /// Starts an archive.
    pub fn new(out: W) -> Self {
        Self { out, inode: 0, written: 0 }
    }

    /// Adds a directory. Parents must have been added before.
    pub fn directory(&mut self, path: &str) -> io::Result<()> {
        self.header(path, S_IFDIR | 0o755, 0, (0, 0))
    }

    /// Adds a regular file with the permission bits `mode`.
    pub fn file(&mut self, path: &str, mode: u32, contents: &[u8]) -> io::Result<()> {
        self.header(path, S_IFREG | mode, contents.len(), (0, 0))?;
        self.write(contents)?;
        self.pad()
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.header(path, S_IFLNK | 0o777, target.len(), (0, 0))?;
        self.write(target.as_bytes())?;
        self.pad()
    }

    /// Adds a character device, accessible by root only.
    pub fn character_device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        self.header(path, S_IFCHR | 0o600, 0, (major, minor))
    }

    /// Ends the archive and returns what it was written to.
    pub fn finish(mut self) -> io::Result<W> {
        self.inode = 0;
        self.header(TRAILER, 0, 0, (0, 0))?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn header(&mut self, path: &str, mode: u32, size: usize, rdev: (u32, u32)) -> io::Result<()> {
        let size = u32::try_from(size).map_err(|_| too_large(path))?;
        let name_size = u32::try_from(path.len() + 1).map_err(|_| too_large(path))?;
        let inode = self.inode;
        self.inode += 1;
        let links = 1;
        let fields = [inode, mode, 0, 0, links, 0, size, 0, 0, rdev.0, rdev.1, name_size, 0];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08X}"));
        }
        self.write(header.as_bytes())?;
        self.write(path.as_bytes())?;
        self.write(&[0])?;
        self.pad()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self) -> io::Result<()> {
        while !self.written.is_multiple_of(ALIGNMENT) {
            self.write(&[0])?;
        }
        Ok(())
    }
}

fn too_large(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{path}: the newc format ends at 4 GiB"))
}

#[cfg(test)]
#[path = "cpio_test.rs"]
mod cpio_test;
