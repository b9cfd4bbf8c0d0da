//! Initramfs images of busybox, an init script and kernel modules. Which modules and scripts is the callers' business.

use std::io;
use std::path::Path;
use std::process::Command;

use crate::cpio::Archive;
use crate::modules::{self, Module};
use crate::{files, process};

/// Why an image cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Writing the archive failed.
    #[error("cannot write the initramfs archive")]
    Archive(#[from] io::Error),
    /// A file cannot be read or written.
    #[error(transparent)]
    Files(#[from] files::Error),
    /// busybox does not say what it can do.
    #[error(transparent)]
    Process(#[from] process::Error),
}

/// What an image consists of.
#[derive(Debug)]
pub struct Contents<'a> {
    /// A statically linked busybox.
    pub busybox: &'a Path,
    /// Text of `/init`.
    pub init: &'a str,
    /// Release of the kernel the modules are for.
    pub version: &'a str,
    /// More scripts: where, and their text.
    pub scripts: &'a [(&'a str, &'a str)],
    /// The modules, dependencies first.
    pub modules: &'a [Module],
    /// How many of them, from the first on, are named in `/etc/modules` for the script to load. The others wait for a
    /// file system or protocol to be asked for.
    pub loaded: usize,
    /// Empty directories the script mounts things on, besides the usual ones.
    pub mount_points: &'a [&'a str],
}

impl Contents<'_> {
    /// Writes the image, uncompressed: the kernel unpacks it faster than it could decompress it.
    pub fn build(&self, path: &Path) -> Result<(), Error> {
        let mut archive = Archive::new(Vec::new());
        for directory in ["bin", "dev", "etc", "lib", "proc", "root", "run", "sys", "tmp"] {
            archive.directory(directory)?;
        }
        for directory in self.mount_points {
            archive.directory(directory)?;
        }
        archive.symlink("sbin", "bin")?;
        archive.character_device("dev/console", 5, 1)?;
        archive.file("init", 0o755, self.init.as_bytes())?;
        for (path, text) in self.scripts {
            archive.file(path, 0o755, text.as_bytes())?;
        }
        archive.symlink("etc/resolv.conf", "../run/resolv.conf")?;
        archive.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n")?;
        archive.file("etc/group", 0o644, b"root:x:0:\n")?;
        self.add_busybox(&mut archive)?;
        self.add_modules(&mut archive)?;
        Ok(files::replace(path, &archive.finish()?)?)
    }

    fn add_busybox(&self, archive: &mut Archive<Vec<u8>>) -> Result<(), Error> {
        archive.file("bin/busybox", 0o755, &files::read(self.busybox)?)?;
        let applets = process::output(Command::new(self.busybox).arg("--list"))?;
        for applet in applets.lines().filter(|applet| *applet != "busybox") {
            archive.symlink(&format!("bin/{applet}"), "busybox")?;
        }
        Ok(())
    }

    fn add_modules(&self, archive: &mut Archive<Vec<u8>>) -> Result<(), Error> {
        archive.directory("lib/modules")?;
        let directory = format!("lib/modules/{}", self.version);
        archive.directory(&directory)?;
        for module in self.modules {
            archive.file(&format!("{directory}/{}.ko", module.name), 0o644, &module.image)?;
        }
        let dep = modules::modules_dep(self.modules);
        archive.file(&format!("{directory}/modules.dep"), 0o644, dep.as_bytes())?;
        let alias = modules::modules_alias(self.modules);
        archive.file(&format!("{directory}/modules.alias"), 0o644, alias.as_bytes())?;
        let loaded = self.modules.iter().take(self.loaded);
        let names: String = loaded.map(|module| format!("{}\n", module.name)).collect();
        Ok(archive.file("etc/modules", 0o644, names.as_bytes())?)
    }
}
