//! [`ShareSpec`]: what a VM gets of the host and how it lives, beside what it is.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::super::Name;
use super::super::schema_of;
use super::super::words::words;
use crate::{CpuSet, Thousandths};

words! {
    /// Whether a VM is to run.
    PowerState {
        /// It runs.
        #[default]
        Running = "running",
        /// It does not, and keeps its share.
        Stopped = "stopped",
    }
}

words! {
    /// What follows where the host cannot enforce a limit.
    Enforce {
        /// The VM is refused.
        #[default]
        Strict = "strict",
        /// The VM runs without that limit, and is shown so.
        BestEffort = "best-effort",
    }
}

/// The keys of `[vm.NAME]` and `[defaults]` that are not those of a [`VmSpec`](super::super::VmSpec);
/// `None` and empty where nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)] // SHARE_KEYS documents them.
pub struct ShareSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numa: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<Ready>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Vec<Name>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<PowerState>,
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub labels: IndexMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforce: Option<Enforce>,
}

impl ShareSpec {
    /// Names of its keys.
    pub(super) const FIELDS: [&str; 11] = [
        "tenant", "count", "cpu", "workers", "numa", "restart", "ready", "after", "state",
        "labels", "enforce",
    ];

    /// These keys where given, those of `below` elsewhere. Labels are laid over one another by name.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        let mut labels = below.labels;
        labels.extend(self.labels);
        Self {
            tenant: self.tenant.or(below.tenant),
            count: self.count.or(below.count),
            cpu: self.cpu.or(below.cpu),
            workers: self.workers.or(below.workers),
            numa: self.numa.or(below.numa),
            restart: self.restart.or(below.restart),
            ready: self.ready.or(below.ready),
            after: self.after.or(below.after),
            state: self.state.or(below.state),
            labels,
            enforce: self.enforce.or(below.enforce),
        }
    }
}

/// `cpu` as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum CpuSpec {
    /// `"dedicated"`.
    Dedicated(DedicatedWord),
    /// A table.
    Table(CpuTable),
}

words! {
    /// The one word that `cpu` takes.
    DedicatedWord {
        /// CPUs of its own.
        #[default]
        Dedicated = "dedicated",
    }
}

/// `cpu` as a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CpuTable {
    /// CPU time it gets at any rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<Thousandths>,
    /// CPU time it never gets more of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<Thousandths>,
    /// Dedicated CPUs, these ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pins: Option<CpuSet>,
}

impl<'de> Deserialize<'de> for CpuSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // By hand and not `#[serde(untagged)]`: that loses the place of an error.
        struct CpuVisitor;

        impl<'de> Visitor<'de> for CpuVisitor {
            type Value = CpuSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"dedicated\" or a table with the keys min, max and pins")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<CpuSpec, E> {
                word.parse().map(CpuSpec::Dedicated).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<CpuSpec, A::Error> {
                CpuTable::deserialize(MapAccessDeserializer::new(map)).map(CpuSpec::Table)
            }
        }

        deserializer.deserialize_any(CpuVisitor)
    }
}

/// The host CPUs of a VM, resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CpuShare {
    /// CPUs of its own.
    Dedicated {
        /// These ones, if not any.
        pins: Option<CpuSet>,
        /// CPUs beside those of the vCPUs, for its other threads.
        workers: u32,
        /// The NUMA node they have to be on.
        numa: Option<u32>,
    },
    /// A share of the CPUs that VMs have together.
    Shared {
        /// CPU time it gets at any rate.
        min: Thousandths,
        /// CPU time it never gets more of, at least `min`.
        max: Thousandths,
    },
}

/// Whether a VM is started again after its end; the words are Docker's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Restart {
    /// Never.
    #[default]
    No,
    /// If it did not end well, at most so many times in a row; without a bound if none.
    OnFailure(Option<u32>),
    /// Always, but not once it was stopped by a command, also after the host restarts.
    UnlessStopped,
    /// Always.
    Always,
}

impl Restart {
    /// Whether an end with `exit_code` is followed by another start, after `failures` in a row.
    #[must_use]
    pub fn follows(self, exit_code: u8, failures: u32) -> bool {
        match self {
            Self::No => false,
            Self::OnFailure(limit) => exit_code != 0 && limit.is_none_or(|limit| failures < limit),
            Self::UnlessStopped | Self::Always => true,
        }
    }
}

/// A text that is no [`Restart`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not one of no, on-failure, on-failure:N, unless-stopped, always", .0.escape_debug())]
pub struct InvalidRestart(String);

impl FromStr for Restart {
    type Err = InvalidRestart;

    fn from_str(text: &str) -> Result<Self, InvalidRestart> {
        Ok(match text {
            "no" => Self::No,
            "on-failure" => Self::OnFailure(None),
            "unless-stopped" => Self::UnlessStopped,
            "always" => Self::Always,
            _ => {
                let times = text.strip_prefix("on-failure:").and_then(|times| times.parse().ok());
                let times = times.filter(|&times| times > 0);
                Self::OnFailure(Some(times.ok_or_else(|| InvalidRestart(text.to_owned()))?))
            }
        })
    }
}

schema_of!(Restart, |_generator| {
    "type": "string",
    "pattern": "^(no|on-failure(:[1-9][0-9]*)?|unless-stopped|always)$",
});

impl TryFrom<String> for Restart {
    type Error = InvalidRestart;

    fn try_from(text: String) -> Result<Self, InvalidRestart> {
        text.parse()
    }
}

impl fmt::Display for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure(None) => f.write_str("on-failure"),
            Self::OnFailure(Some(times)) => write!(f, "on-failure:{times}"),
            Self::UnlessStopped => f.write_str("unless-stopped"),
            Self::Always => f.write_str("always"),
        }
    }
}

impl From<Restart> for String {
    fn from(restart: Restart) -> Self {
        restart.to_string()
    }
}

/// How a guest says that it is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// It listens at this port of its vsock device, from 1.
    pub vsock: u32,
    /// How long that is waited for.
    #[serde(default)]
    pub timeout: DurationText,
}

/// A time, written `500ms`, `60s` or `2m`; a minute where not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DurationText(Duration);

/// A text that is no [`DurationText`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a time from 1ms to 24h; write it as in 500ms, 60s, 2m or 1h", .0.escape_debug())]
pub struct InvalidDuration(String);

const DURATION_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const LONGEST: u64 = 24 * 3_600_000;

impl DurationText {
    /// The time.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl Default for DurationText {
    fn default() -> Self {
        Self(Duration::from_secs(60))
    }
}

schema_of!(DurationText, |_generator| {
    "type": "string",
    "pattern": "^[0-9]+ ?(ms|s|m|h)$",
});

impl TryFrom<String> for DurationText {
    type Error = InvalidDuration;

    fn try_from(text: String) -> Result<Self, InvalidDuration> {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let unit = DURATION_UNITS.into_iter().find(|&(name, _)| name == unit.trim_start());
        let millis = unit.and_then(|(_, unit)| number.parse::<u64>().ok()?.checked_mul(unit));
        match millis {
            Some(millis @ 1..=LONGEST) => Ok(Self(Duration::from_millis(millis))),
            _ => Err(InvalidDuration(text)),
        }
    }
}

impl From<DurationText> for String {
    fn from(DurationText(duration): DurationText) -> Self {
        let millis = duration.as_millis();
        let whole = |&(_, unit): &(&str, u64)| millis % u128::from(unit) == 0;
        let (name, unit) = DURATION_UNITS.into_iter().find(whole).unwrap_or(("ms", 1));
        format!("{}{name}", millis / u128::from(unit))
    }
}

#[cfg(test)]
#[path = "share_test.rs"]
mod share_test;
