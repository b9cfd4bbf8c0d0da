//! Tenants that have a user: what root lets that user book, and where.
//!
//! ```text
//! /run/carve-tenants/TENANT/             root's, readable by the user's group
//! ├─ reservation.json                    what the tenant has ([`Reservation`])
//! └─ books/                              the user's: its own ledger, of its guests only
//! ```
//!
//! With the folder goes the tenant's control group: the user may make groups in it and limit those,
//! but not change its limits (Documentation/admin-guide/cgroup-v2.rst, Delegation). Both are gone when
//! the host restarts, and come back with the next `apply`. Where the tenant's group is a slice of
//! systemd's it is a scope in that, which begins with the first session of the user.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use resources::User;
use resources::config::host::{HostConfig, HostConflict};
use resources::config::{Code, Name};
use resources::enforce::{Hierarchy, HierarchyError};
use resources::inventory::Host;
use resources::plan::{Plan, Present, Reservation};
use serde::{Deserialize, Serialize};

use super::books::Error;
use crate::guests::Folders;
use crate::guests::files;

/// The version of the file. A newer Carve reads those of older ones.
const VERSION: u32 = 1;

/// What root tells the user of a tenant.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    version: u32,
    uid: u32,
    user: String,
    reservation: Reservation,
}

/// A tenant, to its user.
#[derive(Debug)]
pub struct Tenancy {
    /// What it has.
    pub reservation: Reservation,
    /// Its user.
    pub user: String,
    /// Where its bookings are.
    pub(super) books: PathBuf,
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { what, path, source }
}

impl Tenancy {
    /// The tenant that the user of this process may book in; root books in none.
    pub(super) fn own(folders: &Folders) -> Result<Option<Self>, Error> {
        let uid = rustix::process::geteuid().as_raw();
        if uid == 0 {
            return Ok(None);
        }
        let mut names: Vec<PathBuf> = fs::read_dir(&folders.tenants)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path())
            .collect();
        names.sort();
        for folder in names {
            if let Some((told, found)) = read(&folder)?
                && told == uid
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The tenant called `name`, if it has a user.
    ///
    /// # Errors
    ///
    /// What is told of it cannot be read.
    pub fn named(folders: &Folders, name: &Name) -> Result<Option<Self>, Error> {
        Ok(read(&folders.tenants.join(name.as_str()))?.map(|(_, found)| found))
    }

    /// Moves the process that calls to where the processes of `user` are that are no guests; from there they can start
    /// some.
    ///
    /// # Errors
    ///
    /// This process is not root's, or the tenant's control group is gone.
    pub fn begin_session(&self, user: &User) -> Result<(), HierarchyError> {
        Hierarchy::new().begin_session(&self.reservation.group, user.uid, user.gid)
    }
}

/// What is told in `folder`, and to whom; nothing if that is not root's, or not for this user to read.
fn read(folder: &Path) -> Result<Option<(u32, Tenancy)>, Error> {
    let by_root =
        fs::symlink_metadata(folder).is_ok_and(|found| found.is_dir() && found.uid() == 0);
    if !by_root {
        return Ok(None);
    }
    let path = folder.join("reservation.json");
    let told: Told = match files::read(&path) {
        Ok(Some(told)) => told,
        Ok(None) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
        Err(error) => {
            let problem = format!("{error}; have root apply the host file again");
            return Err(Error::Damaged { path, problem });
        }
    };
    if told.version > VERSION {
        let problem = format!("version {}, which needs a newer Carve", told.version);
        return Err(Error::Damaged { path, problem });
    }
    let Told { uid, user, reservation, .. } = told;
    Ok(Some((uid, Tenancy { reservation, user, books: folder.join("books") })))
}

/// Users of tenants that the host does not have, or that have two.
pub(super) fn unknown_users(config: &HostConfig) -> Result<Vec<HostConflict>, Error> {
    let mut conflicts = Vec::new();
    let mut seen: Vec<(&String, &Name)> = Vec::new();
    for (name, tenant) in &config.tenants {
        let Some(user) = &tenant.user else { continue };
        let key = || format!("tenant.{name}.user");
        let root = Path::new("/");
        let found = User::named(root, user).map_err(failed("read", &root.join("etc/passwd")))?;
        if found.is_none_or(|user| user.uid == 0) {
            let message = format!("tenant {name}: `{user}` is no user of this host but root");
            let conflict = HostConflict::new(Code::UnknownName, key(), message)
                .remedy(format!("make it: useradd --create-home {user}"))
                .remedy("leave user out; then root alone books in the tenant");
            conflicts.push(conflict);
        } else if let Some((_, other)) = seen.iter().find(|(other, _)| *other == user) {
            let message = format!("tenant {name}: {user} is the user of tenant {other} already");
            let conflict = HostConflict::new(Code::DuplicateName, key(), message);
            conflicts.push(conflict.remedy("give each tenant a user of its own"));
        }
        seen.push((user, name));
    }
    Ok(conflicts)
}

/// Lets the users of tenants book in them, as `plan` has it once `present` is booked, and nobody else.
pub(super) fn delegate(
    folders: &Folders,
    hierarchy: &Hierarchy,
    (config, host, plan, present): (&HostConfig, &Host, &Plan, &Present),
) -> Result<(), Error> {
    let mut kept = Vec::new();
    for (name, tenant) in &config.tenants {
        let user = tenant.user.as_deref().map(|user| User::named(Path::new("/"), user));
        let user = user.transpose().map_err(failed("read", Path::new("/etc/passwd")))?.flatten();
        let reservation = Reservation::of(name, config, host, plan, present);
        // Without a CPU it has no group, and nothing to book.
        let Some(mut reservation) = reservation else { continue };
        let by_scope = !hierarchy.outlives_processes();
        if by_scope {
            reservation = reservation.within_scope();
        }
        let group = &reservation.group;
        let Some(user) = user else {
            hierarchy.take_back(&group.path)?;
            continue;
        };
        if !by_scope || hierarchy.folder(&group.path).exists() {
            hierarchy.delegate(&group.path, user.uid, user.gid)?;
        }
        if by_scope {
            hierarchy.apply([group])?;
        }
        tell(&folders.tenants, &user, reservation)?;
        kept.push(name.as_str());
    }
    for found in fs::read_dir(&folders.tenants).into_iter().flatten().flatten() {
        if !kept.iter().any(|name| found.file_name() == *name) {
            let path = found.path();
            fs::remove_dir_all(&path).map_err(failed("remove", &path))?;
        }
    }
    Ok(())
}

/// Writes down what `user` may book.
fn tell(tenants: &Path, user: &User, reservation: Reservation) -> Result<(), Error> {
    let folder = tenants.join(reservation.tenant.as_str());
    let books = folder.join("books");
    let make = |path: &Path, mode: u32, owner: (u32, u32)| {
        let made = fs::DirBuilder::new().recursive(true).mode(mode).create(path);
        made.and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)))
            .and_then(|()| chown(path, Some(owner.0), Some(owner.1)))
            .map_err(failed("make", path))
    };
    make(tenants, 0o755, (0, 0))?;
    make(&folder, 0o750, (0, user.gid))?;
    make(&books, 0o700, (user.uid, user.gid))?;
    let path = folder.join("reservation.json");
    let told = Told { version: VERSION, uid: user.uid, user: user.name.clone(), reservation };
    files::write(&path, &told, false)
        .and_then(|()| chown(&path, Some(0), Some(user.gid)))
        .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o640)))
        .map_err(failed("write", &path))
}
