//! What `run` and `create` share: from flags and file to a guest in the store.

use std::path::PathBuf;
use std::{env, fs, io};

use resources::config::{self, VmConfig};
use vmm::guests::{Entry, New, Store};
use vmm::jail::Switch;
use vmm::preflight;

use crate::cli::confine::ConfineFlags;
use crate::cli::guests::KeepFlags;
use crate::cli::{KvmArgs, VmFlags};
use crate::exit;

/// Why no guest could be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the config file {} cannot be read; check --config", .path.display())]
    ReadConfig { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Preflight(#[from] preflight::Error),
    #[error("the current folder cannot be told; go to one that exists")]
    Folder(#[source] io::Error),
    #[error(transparent)]
    Store(#[from] vmm::guests::Error),
}

/// The flags over the config file, complete, valid and fit to start.
pub fn configuration(file: Option<&PathBuf>, flags: &VmFlags) -> Result<VmConfig, Error> {
    let file = match file {
        None => None,
        Some(path) => {
            let content = fs::read(path)
                .map_err(|source| Error::ReadConfig { path: path.clone(), source })?;
            Some(config::File::parse(path, content)?)
        }
    };
    let config = config::load(file.as_ref(), flags.spec())?;
    preflight::check(&config)?;
    Ok(config)
}

/// Adds a guest to the store.
pub fn guest(
    store: &Store,
    mut config: VmConfig,
    kvm: &KvmArgs,
    keep: &KeepFlags,
    confine: &ConfineFlags,
    detached: bool,
) -> Result<Entry, Error> {
    if confine.jail == Switch::Off {
        // Whatever the log level.
        exit::say(
            "warning: --jail off: a guest that takes over its VMM can do whatever you can; only for debugging",
        );
    }
    Ok(store.create(New {
        // The store knows it from here on, and may change it.
        name: config.name.take(),
        folder: env::current_dir().map_err(Error::Folder)?,
        kvm_device: std::path::absolute(&kvm.kvm_device).map_err(Error::Folder)?,
        labels: keep.labels.iter().cloned().collect(),
        restart: keep.restart,
        remove: keep.rm,
        detached,
        confinement: confine.settings(),
        of_file: false,
        config,
    })?)
}
