//! [`Document`]: one TOML text, its unknown keys refused, and each of its values findable.
//!
//! What its tables mean is not known here.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::catalogue::{Catalogue, Lookup};
use super::{Code, Error, Location, Problem};

/// A text and where it comes from.
#[derive(Clone, Debug)]
pub(super) struct Document {
    path: PathBuf,
    text: String,
    catalogue: Catalogue,
    /// Where the value of each key stands; made when it is first asked for, as most texts are right.
    places: OnceLock<BTreeMap<String, Range<usize>>>,
}

impl Document {
    /// The `content` of the file at `path`.
    pub(super) fn new(path: &Path, content: Vec<u8>, catalogue: Catalogue) -> Result<Self, Error> {
        let text = String::from_utf8(content).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes());
            let location = Location::of(path, &text, valid..valid);
            let message = "this is not UTF-8 text; save the file as UTF-8";
            Problem::new(Code::NotToml, message, Some(location))
        })?;
        Ok(Self { path: path.to_owned(), text, catalogue, places: OnceLock::new() })
    }

    /// The text as a table, all of whose keys are known.
    pub(super) fn table(&self) -> Result<DeTable<'_>, Error> {
        let table = DeTable::parse(&self.text).map_err(|error| {
            let message = format!("this is not TOML: {}", error.message().trim_end());
            self.problem(Code::NotToml, message, error.span().unwrap_or(0..0))
        })?;
        let table = table.into_inner();
        let problems = self.unknown_keys(&table);
        if problems.is_empty() { Ok(table) } else { Err(Error { problems }) }
    }

    /// The folder relative paths in it start at.
    pub(super) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// What `table`, which stands at `prefix` (empty or with a dot at its end), says as a `T`.
    ///
    /// # Errors
    ///
    /// Every key whose value is none for it: serde itself stops at the first.
    pub(super) fn read<T: DeserializeOwned>(
        &self,
        table: DeTable<'_>,
        span: Range<usize>,
        prefix: &str,
    ) -> Result<T, Vec<Problem>> {
        let first = match read(table.clone(), span.clone()) {
            Ok(value) => return Ok(value),
            Err(error) => self.wrong_value(&error, prefix),
        };
        let alone = table.into_iter().filter_map(|entry| {
            let error = read::<T>(std::iter::once(entry).collect(), span.clone()).err()?;
            Some(self.wrong_value(&error, prefix))
        });
        let mut problems: Vec<Problem> = alone.collect();
        // Nothing wrong with any key alone: they are wrong together.
        if problems.is_empty() {
            problems.push(first);
        }
        Err(problems)
    }

    fn wrong_value(&self, error: &toml::de::Error, prefix: &str) -> Problem {
        let reason = error.message().trim_end();
        let span = error.span();
        let message = match span.as_ref().and_then(|span| self.key_around(span, prefix)) {
            Some((path, takes)) => format!("`{path}`: {reason}; it takes: {takes}"),
            None => reason.to_owned(),
        };
        self.problem(Code::InvalidValue, message, span.unwrap_or(0..0))
    }

    /// The innermost key below `prefix` whose value holds `span`, and what it takes.
    fn key_around(&self, span: &Range<usize>, prefix: &str) -> Option<(&str, &'static str)> {
        let holds = |value: &Range<usize>| value.start <= span.start && span.end <= value.end;
        self.places()
            .range(prefix.to_owned()..)
            .take_while(|(path, _)| path.starts_with(prefix))
            .filter(|(_, value)| holds(value))
            .filter_map(|(path, _)| Some((path.as_str(), self.catalogue.key(path)?.takes)))
            .max_by_key(|(path, _)| path.matches('.').count())
    }

    /// A problem with what stands at `span`.
    pub(super) fn problem(
        &self,
        code: Code,
        message: impl Into<String>,
        span: Range<usize>,
    ) -> Problem {
        Problem::new(code, message, Some(self.location(span)))
    }

    fn location(&self, span: Range<usize>) -> Location {
        Location::of(&self.path, &self.text, span)
    }

    /// Where the value at `path` stands, if it is in this text.
    pub(super) fn find(&self, path: &str) -> Option<Location> {
        self.places().get(path).map(|span| self.location(span.clone()))
    }

    /// Where the value at `path` (as in `memory.size`) stands, or that of the nearest table around it.
    pub(super) fn locate(&self, path: &str) -> Option<Location> {
        let mut path = path;
        loop {
            if let Some(location) = self.find(path) {
                return Some(location);
            }
            (path, _) = path.rsplit_once('.')?;
        }
    }

    /// Every value that is not a table: its path, its text and its line, from 1.
    pub(super) fn leaves(&self) -> Vec<(&str, &str, usize)> {
        let places = self.places();
        let is_table = |path: &str| {
            let inside = format!("{path}.");
            places.range(inside.clone()..).next().is_some_and(|(next, _)| next.starts_with(&inside))
        };
        let leaves = places.iter().filter(|(path, _)| !is_table(path));
        let text = |span: &Range<usize>| self.text.get(span.clone()).unwrap_or_default();
        let ends: Vec<usize> = self.text.match_indices('\n').map(|(at, _)| at).collect();
        let line = |span: &Range<usize>| ends.partition_point(|&end| end < span.start) + 1;
        leaves.map(|(path, span)| (path.as_str(), text(span), line(span))).collect()
    }

    /// The file as it was named.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn places(&self) -> &BTreeMap<String, Range<usize>> {
        self.places.get_or_init(|| {
            let mut places = BTreeMap::new();
            if let Ok(table) = DeTable::parse(&self.text) {
                collect(table.get_ref(), "", &mut places);
            }
            places
        })
    }

    fn unknown_keys(&self, table: &DeTable<'_>) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut lookup = Lookup::new(self.catalogue);
        unknown_keys(table, &mut String::new(), &mut lookup, &mut |key, span| {
            let remedy = match self.catalogue.nearest(key) {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("known here: {}", self.catalogue.beside(key)),
            };
            let message = format!("unknown key `{key}`; {remedy}");
            problems.push(self.problem(Code::UnknownKey, message, span));
        });
        problems
    }
}

fn read<T: DeserializeOwned>(table: DeTable<'_>, span: Range<usize>) -> Result<T, toml::de::Error> {
    T::deserialize(Deserializer::from(Spanned::new(span, table)))
}

/// Notes the place of each value of `table`, which stands at `prefix`.
fn collect(table: &DeTable<'_>, prefix: &str, places: &mut BTreeMap<String, Range<usize>>) {
    for (key, value) in table {
        let path = format!("{prefix}{}", key.get_ref());
        if let DeValue::Table(inner) = value.get_ref() {
            collect(inner, &format!("{path}."), places);
        }
        places.insert(path, value.span());
    }
}

/// Calls `report` with the path and the place of each key that `lookup` does not know. `path` is what stands before the
/// keys of `table`, and the same afterwards.
fn unknown_keys(
    table: &DeTable<'_>,
    path: &mut String,
    lookup: &mut Lookup,
    report: &mut impl FnMut(&str, Range<usize>),
) {
    let outer = path.len();
    for (key, value) in table {
        path.push_str(key.get_ref());
        let (is_key, is_table) = lookup.of(path);
        match value.get_ref() {
            // A name with a dot in it would be taken for two.
            _ if key.get_ref().contains('.') => report(path, key.span()),
            DeValue::Table(inner) if is_table => {
                path.push('.');
                unknown_keys(inner, path, lookup, report);
            }
            _ if is_key || is_table => {}
            _ => report(path, key.span()),
        }
        path.truncate(outer);
    }
}
