//! Debian's package tools, with sources, lists and archives of our own under the cache, so that backports can be
//! used without touching the machine's configuration. Fetching works for any user, installing for root.

mod sources;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::workspace::Workspace;
use crate::{files, process};

/// What apt cannot do here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a Debian machine.
    #[error("this machine has no apt: {remedy}")]
    NoApt {
        /// What to do instead.
        remedy: String,
    },
    /// Nothing to derive the sources from.
    #[error(
        "no Debian package source for {codename} with the component main in /etc/apt: add one, or {remedy}"
    )]
    NoSource {
        /// Name of the release.
        codename: String,
        /// What to do instead.
        remedy: String,
    },
    /// The package is not in any source.
    #[error(
        "package {package} is in no package source of this machine (nor its backports): {remedy}"
    )]
    NoPackage {
        /// Name of the package.
        package: String,
        /// What to do instead.
        remedy: String,
    },
    /// Installing needs root.
    #[error("missing: {packages}. Install them as root: apt-get install {packages}\n{remedy}")]
    NotRoot {
        /// The packages, separated by blanks.
        packages: String,
        /// What else helps.
        remedy: String,
    },
    /// A file of the cache or of apt.
    #[error(transparent)]
    Files(#[from] files::Error),
    /// A program failed.
    #[error(transparent)]
    Process(#[from] process::Error),
}

/// Result of a package operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Which release a package comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// The machine's own release, with its updates.
    Stable,
    /// Its backports.
    Backports,
}

/// A package at one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The names it depends on, first alternatives only.
    pub depends: Vec<String>,
}

/// apt with a private configuration.
#[derive(Debug)]
pub struct Apt {
    directory: PathBuf,
    codename: String,
    remedy: String,
}

impl Apt {
    /// Sets up the private configuration. `remedy` is what to tell the user to do where packages cannot be had.
    pub fn open(workspace: &Workspace, remedy: &str) -> Result<Self> {
        let remedy = remedy.to_owned();
        if process::find("apt-get").is_none() {
            return Err(Error::NoApt { remedy });
        }
        let codename = codename()?;
        let derived = sources::with_backports(&machine_sources()?, &codename);
        let Some(text) = derived else { return Err(Error::NoSource { codename, remedy }) };
        let directory = workspace.cache("apt");
        files::create_dir(&directory.join("lists/partial"))?;
        files::create_dir(&directory.join("archives/partial"))?;
        let apt = Self { directory, codename, remedy };
        let path = apt.sources();
        if files::read_text(&path).is_ok_and(|old| old == text) && apt.stamp().exists() {
            return Ok(apt);
        }
        files::replace(&path, text.as_bytes())?;
        apt.update()?;
        Ok(apt)
    }

    /// The newest version of a package in a suite. Asks the network once more where the lists do not have it.
    pub fn find(&self, package: &str, suite: Suite) -> Result<Package> {
        if let Some(found) = self.show(package, suite)? {
            return Ok(found);
        }
        self.update()?;
        self.show(package, suite)?.ok_or_else(|| Error::NoPackage {
            package: package.to_owned(),
            remedy: self.remedy.clone(),
        })
    }

    /// Fetches a package and unpacks its files into `directory`, which must not exist.
    pub fn unpack(&self, package: &Package, directory: &Path) -> Result<()> {
        let partial = files::sibling(directory, "partial");
        files::remove_tree(&partial)?;
        files::create_dir(&partial)?;
        self.download(package, &partial)?;
        for archive in files::list(&partial)? {
            if archive.extension().is_some_and(|extension| extension == "deb") {
                let tree = partial.join("tree");
                process::run_quietly(Command::new("dpkg-deb").arg("-x").arg(archive).arg(tree))?;
            }
        }
        files::rename(&partial.join("tree"), directory)?;
        files::remove_tree(&partial)?;
        Ok(())
    }

    /// Installs packages into the machine, from backports where the machine's own release has older ones. Needs root.
    pub fn install(&self, packages: &[&str], suite: Suite) -> Result<()> {
        if !rustix::process::geteuid().is_root() {
            let words: Vec<_> =
                self.target(suite).into_iter().chain(packages.iter().map(|&p| p.into())).collect();
            let packages = words.join(" ");
            return Err(Error::NotRoot { packages, remedy: self.remedy.clone() });
        }
        eprintln!("xtask: installing {} (some 10 s)", packages.join(" "));
        let install = || {
            process::run_quietly(
                self.command("apt-get")
                    .env("DEBIAN_FRONTEND", "noninteractive")
                    .args(["install", "-y", "-q", "--no-install-recommends"])
                    .args(self.target(suite))
                    .args(packages),
            )
        };
        // Lists that are older than the archive name files that are gone.
        install().or_else(|_| {
            self.update()?;
            Ok(install()?)
        })
    }

    fn download(&self, package: &Package, into: &Path) -> Result<()> {
        eprintln!("xtask: fetching {} {}", package.name, package.version);
        let exact = format!("{}={}", package.name, package.version);
        let download = || {
            process::run_quietly(
                self.command("apt-get").args(["download", "-q", &exact]).current_dir(into),
            )
        };
        download().or_else(|_| {
            self.update()?;
            Ok(download()?)
        })
    }

    fn show(&self, package: &str, suite: Suite) -> Result<Option<Package>> {
        let shown = process::output(
            self.command("apt-cache")
                .args(["show", "--no-all-versions"])
                .args(self.target(suite))
                .arg(package),
        );
        match shown {
            Ok(text) => Ok(parse_record(&text)),
            // apt-cache fails where it knows no package of that name.
            Err(process::Error::Failed { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn update(&self) -> Result<()> {
        eprintln!("xtask: fetching the package lists of {} and its backports", self.codename);
        process::run_quietly(self.command("apt-get").args(["update", "-q"]))?;
        Ok(files::replace(&self.stamp(), b"")?)
    }

    /// Options that choose a suite. The machine's own release is the default: naming it would hide its
    /// security updates, which are another suite with the same priority.
    fn target(&self, suite: Suite) -> Vec<String> {
        match suite {
            Suite::Stable => Vec::new(),
            Suite::Backports => vec!["-t".into(), sources::backports_suite(&self.codename)],
        }
    }

    /// Name of the machine's release.
    pub fn codename(&self) -> &str {
        &self.codename
    }

    /// The private list of package sources, in the deb822 format.
    pub fn sources(&self) -> PathBuf {
        self.directory.join("debian.sources")
    }

    fn stamp(&self) -> PathBuf {
        self.directory.join("lists-fetched")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C.UTF-8").env("LANGUAGE", "C");
        for (option, path) in [
            ("Dir::Etc::SourceList", self.sources()),
            ("Dir::Etc::SourceParts", PathBuf::from("/dev/null")),
            ("Dir::State::Lists", self.directory.join("lists")),
            ("Dir::Cache", self.directory.clone()),
        ] {
            command.arg("-o").arg(format!("{option}={}", path.display()));
        }
        // The unprivileged user apt fetches as need not be able to reach this checkout.
        command.args(["-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=2"]);
        command
    }
}

/// Reads name, version and dependencies off the first record of `apt-cache show`.
fn parse_record(text: &str) -> Option<Package> {
    let record = text.split("\n\n").next()?;
    let field = |name: &str| {
        record
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(|value| value.trim().to_owned())
    };
    let depends = field("Depends").unwrap_or_default();
    Some(Package {
        name: field("Package")?,
        version: field("Version")?,
        depends: depends
            .split(',')
            .filter_map(|alternatives| alternatives.split_whitespace().next())
            .map(str::to_owned)
            .collect(),
    })
}

fn codename() -> Result<String> {
    let text = files::read_text(Path::new("/etc/os-release"))?;
    let value = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(value.unwrap_or("stable").trim_matches('"').to_owned())
}

fn machine_sources() -> Result<Vec<(String, String)>> {
    let mut paths = vec![PathBuf::from("/etc/apt/sources.list")];
    paths.extend(files::list(Path::new("/etc/apt/sources.list.d")).unwrap_or_default());
    let mut sources = Vec::new();
    for path in paths {
        let name = path.to_string_lossy().into_owned();
        if path.is_file() && (name.ends_with(".list") || name.ends_with(".sources")) {
            sources.push((name, files::read_text(&path)?));
        }
    }
    Ok(sources)
}

#[cfg(test)]
mod record_test {
    use super::*;

    #[test]
    fn the_first_record_of_a_meta_package_names_the_current_kernel() {
        let text = "Package: linux-image-amd64\nVersion: 6.1.1-2\n\
                    Depends: linux-image-6.1.0-5-amd64 (= 6.1.1-2), other | more\n\n\
                    Package: linux-image-amd64\nVersion: 6.1.0-1\n";
        let package = parse_record(text).unwrap();
        assert_eq!(package.version, "6.1.1-2");
        assert_eq!(package.depends, ["linux-image-6.1.0-5-amd64", "other"]);
    }
}
