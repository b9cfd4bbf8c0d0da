//! Bodies of requests to the host.

use std::collections::BTreeMap;
use std::path::PathBuf;

use resources::Size;
use resources::config::{self, Name, VmSpec};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::api::problem::{Kind, Problem};
use crate::api::types::{BalloonUpdate, DiskUpdate, NetUpdate};
use crate::guests::{New, Restart, Update, check_label};
use crate::preflight;

/// A guest to be made.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewGuest {
    /// The machine, as in a config file; its name is the guest's.
    config: VmSpec,
    /// The folder that relative paths start from, itself absolute; `/` unless told otherwise.
    #[serde(default = "root")]
    folder: PathBuf,
    /// The KVM device.
    #[serde(default = "kvm")]
    kvm_device: PathBuf,
    /// What is noted about it.
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// When it is started again after its end.
    #[serde(default)]
    restart: Restart,
    /// Whether it is removed when it has ended.
    #[serde(default)]
    remove: bool,
    /// Whether it is started, too.
    #[serde(default)]
    pub start: bool,
}

fn root() -> PathBuf {
    "/".into()
}

fn kvm() -> PathBuf {
    "/dev/kvm".into()
}

impl NewGuest {
    /// What the store makes the guest from.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] naming the first value that cannot be, or all of the configuration.
    pub fn checked(self) -> Result<New, Problem> {
        let invalid = |detail: String| Problem::new(Kind::Invalid, detail);
        for (what, path) in [("folder", &self.folder), ("kvm_device", &self.kvm_device)] {
            if !path.is_absolute() {
                let path = path.display();
                return Err(invalid(format!("{what} is {path}; write a path that begins with /")));
            }
        }
        if self.remove && self.restart != Restart::No {
            return Err(invalid(
                "a guest that is removed at its end cannot be started again by a policy; leave out \
                 `remove` or `restart`"
                    .to_owned(),
            ));
        }
        check_labels(&self.labels)?;
        let spec = self.config.relative_to(&self.folder);
        let mut config = config::load(None, spec).map_err(|error| invalid(error.to_string()))?;
        preflight::check(&config).map_err(|error| invalid(crate::explain(&error)))?;
        Ok(New {
            confinement: crate::jail::Settings::default(),
            // The store knows it from here on, and may change it.
            name: config.name.take(),
            folder: self.folder,
            kvm_device: self.kvm_device,
            labels: self.labels,
            restart: self.restart,
            remove: self.remove,
            detached: true,
            of_file: false,
            config,
        })
    }
}

/// What is to change about a guest, at once and for its next starts. What is left out stays as it is.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GuestUpdate {
    /// What it is called from now on.
    pub name: Option<Name>,
    /// Disks by name.
    disks: BTreeMap<Name, DiskUpdate>,
    /// Network devices by name.
    nets: BTreeMap<Name, NetUpdate>,
    /// The balloon.
    balloon: Option<BalloonUpdate>,
    /// When it is started again after its end.
    restart: Option<Restart>,
    /// Labels to set.
    labels: BTreeMap<String, String>,
}

impl GuestUpdate {
    /// All but the name, as commands change it.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] for a label that cannot be.
    pub fn update(&self) -> Result<Update, Problem> {
        check_labels(&self.labels)?;
        Ok(Update {
            disks: self.disks.iter().map(|(name, update)| (name.clone(), *update)).collect(),
            nets: self.nets.iter().map(|(name, update)| (name.clone(), *update)).collect(),
            balloon: self.balloon.map(|balloon| Size::from_bytes(balloon.target)),
            restart: self.restart,
            labels: self.labels.clone().into_iter().collect(),
        })
    }
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Problem> {
    let checked = labels.iter().try_for_each(|(key, value)| check_label(key, value));
    checked.map_err(|error| Problem::new(Kind::Invalid, error.to_string()))
}
