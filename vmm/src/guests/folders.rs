//! Where a user's guests are kept: the conventional places, or one folder of the user's choice.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Names one folder that holds everything instead of the conventional places.
pub const ROOT_VARIABLE: &str = "CARVE_ROOT";

/// Where root tells users of tenants what they may book.
const TENANTS: &str = "/run/carve-tenants";

/// The two folders of a user's guests, and one of all users'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folders {
    /// What outlives the host's reboots.
    pub state: PathBuf,
    /// What does not: sockets and locks.
    pub runtime: PathBuf,
    /// What root tells users of tenants; the same for all users.
    pub tenants: PathBuf,
}

/// There is no place for a user's guests.
#[derive(Debug, thiserror::Error)]
pub enum NoFolder {
    /// Nothing tells where the user's files are.
    #[error(
        "there is no home folder for the state of guests; set HOME, XDG_STATE_HOME or {ROOT_VARIABLE} to a folder with an absolute path"
    )]
    NoHome,
    /// The folder cannot be made.
    #[error("the folder {} cannot be made; make it, or set {ROOT_VARIABLE} to one you may write to", .path.display())]
    Make {
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Somebody else's folder lies there.
    #[error("the folder {} belongs to somebody else or is open to others; remove it, or set XDG_RUNTIME_DIR", .0.display())]
    NotOurs(PathBuf),
}

impl Folders {
    /// The folders of the user who runs this process: for root `/var/lib/carve` and `/run/carve`, for
    /// others those of the XDG Base Directory Specification.
    ///
    /// # Errors
    ///
    /// [`NoFolder::NoHome`].
    pub fn of_user() -> Result<Self, NoFolder> {
        let uid = rustix::process::geteuid().as_raw();
        Self::find(uid, |name| env::var_os(name).map(PathBuf::from))
    }

    fn find(uid: u32, variable: impl Fn(&str) -> Option<PathBuf>) -> Result<Self, NoFolder> {
        // The specification wants relative paths ignored.
        let absolute = |name: &str| variable(name).filter(|path| path.is_absolute());
        if let Some(root) = absolute(ROOT_VARIABLE) {
            return Ok(Self {
                state: root.join("state"),
                runtime: root.join("run"),
                tenants: root.join("tenants"),
            });
        }
        if uid == 0 {
            let (state, runtime) = ("/var/lib/carve".into(), "/run/carve".into());
            return Ok(Self { state, runtime, tenants: TENANTS.into() });
        }
        let state = absolute("XDG_STATE_HOME")
            .or_else(|| Some(absolute("HOME")?.join(".local/state")))
            .ok_or(NoFolder::NoHome)?;
        let runtime = match absolute("XDG_RUNTIME_DIR") {
            Some(runtime) => runtime.join("carve"),
            // No session of systemd's: `su`, containers, cron.
            None => PathBuf::from(format!("/tmp/carve-{uid}")),
        };
        Ok(Self { state: state.join("carve"), runtime, tenants: TENANTS.into() })
    }

    /// Makes sure the folders are there, for this user alone.
    ///
    /// # Errors
    ///
    /// [`NoFolder`] naming the folder.
    pub fn make(&self) -> Result<(), NoFolder> {
        make(&self.state.join("guests"))?;
        make(&self.runtime)?;
        let found = fs::metadata(&self.runtime)
            .map_err(|source| NoFolder::Make { path: self.runtime.clone(), source })?;
        let uid = rustix::process::geteuid().as_raw();
        if found.uid() != uid || found.permissions().mode() & 0o022 != 0 {
            return Err(NoFolder::NotOurs(self.runtime.clone()));
        }
        Ok(())
    }
}

fn make(path: &Path) -> Result<(), NoFolder> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| NoFolder::Make { path: path.to_owned(), source })
}

#[cfg(test)]
mod folders_test {
    use super::*;

    fn find(uid: u32, set: &[(&str, &str)]) -> Option<(String, String)> {
        let variable = |name: &str| {
            set.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value))
        };
        let Folders { state, runtime, .. } = Folders::find(uid, variable).ok()?;
        Some((state.display().to_string(), runtime.display().to_string()))
    }

    #[test]
    fn guests_are_kept_where_users_look_for_them() {
        let pair = |state: &str, runtime: &str| Some((state.to_owned(), runtime.to_owned()));
        assert_eq!(find(0, &[("HOME", "/root")]), pair("/var/lib/carve", "/run/carve"));
        assert_eq!(
            find(7, &[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/user/7")]),
            pair("/h/.local/state/carve", "/run/user/7/carve")
        );
        assert_eq!(
            find(7, &[("XDG_STATE_HOME", "/s"), ("XDG_RUNTIME_DIR", "relative")]),
            pair("/s/carve", "/tmp/carve-7")
        );
        assert_eq!(find(0, &[("CARVE_ROOT", "/x")]), pair("/x/state", "/x/run"));
        assert_eq!(find(7, &[]), None);
    }

    #[test]
    fn a_runtime_folder_open_to_others_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let folders = Folders { state: at("s"), runtime: at("r"), tenants: at("t") };
        folders.make().unwrap();
        folders.make().unwrap();
        fs::set_permissions(&folders.runtime, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(folders.make(), Err(NoFolder::NotOurs(_))));
    }
}
