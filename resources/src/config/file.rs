//! [`File`]: a VM described in TOML, with every error at its line and column.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::de::{DeTable, DeValue, Deserializer};

use super::keys::{self, KEYS, nearest};
use super::{Error, Location, Problem, VmSpec};

/// A config file, read.
#[derive(Clone, Debug)]
pub struct File {
    path: PathBuf,
    text: String,
    spec: VmSpec,
}

impl File {
    /// Reads the `content` of the file at `path`, against whose folder relative
    /// paths in it are taken.
    ///
    /// # Errors
    ///
    /// Text that is not UTF-8 or not TOML, unknown keys (all of them, each with
    /// the known key it resembles) and values of a wrong type.
    pub fn parse(path: &Path, content: Vec<u8>) -> Result<Self, Error> {
        let text = String::from_utf8(content).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes());
            let message = "this is not UTF-8 text; save the file as UTF-8".to_owned();
            problem(path, &text, message, Some(valid..valid))
        })?;
        let syntax = |error: toml::de::Error| {
            let message = format!("this is not TOML: {}", error.message().trim_end());
            problem(path, &text, message, error.span())
        };
        let table = DeTable::parse(&text).map_err(syntax)?;

        let mut problems = Vec::new();
        unknown_keys(table.get_ref(), "", &mut |key, span| {
            let remedy = match nearest(key) {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("known here: {}", known_beside(key)),
            };
            let message = format!("unknown key `{key}`; {remedy}");
            problems.push(problem(path, &text, message, Some(span)));
        });
        if !problems.is_empty() {
            return Err(Error { problems });
        }

        let spec = VmSpec::deserialize(Deserializer::from(table)).map_err(|error| {
            let message = match error.span().and_then(|span| key_around(&text, &span)) {
                Some(key) => format!(
                    "`{}`: {}; it takes: {}",
                    key.path,
                    error.message().trim_end(),
                    key.takes
                ),
                None => error.message().trim_end().to_owned(),
            };
            problem(path, &text, message, error.span())
        })?;
        let directory = path.parent().unwrap_or(Path::new(""));
        Ok(Self { path: path.to_owned(), spec: spec.relative_to(directory), text })
    }

    /// What the file says, its relative paths resolved.
    #[must_use]
    pub fn spec(&self) -> &VmSpec {
        &self.spec
    }

    /// Where the value of the key at `path` (as in `memory.size`) stands, or that
    /// of the nearest table around it.
    #[must_use]
    pub fn locate(&self, path: &str) -> Option<Location> {
        let table = DeTable::parse(&self.text).ok()?;
        let mut path = path;
        loop {
            if let Some(span) = span_of(table.get_ref(), path) {
                return Some(Location::of(&self.path, &self.text, span));
            }
            (path, _) = path.rsplit_once('.')?;
        }
    }
}

fn problem(path: &Path, text: &str, message: String, span: Option<Range<usize>>) -> Problem {
    Problem { message, location: Some(Location::of(path, text, span.unwrap_or(0..0))) }
}

/// Calls `report` with the path and the place of each key that is not in [`KEYS`].
fn unknown_keys(table: &DeTable<'_>, prefix: &str, report: &mut impl FnMut(&str, Range<usize>)) {
    for (key, value) in table {
        let path = format!("{prefix}{}", key.get_ref());
        match value.get_ref() {
            // A name with a dot in it would be taken for two.
            _ if key.get_ref().contains('.') => report(&path, key.span()),
            DeValue::Table(inner) if keys::is_table(&path) => {
                unknown_keys(inner, &format!("{path}."), report);
            }
            _ if keys::key(&path).is_some() || keys::is_table(&path) => {}
            _ => report(&path, key.span()),
        }
    }
}

/// The keys and tables that may stand where `path` stands, in words.
fn known_beside(path: &str) -> String {
    let table = path.rsplit_once('.').map(|(table, _)| table);
    let beside = |key: &keys::Key| match table {
        Some(table) => keys::stands_at(key.path, table),
        None => Some(key.path),
    };
    let mut names: Vec<&str> =
        KEYS.iter().filter_map(|key| beside(key)?.split('.').next()).collect();
    names.retain(|name| !name.is_empty());
    names.dedup();
    names.join(", ")
}

/// The place of the value at `path`.
fn span_of(table: &DeTable<'_>, path: &str) -> Option<Range<usize>> {
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    let value = table.get(first)?;
    match value.get_ref() {
        DeValue::Table(inner) if !rest.is_empty() => span_of(inner, rest),
        _ => rest.is_empty().then(|| value.span()),
    }
}

/// The innermost key whose value holds `span`.
fn key_around(text: &str, span: &Range<usize>) -> Option<&'static keys::Key> {
    fn innermost(
        table: &DeTable<'_>,
        prefix: &str,
        span: &Range<usize>,
    ) -> Option<&'static keys::Key> {
        let holds = |value: Range<usize>| value.start <= span.start && span.end <= value.end;
        table.iter().find_map(|(name, value)| {
            let path = format!("{prefix}{}", name.get_ref());
            let inside = match value.get_ref() {
                DeValue::Table(inner) => innermost(inner, &format!("{path}."), span),
                _ => None,
            };
            inside.or_else(|| keys::key(&path).filter(|_| holds(value.span())))
        })
    }
    innermost(DeTable::parse(text).ok()?.get_ref(), "", span)
}

#[cfg(test)]
#[path = "file_test.rs"]
mod file_test;
