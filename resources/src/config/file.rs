//! [`File`]: a VM described in TOML, with every error at its line and column.

use std::path::Path;

use super::catalogue::Catalogue;
use super::document::Document;
use super::{Error, Location, VmSpec};

/// A config file, read.
#[derive(Clone, Debug)]
pub struct File {
    document: Document,
    spec: VmSpec,
}

impl File {
    /// Reads the `content` of the file at `path`, against whose folder relative
    /// paths in it are taken.
    ///
    /// # Errors
    ///
    /// Text that is not UTF-8 or not TOML, unknown keys (all of them, each with
    /// the known key it resembles) and values of a wrong type.
    pub fn parse(path: &Path, content: Vec<u8>) -> Result<Self, Error> {
        let document = Document::new(path, content, Catalogue::Vm)?;
        let spec = document.read::<VmSpec>(document.table()?, 0..0, "");
        let spec = spec.map_err(|problems| Error { problems })?;
        let spec = spec.relative_to(document.folder());
        Ok(Self { document, spec })
    }

    /// What the file says, its relative paths resolved.
    #[must_use]
    pub fn spec(&self) -> &VmSpec {
        &self.spec
    }

    /// Where the value of the key at `path` (as in `memory.size`) stands, or that
    /// of the nearest table around it.
    #[must_use]
    pub fn locate(&self, path: &str) -> Option<Location> {
        self.document.locate(path)
    }
}

#[cfg(test)]
#[path = "file_test.rs"]
mod file_test;
