//! [`Layers`]: the sources of a host's configuration, and which of them says what.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::super::catalogue::Catalogue;
use super::super::document::Document;
use super::super::{Code, Error, Location, Name, Problem, VmSpec};
use super::{GuestSpec, HOST_KEYS, HostConflict, HostSpec, ShareSpec};

/// A text that configures a host.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file, or what else the text comes from. Relative paths in it start at its folder.
    pub path: PathBuf,
    /// TOML.
    pub content: Vec<u8>,
}

/// Sources laid over one another.
#[derive(Clone, Debug)]
pub struct Layers {
    /// The last one wins.
    documents: Vec<Document>,
    spec: HostSpec,
}

/// A key that has a value, and who gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Value {
    /// Path of the key, as in `vm.db.memory.size`.
    pub key: String,
    /// The value as it is written.
    pub value: String,
    /// File and line, or `built-in`.
    pub origin: String,
}

impl Layers {
    /// Reads `sources`, of which a later one wins over those before.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with any of them by itself: text that is not TOML, unknown keys,
    /// values of a wrong type.
    pub fn parse(sources: Vec<Source>) -> Result<Self, Error> {
        let mut problems = Vec::new();
        let mut documents = Vec::new();
        let mut spec = HostSpec::default();
        for Source { path, content } in sources {
            let read = Document::new(&path, content, Catalogue::Host).and_then(|document| {
                let layer = Reader::read_all(&document)?;
                Ok((document, layer))
            });
            match read {
                Ok((document, layer)) => {
                    spec = layer.relative_to(document.folder()).over(spec);
                    documents.push(document);
                }
                Err(error) => problems.extend(error.problems),
            }
        }
        if problems.is_empty() { Ok(Self { documents, spec }) } else { Err(Error { problems }) }
    }

    /// Relative paths that are left, those of sources named by a relative path, made to start at
    /// `folder`.
    #[must_use]
    pub fn starting_at(self, folder: &Path) -> Self {
        Self { spec: self.spec.relative_to(folder), ..self }
    }

    /// What they say together.
    #[must_use]
    pub fn spec(&self) -> &HostSpec {
        &self.spec
    }

    /// Where the value of the key at `path` stands: in the layer that wins, for a key of a VM also
    /// in `defaults`, or else the nearest table around it.
    #[must_use]
    pub fn locate(&self, path: &str) -> Option<Location> {
        let mut inner = path;
        loop {
            if let Some(place) = self.find(inner) {
                return Some(place);
            }
            let default = inner.strip_prefix("vm.").and_then(|rest| rest.split_once('.'));
            if let Some(place) = default.and_then(|(_, key)| self.find(&format!("defaults.{key}")))
            {
                return Some(place);
            }
            (inner, _) = inner.rsplit_once('.')?;
        }
    }

    fn find(&self, path: &str) -> Option<Location> {
        self.documents.iter().rev().find_map(|document| document.find(path))
    }

    /// `conflict` with the place it stands at.
    #[must_use]
    pub fn problem(&self, conflict: &HostConflict) -> Problem {
        let exact = conflict.keys.iter().find_map(|key| self.find(key));
        let location = exact.or_else(|| conflict.keys.iter().find_map(|key| self.locate(key)));
        Problem {
            code: conflict.code,
            message: conflict.message.clone(),
            location,
            shortage: conflict.shortage.clone(),
            remedies: conflict.remedies.clone(),
        }
    }

    /// Every key that has a value, by path.
    #[must_use]
    pub fn values(&self) -> Vec<Value> {
        let mut values: BTreeMap<String, Value> = BTreeMap::new();
        let built_in =
            HOST_KEYS.iter().filter(|key| key.path.starts_with("host.") && !key.default.is_empty());
        for key in built_in {
            let quoted = key.default.parse::<f64>().is_err() || key.path == "host.reserve.memory";
            let value =
                if quoted { format!("\"{}\"", key.default) } else { key.default.to_owned() };
            let key = key.path.to_owned();
            values.insert(key.clone(), Value { key, value, origin: "built-in".to_owned() });
        }
        for document in &self.documents {
            let leaves = document.leaves();
            for whole in leaves.iter().filter_map(|(key, ..)| replaced_whole(key)) {
                let below = values.range(whole.to_owned()..).map(|(key, _)| key);
                let below = below.take_while(|key| key.starts_with(whole));
                let inside = |key: &&String| {
                    key[whole.len()..].is_empty() || key[whole.len()..].starts_with('.')
                };
                let replaced: Vec<String> = below.filter(inside).cloned().collect();
                replaced.iter().for_each(|key| drop(values.remove(key)));
            }
            for (key, value, line) in leaves {
                let origin = format!("{}:{line}", document.path().display());
                let (key, value) = (key.to_owned(), value.to_owned());
                values.insert(key.clone(), Value { key, value, origin });
            }
        }
        values.into_values().collect()
    }
}

/// The part of `key` that a layer replaces as a whole: a device, the topology and the CPUs of a VM
/// mean nothing in parts.
fn replaced_whole(key: &str) -> Option<&str> {
    let vm = match key.strip_prefix("vm.") {
        Some(rest) => rest.split_once('.')?.1,
        None => key.strip_prefix("defaults.")?,
    };
    let (table, inside) = vm.split_once('.')?;
    let name = match table {
        "disk" | "net" | "console" => inside.split('.').next()?.len() + 1,
        "topology" | "vsock" | "cpu" | "ready" => 0,
        _ => return None,
    };
    Some(&key[..key.len() - vm.len() + table.len() + name])
}

/// Reads the sections of one source.
struct Reader<'d> {
    document: &'d Document,
    problems: Vec<Problem>,
}

/// A value of a text, with its place.
type Place<'t> = Spanned<DeValue<'t>>;

impl<'d> Reader<'d> {
    fn read_all(document: &'d Document) -> Result<HostSpec, Error> {
        let mut reader = Self { document, problems: Vec::new() };
        let spec = reader.host(document.table()?);
        let problems = reader.problems;
        if problems.is_empty() { Ok(spec) } else { Err(Error { problems }) }
    }

    fn host(&mut self, table: DeTable<'d>) -> HostSpec {
        let mut spec = HostSpec::default();
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "version" => self.version(&value),
                "host" => spec.host = self.section("host", value).unwrap_or_default(),
                "defaults" => spec.defaults = self.guest("defaults", value).unwrap_or_default(),
                "pool" => spec.pool = self.named("pool", value, Self::section),
                "tenant" => spec.tenant = self.named("tenant", value, Self::section),
                "vm" => spec.vm = self.named("vm", value, Self::guest),
                // Unknown keys have been refused.
                _ => {}
            }
        }
        spec
    }

    fn wrong(&mut self, span: Range<usize>, message: String) {
        self.problems.push(self.document.problem(Code::InvalidValue, message, span));
    }

    fn version(&mut self, value: &Place<'_>) {
        if value.get_ref().as_integer().map(toml::de::DeInteger::as_str) != Some("1") {
            self.wrong(
                value.span(),
                "`version` is not 1, the only version there is; use version = 1".into(),
            );
        }
    }

    /// The table that `value` is, and its place. It is moved, not copied: there may be thousands of VMs in it.
    fn table(&mut self, path: &str, value: Place<'d>) -> Option<(DeTable<'d>, Range<usize>)> {
        let span = value.span();
        if let DeValue::Table(table) = value.into_inner() {
            return Some((table, span));
        }
        self.wrong(span, format!("`{path}` is a table; write [{path}] and its keys below"));
        None
    }

    fn named<T>(
        &mut self,
        kind: &str,
        value: Place<'d>,
        read: fn(&mut Self, &str, Place<'d>) -> Option<T>,
    ) -> BTreeMap<Name, T> {
        let mut named = BTreeMap::new();
        let Some((table, _)) = self.table(kind, value) else { return named };
        for (key, value) in table {
            let section = read(self, &format!("{kind}.{}", key.get_ref()), value);
            match key.get_ref().parse::<Name>() {
                Ok(name) => drop(section.map(|section| named.insert(name, section))),
                Err(error) => {
                    let problem =
                        self.document.problem(Code::InvalidValue, error.to_string(), key.span());
                    self.problems.push(problem);
                }
            }
        }
        named
    }

    fn section<T: DeserializeOwned>(&mut self, path: &str, value: Place<'d>) -> Option<T> {
        let (table, span) = self.table(path, value)?;
        self.read(path, table, span)
    }

    fn read<T: DeserializeOwned>(
        &mut self,
        path: &str,
        table: DeTable<'d>,
        span: Range<usize>,
    ) -> Option<T> {
        let read = self.document.read(table, span, &format!("{path}."));
        read.map_err(|problems| self.problems.extend(problems)).ok()
    }

    /// The keys of a VM's share and those of the VM itself are read apart: serde's `flatten` would
    /// lose their places.
    fn guest(&mut self, path: &str, value: Place<'d>) -> Option<GuestSpec> {
        let (table, span) = self.table(path, value)?;
        let (share, vm): (DeTable<'d>, DeTable<'d>) = table
            .into_iter()
            .partition(|(key, _)| ShareSpec::FIELDS.contains(&key.get_ref().as_ref()));
        let share = self.read(path, share, span.clone());
        let vm: Option<VmSpec> = self.read(path, vm, span);
        Some(GuestSpec { vm: vm?, share: share? })
    }
}

#[cfg(test)]
#[path = "layers_test.rs"]
mod layers_test;
