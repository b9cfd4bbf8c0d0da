//! A user other than root, on a host that is the test's own.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Command;

/// An ordinary user, who has no rights but to use KVM.
pub struct User {
    home: tempfile::TempDir,
}

impl User {
    /// As in `passwd`: `nobody`.
    const ID: u32 = 65534;

    /// One with an empty home, where the commands are run. Only root can make one.
    pub fn ordinary() -> Self {
        let home = tempfile::tempdir().unwrap();
        chown(home.path(), Some(Self::ID), Some(Self::ID)).unwrap();
        fs::set_permissions("/dev/kvm", PermissionsExt::from_mode(0o666)).unwrap();
        Self { home }
    }

    /// A new file in the user's home, all of it a hole.
    pub fn file(&self, name: &str, size: u64) -> PathBuf {
        let path = self.home.path().join(name);
        fs::File::create(&path).unwrap().set_len(size).unwrap();
        chown(&path, Some(Self::ID), Some(Self::ID)).unwrap();
        path
    }

    /// Has the user run `command`, in a session as `su` makes it.
    pub fn command(&self, command: &Command) -> Command {
        let mut by_user = Command::new("setpriv");
        by_user.args([format!("--reuid={}", Self::ID), format!("--regid={}", Self::ID)]);
        by_user.args(["--clear-groups", "--no-new-privs"]).arg(command.get_program());
        by_user.args(command.get_args()).env_remove("CARVE_ROOT").env("HOME", self.home.path());
        by_user.env_remove("XDG_RUNTIME_DIR").current_dir(self.home.path());
        by_user
    }
}
