//! [`Catalogue`]: the keys that a kind of file can have, wherever they are documented.

use std::collections::HashMap;

use super::host::{HOST_KEYS, SHARE_KEYS};
use super::keys::{KEYS, Key, stands_at};

/// The keys of one kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Catalogue {
    /// A file of one VM: [`KEYS`].
    Vm,
    /// A host file: [`HOST_KEYS`], and in `defaults` and each `vm.NAME` the keys of a VM (but for
    /// its name) and [`SHARE_KEYS`].
    Host,
}

impl Catalogue {
    /// The keys of the table that `path` is in, with what stands before their paths there.
    fn keys(self, path: &str) -> (&str, Box<dyn Iterator<Item = &'static Key>>) {
        match (self, guest(path)) {
            (Self::Vm, _) => ("", Box::new(KEYS.iter())),
            (Self::Host, None) => ("", Box::new(HOST_KEYS.iter())),
            (Self::Host, Some(prefix)) => {
                let of_vm = KEYS.iter().filter(|key| key.path != "name");
                (prefix, Box::new(SHARE_KEYS.iter().chain(of_vm)))
            }
        }
    }

    /// The key that stands at `path`.
    pub(super) fn key(self, path: &str) -> Option<&'static Key> {
        let (prefix, mut keys) = self.keys(path);
        let path = &path[prefix.len()..];
        keys.find(|key| key.path == path || stands_at(key.path, path).is_some_and(str::is_empty))
    }

    /// Whether there are keys in a table at `path`.
    pub(super) fn is_table(self, path: &str) -> bool {
        let table_of_guest = path == "vm" || path == "defaults" || vm_table(path);
        if self == Self::Host && table_of_guest {
            return true;
        }
        let (prefix, mut keys) = self.keys(path);
        let path = &path[prefix.len()..];
        keys.any(|key| stands_at(key.path, path).is_some_and(|rest| !rest.is_empty()))
    }

    /// The key that looks most like `path`, if one does: in the same table first, else in any.
    pub(super) fn nearest(self, path: &str) -> Option<String> {
        let split = |path| str::rsplit_once(path, '.').unwrap_or(("", path));
        let (prefix, keys) = self.keys(path);
        let (table, name) = split(&path[prefix.len()..]);
        let is_of = |known: &str, table: &str| {
            known == table || stands_at(known, table).is_some_and(str::is_empty)
        };
        let likeness = |key: &Key| {
            let (known_table, known) = split(key.path);
            let part = name.len() >= 3 && known.contains(name);
            let alike = strsim::jaro_winkler(name, known);
            let likeness = if part { alike.max(0.9) } else { alike };
            if is_of(known_table, table) { likeness } else { likeness * 0.9 }
        };
        let (_, nearest) = keys
            .map(|key| (likeness(key), key.path))
            .filter(|&(likeness, _)| likeness > 0.8)
            .max_by(|a, b| a.0.total_cmp(&b.0))?;
        // With the names the file has, where it is the same table.
        let (known_table, known) = split(nearest);
        let same = is_of(known_table, table) && !table.is_empty();
        Some(if same { format!("{prefix}{table}.{known}") } else { format!("{prefix}{nearest}") })
    }

    /// What may stand where `path` stands, in words.
    pub(super) fn beside(self, path: &str) -> String {
        let (prefix, keys) = self.keys(path);
        let table = path[prefix.len()..].rsplit_once('.').map(|(table, _)| table);
        let beside = |key: &Key| match table {
            Some(table) => stands_at(key.path, table),
            None => Some(key.path),
        };
        let mut names: Vec<&str> = Vec::new();
        for name in keys.filter_map(|key| beside(key)?.split('.').next()) {
            if !name.is_empty() && !names.contains(&name) {
                names.push(name);
            }
        }
        if self == Self::Host && prefix.is_empty() && table.is_none() {
            names.extend(["defaults", "vm"]);
        }
        names.join(", ")
    }
}

/// What is known of paths that were looked at: thousands of VMs have the same keys.
pub(super) struct Lookup {
    catalogue: Catalogue,
    seen: HashMap<String, (bool, bool)>,
}

impl Lookup {
    pub(super) fn new(catalogue: Catalogue) -> Self {
        Self { catalogue, seen: HashMap::new() }
    }

    /// Whether a key stands at `path`, and whether there are keys in a table there.
    pub(super) fn of(&mut self, path: &str) -> (bool, bool) {
        // With the dot in front, so that keys of a VM and of the host are not taken for each other.
        let shape = match guest(path).filter(|_| self.catalogue == Catalogue::Host) {
            Some(prefix) => &path[prefix.len() - 1..],
            None => path,
        };
        if let Some(&known) = self.seen.get(shape) {
            return known;
        }
        let found = (self.catalogue.key(path).is_some(), self.catalogue.is_table(path));
        self.seen.insert(shape.to_owned(), found);
        found
    }
}

/// `vm.NAME.` or `defaults.`, if `path` is in such a table.
fn guest(path: &str) -> Option<&str> {
    let length = match path.strip_prefix("vm.") {
        Some(rest) => "vm.".len() + rest.find('.')?,
        None => path.strip_prefix("defaults.").map(|_| "defaults".len())?,
    };
    Some(&path[..=length])
}

/// Whether `path` is `vm.NAME`.
fn vm_table(path: &str) -> bool {
    path.strip_prefix("vm.").is_some_and(|name| !name.contains('.'))
}

#[cfg(test)]
mod catalogue_test {
    use super::*;

    #[test]
    fn keys_of_vms_are_found_in_their_tables_of_a_host_file() {
        let host = Catalogue::Host;
        for (path, key) in [
            ("vm.db.memory.size", "memory.size"),
            ("vm.db.disk.root.path", "disk.*.path"),
            ("defaults.vcpus", "vcpus"),
            ("vm.db.tenant", "tenant"),
            ("vm.db.cpu.min", "cpu.min"),
            ("pool.fast.path", "pool.*.path"),
            ("host.reserve.cpus", "host.reserve.cpus"),
        ] {
            assert_eq!(host.key(path).map(|key| key.path), Some(key), "{path}");
        }
        for path in ["vm.db.name", "kernel", "defaults", "vm", "vm.db", "tenant.a.path"] {
            assert_eq!(host.key(path), None, "{path}");
        }
        for table in ["vm", "vm.db", "defaults", "vm.db.disk", "vm.db.disk.a", "host", "pool.a"] {
            assert!(host.is_table(table), "{table}");
        }
        assert!(!host.is_table("vm.db.kernel") && !Catalogue::Vm.is_table("vm"));
    }

    #[test]
    fn the_nearest_key_is_named_where_it_stands() {
        for (written, meant) in [
            ("vm.db.vcpu", Some("vm.db.vcpus")),
            ("vm.db.tennant", Some("vm.db.tenant")),
            ("defaults.memory.szie", Some("defaults.memory.size")),
            ("pool.fast.sise", Some("pool.fast.size")),
            ("colour", None),
        ] {
            assert_eq!(Catalogue::Host.nearest(written).as_deref(), meant, "{written}");
        }
        assert!(Catalogue::Host.beside("colour").ends_with("pool, tenant, defaults, vm"));
    }
}
