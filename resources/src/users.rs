//! Users of the host, as `/etc/passwd` lists them (passwd(5)).

use std::path::{Path, PathBuf};
use std::{fs, io};

/// A user of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The id.
    pub uid: u32,
    /// The group's id.
    pub gid: u32,
    /// The home folder.
    pub home: PathBuf,
    /// The login shell.
    pub shell: PathBuf,
}

impl User {
    /// The user called `name` on the host whose files are below `root`, if there is one.
    ///
    /// # Errors
    ///
    /// The list cannot be read.
    pub fn named(root: &Path, name: &str) -> io::Result<Option<Self>> {
        let listed = fs::read_to_string(root.join("etc/passwd"))?;
        Ok(listed.lines().filter_map(Self::of_line).find(|user| user.name == name))
    }

    fn of_line(line: &str) -> Option<Self> {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let (_comment, home, shell) = (fields.next()?, fields.next()?, fields.next()?);
        let shell = if shell.is_empty() { "/bin/sh" } else { shell };
        Some(Self { name: name.to_owned(), uid, gid, home: home.into(), shell: shell.into() })
    }
}

#[cfg(test)]
mod users_test {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_name() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        let list = "root:x:0:0:root:/root:/bin/bash\n# no user\nada:x:1001:1002::/home/ada:\n";
        fs::write(root.path().join("etc/passwd"), list).unwrap();
        let ada = User::named(root.path(), "ada").unwrap().unwrap();
        assert_eq!((ada.uid, ada.gid, ada.home.to_str()), (1001, 1002, Some("/home/ada")));
        assert_eq!(ada.shell, Path::new("/bin/sh"));
        assert_eq!(User::named(root.path(), "bob").unwrap(), None);
        assert!(User::named(&root.path().join("none"), "ada").is_err());
    }
}
