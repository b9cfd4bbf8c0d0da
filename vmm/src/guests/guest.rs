//! [`Guest`]: what a guest is, whether or not it runs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use resources::config::host::Restart;
use resources::config::{Name, VmConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::id::Id;
use crate::jail::Settings;

/// The version of the files of guests. A newer Carve reads those of older ones.
pub const VERSION: u32 = 1;

/// What a guest is. Fields are only ever added within a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Guest {
    /// [`VERSION`].
    pub version: u32,
    /// What it is known by for good.
    pub id: Id,
    /// What it is called.
    pub name: Name,
    /// When it was created, in milliseconds since 1970.
    pub created_at: u64,
    /// The folder that relative paths of its configuration start from.
    pub folder: PathBuf,
    /// The KVM device.
    pub kvm_device: PathBuf,
    /// What the user noted about it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// When it is started again.
    #[serde(default)]
    pub restart: Restart,
    /// Whether it is removed when it has ended.
    #[serde(default)]
    pub remove: bool,
    /// Whether it runs without a terminal, watched by a monitor.
    pub detached: bool,
    /// Whether the host file made it, and not a command.
    #[serde(default)]
    pub of_file: bool,
    /// What its user wants.
    #[serde(default)]
    pub wanted: Wanted,
    /// How its VMM is confined.
    #[serde(default)]
    pub confinement: Settings,
    /// The machine.
    pub config: VmConfig,
}

/// What the user of a guest asked for last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Wanted {
    /// That it runs; what follows an end is up to [`Restart`].
    Running,
    /// Nothing yet, or that it stops.
    #[default]
    Stopped,
    /// That it is killed.
    Killed,
}

/// A label that no guest can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` is no label; it is KEY=VALUE, of which KEY may not be empty and neither may hold control characters", .0.escape_debug()
)]
pub struct InvalidLabel(String);

/// Whether a guest can have this label.
///
/// # Errors
///
/// [`InvalidLabel`].
pub fn check_label(key: &str, value: &str) -> Result<(), InvalidLabel> {
    let control = |text: &str| text.chars().any(char::is_control);
    let bad = key.is_empty() || key.contains('=') || control(key) || control(value);
    if bad { Err(InvalidLabel(format!("{key}={value}"))) } else { Ok(()) }
}
