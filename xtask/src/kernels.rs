//! The stock kernels and the static busybox that tests run, as unpacked distribution packages in the cache.
//! Fetched once; later runs need no network. What is made of them (initramfs images) is not here.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::apt::{self, Apt, Suite};
use crate::files;
use crate::workspace::Workspace;

/// Root trees with kernels to use instead of fetching any, separated by colons. `/` is this machine's own.
const KERNELS_VARIABLE: &str = "CARVE_KERNELS";
/// A statically linked busybox to use instead of fetching one.
const BUSYBOX_VARIABLE: &str = "CARVE_BUSYBOX";

/// What to tell where the distribution's packages cannot be had.
pub const REMEDY: &str = "set CARVE_KERNELS to a root tree with boot/vmlinuz-VERSION and lib/modules/VERSION \
    (\"/\" for this machine's own kernels; several separated by colons), and CARVE_BUSYBOX to a statically linked busybox";

/// The kernels, by Debian's meta packages, each in the release and its backports.
const META_PACKAGES: [&str; 2] = ["linux-image-cloud-amd64", "linux-image-amd64"];
const SUITES: [Suite; 2] = [Suite::Stable, Suite::Backports];
const BUSYBOX_PACKAGE: &str = "busybox-static";

/// Why the kernels cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tree named by the user has no kernel.
    #[error("{KERNELS_VARIABLE}: {} has no readable boot/vmlinuz-VERSION with lib/modules/VERSION", tree.display())]
    NoKernel {
        /// The tree.
        tree: PathBuf,
    },
    /// The busybox named by the user is not there.
    #[error("{BUSYBOX_VARIABLE}: {} is not a file", path.display())]
    NoBusybox {
        /// The path.
        path: PathBuf,
    },
    /// The meta package names no kernel.
    #[error("the package {package} {version} depends on no linux-image package")]
    NotMeta {
        /// The meta package.
        package: String,
        /// Its version.
        version: String,
    },
    /// A file of the cache.
    #[error(transparent)]
    Files(#[from] files::Error),
    /// Fetching failed.
    #[error(transparent)]
    Apt(#[from] apt::Error),
}

/// One kernel as its distribution ships it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// Short name, such as `debian-6.1-cloud`.
    pub id: String,
    /// Its release, as `uname -r` prints it.
    pub version: String,
    /// The bzImage.
    pub image: PathBuf,
    /// Its `lib/modules/VERSION`.
    pub modules: PathBuf,
}

/// Everything guests and the emulated host are made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalogue {
    /// The kernels; the first is the default.
    pub kernels: Vec<Kernel>,
    /// A statically linked busybox.
    pub busybox: PathBuf,
}

impl Catalogue {
    /// The kernels and busybox, from the places the environment names or the cache; fetched where missing.
    /// `refresh` asks the distribution for newer versions. The caller holds the cache's lock.
    pub fn obtain(workspace: &Workspace, refresh: bool) -> Result<Self, Error> {
        let directory = workspace.cache("packages");
        files::create_dir(&directory)?;
        let kernels = match std::env::var(KERNELS_VARIABLE) {
            Ok(trees) => given_kernels(&trees)?,
            Err(_) => cached(&directory.join("kernels.json"), refresh, || {
                fetch_kernels(workspace, &directory)
            })?,
        };
        let busybox = match std::env::var_os(BUSYBOX_VARIABLE) {
            Some(path) => given_busybox(PathBuf::from(path))?,
            None => cached(&directory.join("busybox.json"), refresh, || {
                fetch_busybox(workspace, &directory)
            })?,
        };
        Ok(Self { kernels, busybox })
    }

    /// The kernel called `id` (or of that release).
    pub fn kernel(&self, id: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|kernel| kernel.id == id || kernel.version == id)
    }
}

/// The value recorded in `path` if what it names is still there, else a fetched one.
fn cached<T: Serialize + serde::de::DeserializeOwned + Complete>(
    path: &Path,
    refresh: bool,
    fetch: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    if !refresh
        && let Ok(Some(value)) = files::read_json::<T>(path)
        && value.complete()
    {
        return Ok(value);
    }
    let value = fetch()?;
    files::write_json(path, &value)?;
    Ok(value)
}

/// Whether all files a record names exist.
trait Complete {
    fn complete(&self) -> bool;
}

impl Complete for Vec<Kernel> {
    fn complete(&self) -> bool {
        !self.is_empty()
            && self.iter().all(|kernel| kernel.image.exists() && kernel.modules.exists())
    }
}

impl Complete for PathBuf {
    fn complete(&self) -> bool {
        self.exists()
    }
}

fn fetch_kernels(workspace: &Workspace, directory: &Path) -> Result<Vec<Kernel>, Error> {
    let apt = Apt::open(workspace, REMEDY)?;
    let mut kernels: Vec<Kernel> = Vec::new();
    for suite in SUITES {
        for meta in META_PACKAGES {
            let package = apt.find(meta, suite)?;
            let image = package.depends.iter().find(|name| name.starts_with("linux-image-"));
            let Some(name) = image else {
                return Err(Error::NotMeta { package: package.name, version: package.version });
            };
            let tree = unpacked(&apt, directory, name, suite)?;
            for kernel in kernels_in(&tree) {
                if !kernels.iter().any(|known| known.id == kernel.id) {
                    kernels.push(kernel);
                }
            }
        }
    }
    Ok(kernels)
}

fn fetch_busybox(workspace: &Workspace, directory: &Path) -> Result<PathBuf, Error> {
    let apt = Apt::open(workspace, REMEDY)?;
    let tree = unpacked(&apt, directory, BUSYBOX_PACKAGE, Suite::Stable)?;
    let candidates = ["bin/busybox", "usr/bin/busybox"].map(|path| tree.join(path));
    let found = candidates.iter().find(|path| path.is_file()).unwrap_or(&candidates[0]);
    given_busybox(found.clone())
}

/// The unpacked tree of a package's newest version, fetched if the cache does not have it.
fn unpacked(apt: &Apt, directory: &Path, name: &str, suite: Suite) -> Result<PathBuf, Error> {
    let package = apt.find(name, suite)?;
    // Colons separate paths in lists of them: write epochs as Debian does in file names.
    let version = package.version.replace(':', "%3a");
    let tree = directory.join(format!("{}_{version}", package.name));
    if !tree.exists() {
        apt.unpack(&package, &tree)?;
    }
    Ok(tree)
}

fn given_kernels(trees: &str) -> Result<Vec<Kernel>, Error> {
    let mut kernels = Vec::new();
    for tree in std::env::split_paths(trees) {
        let found = kernels_in(&tree);
        if found.is_empty() {
            return Err(Error::NoKernel { tree });
        }
        kernels.extend(found);
    }
    Ok(kernels)
}

fn given_busybox(path: PathBuf) -> Result<PathBuf, Error> {
    if path.is_file() { Ok(path) } else { Err(Error::NoBusybox { path }) }
}

/// Kernels with their modules in a root tree.
fn kernels_in(tree: &Path) -> Vec<Kernel> {
    let images = files::list(&tree.join("boot")).unwrap_or_default();
    let modules = ["lib/modules", "usr/lib/modules"];
    images
        .into_iter()
        .filter_map(|image| {
            let version = image.file_name()?.to_str()?.strip_prefix("vmlinuz-")?.to_owned();
            let modules = modules
                .map(|folder| tree.join(folder).join(&version))
                .into_iter()
                .find(|folder| folder.is_dir())?;
            Some(Kernel { id: id_of(&version), version, image, modules })
        })
        .collect()
}

/// `debian-MAJOR.MINOR[-FLAVOUR]` for a Debian kernel, `linux-RELEASE` for any other.
fn id_of(version: &str) -> String {
    let other = || format!("linux-{version}");
    let Some(rest) = version.strip_suffix("-amd64") else { return other() };
    let mut numbers = rest.split('.');
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else { return other() };
    let flavour = rest.rsplit('-').next().filter(|word| word.chars().all(char::is_alphabetic));
    let flavour = flavour.map(|word| format!("-{word}")).unwrap_or_default();
    format!("debian-{major}.{minor}{flavour}")
}

#[cfg(test)]
mod id_test {
    use super::id_of;

    #[test]
    fn ids_name_series_and_flavour_not_the_upload() {
        assert_eq!(id_of("6.1.0-56-cloud-amd64"), "debian-6.1-cloud");
        assert_eq!(id_of("6.1.0-56-amd64"), "debian-6.1");
        assert_eq!(id_of("6.12.95+deb12-cloud-amd64"), "debian-6.12-cloud");
        assert_eq!(id_of("6.12.95+deb12-amd64"), "debian-6.12");
        assert_eq!(id_of("6.8.0-50-generic"), "linux-6.8.0-50-generic");
    }
}
