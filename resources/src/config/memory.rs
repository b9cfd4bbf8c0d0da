//! Guest memory: its size and what it is made of.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::schema_of::schema_of;
use super::words::words;
use crate::Size;

/// Guest memory, resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// How much the guest has; a multiple of 4 KiB.
    pub size: Size,
    /// How much of it the host guarantees, less than `size`, if not all; the rest may be taken back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<Size>,
    /// What holds it on the host.
    pub backing: Backing,
    /// Ask for transparent huge pages (`madvise(MADV_HUGEPAGE)`). Without effect
    /// on memory of [`HugePageSize`].
    pub transparent_hugepages: bool,
    /// Populate all of it before the guest starts, not page by page as it is touched.
    pub prefault: bool,
}

impl Memory {
    /// How much of it the host guarantees.
    #[must_use]
    pub fn guaranteed(&self) -> Size {
        self.min.unwrap_or(self.size)
    }
}

words! {
    /// What holds guest memory on the host.
    Backing {
        /// Private anonymous memory: nothing else can map it.
        #[default]
        Anonymous = "anonymous",
        /// A `memfd`, shared memory that other processes can be given.
        Memfd = "memfd",
    }
}

/// A size of huge page that x86-64 has. Pages of it come from the pools the host's
/// administrator reserved, not from ordinary free memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Size", into = "Size")]
pub enum HugePageSize {
    /// 2 MiB.
    TwoMib,
    /// 1 GiB.
    OneGib,
}

/// A size that no huge page has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAHugePageSize {
    /// A size, but not of a page.
    #[error("huge pages of {0} do not exist on x86-64; use 2MiB or 1GiB")]
    Size(Size),
    /// No size at all.
    #[error(transparent)]
    Parse(#[from] crate::ParseSizeError),
}

impl HugePageSize {
    /// The size of one page.
    #[must_use]
    pub const fn size(self) -> Size {
        match self {
            Self::TwoMib => Size::from_mib(2),
            Self::OneGib => Size::from_mib(1024),
        }
    }

    /// The size of one page in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.size().bytes()
    }
}

impl TryFrom<Size> for HugePageSize {
    type Error = NotAHugePageSize;

    fn try_from(size: Size) -> Result<Self, NotAHugePageSize> {
        [Self::TwoMib, Self::OneGib]
            .into_iter()
            .find(|page| page.size() == size)
            .ok_or(NotAHugePageSize::Size(size))
    }
}

impl From<HugePageSize> for Size {
    fn from(page: HugePageSize) -> Self {
        page.size()
    }
}

schema_of!(HugePageSize, |_generator| { "enum": ["2MiB", "1GiB", 2_097_152, 1_073_741_824] });

impl FromStr for HugePageSize {
    type Err = NotAHugePageSize;

    fn from_str(text: &str) -> Result<Self, NotAHugePageSize> {
        text.parse::<Size>()?.try_into()
    }
}

impl fmt::Display for HugePageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.size().fmt(f)
    }
}

/// Guest memory as written: `"512MiB"`, or a table with these keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemorySpec {
    /// See [`Memory::size`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// See [`Memory::min`]; the size where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<Size>,
    /// See [`Memory::backing`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing: Option<Backing>,
    /// See [`Memory::transparent_hugepages`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transparent_hugepages: Option<bool>,
    /// See [`Memory::prefault`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefault: Option<bool>,
}

impl MemorySpec {
    /// Size when nothing says otherwise.
    pub const DEFAULT_SIZE: Size = Size::from_mib(512);

    /// These keys where given, those of `below` elsewhere.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            size: self.size.or(below.size),
            min: self.min.or(below.min),
            backing: self.backing.or(below.backing),
            transparent_hugepages: self.transparent_hugepages.or(below.transparent_hugepages),
            prefault: self.prefault.or(below.prefault),
        }
    }

    /// Defaults filled in.
    #[must_use]
    pub fn resolve(self) -> Memory {
        let size = self.size.unwrap_or(Self::DEFAULT_SIZE);
        Memory {
            size,
            min: self.min.filter(|&min| min != size),
            backing: self.backing.unwrap_or_default(),
            transparent_hugepages: self.transparent_hugepages.unwrap_or(true),
            prefault: self.prefault.unwrap_or(false),
        }
    }
}

impl<'de> Deserialize<'de> for MemorySpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // By hand and not `#[serde(untagged)]`: that loses the place of an error.
        deserializer.deserialize_any(MemoryVisitor)
    }
}

schema_of!(MemorySpec, |generator| {
    "anyOf": [Size::json_schema(generator), MemoryTable::json_schema(generator)],
});

/// Reads a size or a table of [`MemorySpec`]'s keys.
struct MemoryVisitor;

/// The keys of [`MemorySpec`]: the derived reader of its table form.
#[derive(Deserialize, JsonSchema)]
#[serde(remote = "MemorySpec", deny_unknown_fields)]
struct MemoryTable {
    size: Option<Size>,
    min: Option<Size>,
    backing: Option<Backing>,
    transparent_hugepages: Option<bool>,
    prefault: Option<bool>,
}

impl<'de> Visitor<'de> for MemoryVisitor {
    type Value = MemorySpec;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size such as \"512MiB\" or a table with the key size")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<MemorySpec, E> {
        let size = Some(text.parse().map_err(E::custom)?);
        Ok(MemorySpec { size, ..MemorySpec::default() })
    }

    fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<MemorySpec, E> {
        let bytes = u64::try_from(bytes)
            .map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))?;
        self.visit_u64(bytes)
    }

    fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<MemorySpec, E> {
        Ok(MemorySpec { size: Some(Size::from_bytes(bytes)), ..MemorySpec::default() })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<MemorySpec, A::Error> {
        MemoryTable::deserialize(MapAccessDeserializer::new(map))
    }
}
