//! Ports of the virtio console: what the guest finds as `/dev/hvcN`, or under a name in
//! `/dev/virtio-ports/`, and what each is connected to on the host.
//!
//! The 16550 serial port is not described here; it is the default console.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::schema_of::schema_of;
use super::words::words;

/// Most ports of a VM.
pub const MAX_CONSOLE_PORTS: usize = 16;

words! {
    /// What kind of thing a port is connected to on the host.
    ConsoleKind {
        /// Standard input and output of Carve.
        #[default]
        Stdio = "stdio",
        /// Nothing: output is dropped.
        Off = "off",
        /// A file that output is appended to.
        File = "file",
        /// A pseudo-terminal of its own.
        Pty = "pty",
        /// A listening unix socket, one client at a time.
        Socket = "socket",
    }
}

/// What a port is connected to on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleTarget {
    /// Standard input and output of Carve.
    Stdio,
    /// Nothing: output is dropped.
    Off,
    /// A file that output is appended to; it is made if it does not exist.
    File(PathBuf),
    /// A pseudo-terminal of its own.
    Pty,
    /// A listening unix socket at this path, one client at a time.
    Socket(PathBuf),
}

impl ConsoleTarget {
    /// Which kind of target it is.
    #[must_use]
    pub fn kind(&self) -> ConsoleKind {
        match self {
            Self::Stdio => ConsoleKind::Stdio,
            Self::Off => ConsoleKind::Off,
            Self::File(_) => ConsoleKind::File,
            Self::Pty => ConsoleKind::Pty,
            Self::Socket(_) => ConsoleKind::Socket,
        }
    }

    /// The path it has, if it has one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) | Self::Socket(path) => Some(path),
            Self::Stdio | Self::Off | Self::Pty => None,
        }
    }

    fn new(kind: ConsoleKind, path: Option<PathBuf>) -> Result<Self, String> {
        let path = path.filter(|path| !path.as_os_str().is_empty());
        match (kind, path) {
            (ConsoleKind::Stdio, None) => Ok(Self::Stdio),
            (ConsoleKind::Off, None) => Ok(Self::Off),
            (ConsoleKind::Pty, None) => Ok(Self::Pty),
            (ConsoleKind::File, Some(path)) => Ok(Self::File(path)),
            (ConsoleKind::Socket, Some(path)) => Ok(Self::Socket(path)),
            (ConsoleKind::File | ConsoleKind::Socket, None) => Err(format!("{kind} has no path")),
            (_, Some(path)) => Err(format!("{kind} takes no path, but has {}", path.display())),
        }
    }
}

/// A port of the virtio console.
///
/// Written `stdio`, `off`, `file=PATH`, `pty` or `socket=PATH`, each with `,name=NAME` if it is to
/// have a name; in a file also as a table with the keys `to`, `path` and `name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsolePort {
    /// What it is connected to.
    pub target: ConsoleTarget,
    /// With a name it is a stream of bytes in `/dev/virtio-ports/`, without one a console.
    pub name: Option<PortName>,
}

/// Why a text is no port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` is not a console: {reason}; write it as stdio, off, pty, file=PATH or socket=PATH, followed by ,name=NAME for a named port",
    .text.escape_debug()
)]
pub struct ParseConsoleError {
    /// What was written.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

impl FromStr for ConsolePort {
    type Err = ParseConsoleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = |reason| ParseConsoleError { text: text.to_owned(), reason };
        let mut parts = text.split(',');
        let first = parts.next().unwrap_or_default();
        let (kind, path) = match first.split_once('=') {
            Some((kind, path)) => (kind, Some(PathBuf::from(path))),
            None => (first, None),
        };
        let kind = kind.parse().map_err(|error: super::UnknownWord| fail(error.to_string()))?;
        let target = ConsoleTarget::new(kind, path).map_err(fail)?;
        let mut name = None;
        for part in parts {
            let value = part.strip_prefix("name=").ok_or_else(|| {
                fail(format!("`{part}` is not name=NAME (paths with commas go into a file)"))
            })?;
            let value = value.parse().map_err(|error: InvalidPortName| fail(error.to_string()))?;
            if name.replace(value).is_some() {
                return Err(fail("name is given twice".to_owned()));
            }
        }
        Ok(Self { target, name })
    }
}

impl fmt::Display for ConsolePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.target.kind().fmt(f)?;
        if let Some(path) = self.target.path() {
            write!(f, "={}", path.display())?;
        }
        match &self.name {
            Some(name) => write!(f, ",name={name}"),
            None => Ok(()),
        }
    }
}

schema_of!(ConsolePort, |generator| {
    "anyOf": [{ "type": "string" }, ConsoleTable::json_schema(generator)],
});

/// The table form of a port.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ConsoleTable {
    to: ConsoleKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<PortName>,
}

impl Serialize for ConsolePort {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let path = self.target.path().map(Path::to_owned);
        ConsoleTable { to: self.target.kind(), path, name: self.name.clone() }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ConsolePort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // By hand and not `#[serde(untagged)]`: that loses the place of an error.
        deserializer.deserialize_any(ConsoleVisitor)
    }
}

/// Reads the text or the table form of a port.
struct ConsoleVisitor;

impl<'de> Visitor<'de> for ConsoleVisitor {
    type Value = ConsolePort;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a console such as \"pty\" or { to = \"file\", path = \"out.log\" }")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<ConsolePort, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ConsolePort, A::Error> {
        let table = ConsoleTable::deserialize(MapAccessDeserializer::new(map))?;
        let target = ConsoleTarget::new(table.to, table.path).map_err(|reason| {
            de::Error::custom(format!("{reason}; path is for file and socket, which need one"))
        })?;
        Ok(ConsolePort { target, name: table.name })
    }
}

/// The name of a port: 1 to 64 of letters, digits, `.`, `_` and `-`, the first a letter or digit. So
/// it can be a file name in the guest as it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct PortName(String);

schema_of!(PortName, |_generator| {
    "type": "string",
    "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
});

/// A text that is no [`PortName`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a name for a port: {reason}; use 1 to 64 of a-z, A-Z, 0-9, ., _ and -, such as agent.0", .text.escape_debug())]
pub struct InvalidPortName {
    /// What was written.
    pub text: String,
    /// Which rule it breaks.
    pub reason: &'static str,
}

impl PortName {
    const MAX_LENGTH: usize = 64;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for PortName {
    type Error = InvalidPortName;

    fn try_from(text: String) -> Result<Self, InvalidPortName> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let reason = if text.is_empty() {
            "it is empty"
        } else if text.len() > Self::MAX_LENGTH {
            "it is longer than 64 characters"
        } else if !text.chars().all(allowed) {
            "it has other characters"
        } else if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            "it does not begin with a letter or digit"
        } else {
            return Ok(Self(text));
        };
        Err(InvalidPortName { text, reason })
    }
}

impl FromStr for PortName {
    type Err = InvalidPortName;

    fn from_str(text: &str) -> Result<Self, InvalidPortName> {
        text.to_owned().try_into()
    }
}

impl Deref for PortName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Consoles that cannot be had together, by their names in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConsoleConflict {
    /// More than [`MAX_CONSOLE_PORTS`].
    #[error("there are {0} consoles, but a VM has at most {MAX_CONSOLE_PORTS}; leave some out")]
    TooMany(usize),
    /// Only one can read what is typed.
    #[error(
        "the consoles {} are stdio, but only one can be; use pty or socket=PATH for the others",
        .0.join(", ")
    )]
    Stdio(Vec<String>),
    /// A name in the guest twice.
    #[error("the consoles {} have the name {name} in the guest; give each its own", .consoles.join(", "))]
    Name {
        /// Those that have it.
        consoles: Vec<String>,
        /// The name.
        name: PortName,
    },
    /// A path twice.
    #[error("the consoles {} have the path {}; give each its own", .consoles.join(", "), .path.display())]
    Path {
        /// Those that have it.
        consoles: Vec<String>,
        /// The path.
        path: PathBuf,
    },
}

/// Everything that keeps `ports` from being had together, each conflict once; each port comes with its
/// name in the configuration.
#[must_use]
pub fn console_conflicts(ports: &[(String, ConsolePort)]) -> Vec<ConsoleConflict> {
    let mut conflicts = Vec::new();
    if ports.len() > MAX_CONSOLE_PORTS {
        conflicts.push(ConsoleConflict::TooMany(ports.len()));
    }
    let stdio = |port: &ConsolePort| (port.target == ConsoleTarget::Stdio).then_some(());
    for ((), consoles) in shared(ports.iter().map(|(of, port)| (of, stdio(port)))) {
        conflicts.push(ConsoleConflict::Stdio(consoles));
    }
    for (name, consoles) in shared(ports.iter().map(|(of, port)| (of, port.name.as_ref()))) {
        conflicts.push(ConsoleConflict::Name { consoles, name: name.clone() });
    }
    for (path, consoles) in shared(ports.iter().map(|(of, port)| (of, port.target.path()))) {
        conflicts.push(ConsoleConflict::Path { consoles, path: path.to_owned() });
    }
    conflicts
}

/// What more than one console has, and which ones.
fn shared<'a, T: Ord>(
    all: impl Iterator<Item = (&'a String, Option<T>)>,
) -> impl Iterator<Item = (T, Vec<String>)> {
    let mut owners: BTreeMap<T, Vec<String>> = BTreeMap::new();
    for (console, what) in all {
        if let Some(what) = what {
            owners.entry(what).or_default().push(console.clone());
        }
    }
    owners.into_iter().filter(|(_, consoles)| consoles.len() > 1)
}

#[cfg(test)]
#[path = "console_test.rs"]
mod console_test;
