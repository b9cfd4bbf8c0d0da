//! [`Volume`]: a disk that Carve makes in a pool of the host.

use std::path::PathBuf;

use serde::Serialize;

use super::Name;
use crate::Size;

/// What a disk in a pool is made as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Volume {
    /// Name of the pool.
    pub pool: Name,
    /// Size the guest sees, a multiple of 4 KiB.
    pub size: Size,
    /// The image it begins as; empty without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<PathBuf>,
    /// Whether the file system gives it all its space when it is made.
    pub preallocate: bool,
}
