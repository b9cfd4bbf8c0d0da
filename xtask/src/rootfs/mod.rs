//! Disk images whose root file system is a real Debian user space, for guests that boot from virtio disks: built once by
//! Debian's own tools, kept in the cache. What is in them beyond packages is in [`overlay`].

mod debian;
mod image;
mod overlay;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::workspace::Workspace;
use crate::{apt, files, guest, process};

/// Raised where images change for a reason other than their packages and files.
const FORMAT: u32 = 1;

/// Why there are no images.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Files of other owners cannot be made.
    #[error(
        "the guests' Debian root file systems can be built by root only: run `cargo xtask guest` as root once"
    )]
    NotRoot,
    /// A file cannot be read or written.
    #[error(transparent)]
    Files(#[from] files::Error),
    /// Debian's tools cannot be had.
    #[error(transparent)]
    Apt(#[from] apt::Error),
    /// One of them failed.
    #[error(transparent)]
    Process(#[from] process::Error),
}

/// The images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roots {
    /// Distinguishes images made from other contents.
    pub key: String,
    /// By kind: `ext4` and `btrfs` are raw and named after their file system, `qcow2` holds the former. All are sparse.
    pub images: BTreeMap<String, PathBuf>,
}

impl Roots {
    /// Whether this is what would be built now, and still there.
    pub fn current(&self) -> bool {
        self.key == key() && self.images.values().all(|image| image.exists())
    }

    /// Builds the images in `directory`. The caller holds the cache's lock.
    pub fn build(workspace: &Workspace, directory: &Path) -> Result<Self, Error> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        let tree = directory.join("root.tree");
        files::remove_tree(&tree)?;
        let built = debian::install(workspace, &tree)
            .and_then(|()| overlay::apply(&tree))
            .and_then(|()| image::build_all(workspace, &tree, directory));
        files::remove_tree(&tree)?;
        Ok(Self { key: key(), images: built? })
    }
}

fn key() -> String {
    let mut digest = Sha256::new();
    digest.update(FORMAT.to_le_bytes());
    digest.update(debian::description());
    digest.update(overlay::description());
    digest.update(image::description());
    guest::hex(&digest.finalize())
}
