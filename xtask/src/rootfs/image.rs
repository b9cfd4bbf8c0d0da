//! Disk images of a folder. The file systems are written by their own tools, which need no mounting for it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Error;
use crate::apt::{Apt, Suite};
use crate::workspace::Workspace;
use crate::{files, process};

const MKE2FS: &str = "mke2fs";
const MKFS_BTRFS: &str = "mkfs.btrfs";
const QEMU_IMG: &str = "qemu-img";
/// The programs and their packages.
const TOOLS: [(&str, &str, Suite); 3] = [
    (MKE2FS, "e2fsprogs", Suite::Stable),
    (MKFS_BTRFS, "btrfs-progs", Suite::Stable),
    // Of the same suite as QEMU: two versions cannot be installed side by side.
    (QEMU_IMG, "qemu-utils", Suite::Backports),
];
const REMEDY: &str = "They build disk images of guests.";

/// Size of the disks. The files take some 300 MiB.
const SIZE: u64 = 768 << 20;
/// Everything is written now, for nothing to be initialized in the background of a test.
const MKE2FS_OPTIONS: [&str; 6] =
    ["-E", "lazy_itable_init=0,lazy_journal_init=0", "-m", "0", "-N", "32768"];
const BTRFS_OPTIONS: [&str; 4] = ["-m", "single", "-d", "single"];
/// Label of each file system.
const LABEL: &str = "root";

/// What decides the images besides the files in them.
pub fn description() -> String {
    format!("{SIZE}{MKE2FS_OPTIONS:?}{BTRFS_OPTIONS:?}{LABEL}")
}

/// Writes all images of `tree` into `directory`.
pub fn build_all(
    workspace: &Workspace,
    tree: &Path,
    directory: &Path,
) -> Result<BTreeMap<String, PathBuf>, Error> {
    install_tools(workspace)?;
    let ext4 = directory.join("root.ext4");
    build(&ext4, |image| {
        let mut command = program(MKE2FS);
        command.args(["-q", "-t", "ext4", "-L", LABEL]).args(MKE2FS_OPTIONS);
        command.arg("-d").arg(tree).arg(image);
        command
    })?;
    let btrfs = directory.join("root.btrfs");
    build(&btrfs, |image| {
        let mut command = program(MKFS_BTRFS);
        command.args(["-q", "-L", LABEL]).args(BTRFS_OPTIONS);
        command.arg("--rootdir").arg(tree).arg(image);
        command
    })?;
    let qcow2 = directory.join("root.qcow2");
    build(&qcow2, |image| {
        let mut command = program(QEMU_IMG);
        command.args(["convert", "-q", "-f", "raw", "-O", "qcow2"]).arg(&ext4).arg(image);
        command
    })?;
    Ok([("ext4", ext4), ("btrfs", btrfs), ("qcow2", qcow2)]
        .map(|(kind, image)| (kind.to_owned(), image))
        .into())
}

/// Runs a command that fills an image, an empty disk before. The image replaces an older one in one step.
fn build(image: &Path, command: impl FnOnce(&Path) -> Command) -> Result<(), Error> {
    eprintln!("xtask: writing {}", image.display());
    let partial = files::sibling(image, "new");
    let made = File::create(&partial).and_then(|file| file.set_len(SIZE));
    made.map_err(files::at("write", &partial))?;
    process::run_quietly(&mut command(&partial))?;
    Ok(files::rename(&partial, image)?)
}

fn install_tools(workspace: &Workspace) -> Result<(), Error> {
    for (tool, package, suite) in TOOLS {
        if process::find(tool).is_none() {
            Apt::open(workspace, REMEDY)?.install(&[package], suite)?;
        }
    }
    Ok(())
}

fn program(name: &str) -> Command {
    Command::new(process::find(name).unwrap_or_else(|| name.into()))
}
