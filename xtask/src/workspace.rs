//! Where things are: the checkout, and the folders under `target/xtask/` in which tasks keep what they fetched and built.

use std::path::{Path, PathBuf};

/// The checkout this binary was built from.
#[derive(Debug, Clone)]
pub struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// Finds the checkout.
    pub fn find() -> Self {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self { root: manifest.parent().unwrap_or(manifest).to_owned() }
    }

    /// The folder of the workspace's `Cargo.toml`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Everything tasks fetched or built, by folder. Deleting it costs time only.
    pub fn cache(&self, folder: &str) -> PathBuf {
        self.root.join("target/xtask").join(folder)
    }
}
