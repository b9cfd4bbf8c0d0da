//! The memory balloon: how much of its memory the guest is asked to do without, and how it tells
//! about the rest.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Size;

/// The memory balloon, resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Balloon {
    /// How much memory the guest is asked to give back from the start: a multiple of 4 KiB.
    pub target: Size,
    /// The guest takes memory back from the balloon instead of running out of it.
    pub deflate_on_oom: bool,
    /// Seconds between two statistics of the guest's memory; none: only when they are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats_interval: Option<NonZeroU32>,
    /// The guest reports free pages, which go back to the host without being asked for.
    pub reporting: bool,
}

/// [`Balloon`] as written: a table with these keys, or `target=256MiB,reporting=false` as a flag.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BalloonSpec {
    /// See [`Balloon::target`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Size>,
    /// See [`Balloon::deflate_on_oom`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deflate_on_oom: Option<bool>,
    /// See [`Balloon::stats_interval`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats_interval: Option<u32>,
    /// See [`Balloon::reporting`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reporting: Option<bool>,
}

/// Why a balloon cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BalloonConflict {
    /// Not whole pages.
    #[error("balloon.target is {target}, which is not whole pages of 4KiB; use {below} or {above}")]
    TargetUnaligned {
        /// What was written.
        target: Size,
        /// The nearest sizes that would do.
        below: Size,
        /// See `below`.
        above: Size,
    },
    /// Nothing would be left.
    #[error(
        "balloon.target is {target}, but the guest has {memory} of memory altogether; use a smaller one"
    )]
    TargetTooLarge {
        /// What was written.
        target: Size,
        /// What the guest has.
        memory: Size,
    },
    /// Without a pause.
    #[error("balloon.stats_interval is 0; use 1 second or more, or leave it out")]
    NoInterval,
}

const PAGE: u64 = 4096;

impl BalloonConflict {
    /// The key to show.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Self::TargetUnaligned { .. } | Self::TargetTooLarge { .. } => "balloon.target",
            Self::NoInterval => "balloon.stats_interval",
        }
    }
}

impl BalloonSpec {
    /// These keys where given, those of `below` elsewhere.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            target: self.target.or(below.target),
            deflate_on_oom: self.deflate_on_oom.or(below.deflate_on_oom),
            stats_interval: self.stats_interval.or(below.stats_interval),
            reporting: self.reporting.or(below.reporting),
        }
    }

    /// Defaults filled in, for a guest with `memory`: an empty balloon that deflates when the guest
    /// runs out of memory, and free pages reported.
    ///
    /// # Errors
    ///
    /// Every [`BalloonConflict`].
    pub fn resolve(self, memory: Size) -> Result<Balloon, Vec<BalloonConflict>> {
        let mut conflicts = Vec::new();
        let target = self.target.unwrap_or_default();
        let rest = target.bytes() % PAGE;
        if rest != 0 {
            let below = Size::from_bytes(target.bytes() - rest);
            let above = Size::from_bytes(below.bytes().saturating_add(PAGE));
            conflicts.push(BalloonConflict::TargetUnaligned { target, below, above });
        }
        if target >= memory {
            conflicts.push(BalloonConflict::TargetTooLarge { target, memory });
        }
        let stats_interval = self.stats_interval.map(NonZeroU32::new);
        if stats_interval == Some(None) {
            conflicts.push(BalloonConflict::NoInterval);
        }
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
        Ok(Balloon {
            target,
            deflate_on_oom: self.deflate_on_oom.unwrap_or(true),
            stats_interval: stats_interval.flatten(),
            reporting: self.reporting.unwrap_or(true),
        })
    }
}

/// Why a text is no balloon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` is not a balloon: {reason}; write it as in target=256MiB,deflate_on_oom=true,stats_interval=10,reporting=true",
    .text.escape_debug()
)]
pub struct ParseBalloonError {
    /// What was written.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

impl FromStr for BalloonSpec {
    type Err = ParseBalloonError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = |reason| ParseBalloonError { text: text.to_owned(), reason };
        let mut spec = Self::default();
        for part in text.split(',') {
            let (key, value) =
                part.split_once('=').ok_or_else(|| fail(format!("`{part}` has no value")))?;
            let flag = || {
                value
                    .parse::<bool>()
                    .map_err(|_| fail(format!("{key} `{value}` is not true or false")))
            };
            let twice = match key {
                "target" => {
                    let size = value
                        .parse()
                        .map_err(|error: crate::ParseSizeError| fail(error.to_string()))?;
                    spec.target.replace(size).is_some()
                }
                "deflate_on_oom" => spec.deflate_on_oom.replace(flag()?).is_some(),
                "reporting" => spec.reporting.replace(flag()?).is_some(),
                "stats_interval" => {
                    let number = value.parse().map_err(|_| {
                        fail(format!("{key} `{value}` is not a whole number of seconds"))
                    })?;
                    spec.stats_interval.replace(number).is_some()
                }
                _ => {
                    let known = "target, deflate_on_oom, stats_interval or reporting";
                    return Err(fail(format!("`{key}` is not {known}")));
                }
            };
            if twice {
                return Err(fail(format!("{key} is given twice")));
            }
        }
        Ok(spec)
    }
}

impl fmt::Display for BalloonSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            self.target.map(|target| format!("target={target}")),
            self.deflate_on_oom.map(|yes| format!("deflate_on_oom={yes}")),
            self.stats_interval.map(|seconds| format!("stats_interval={seconds}")),
            self.reporting.map(|yes| format!("reporting={yes}")),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
#[path = "balloon_test.rs"]
mod balloon_test;
