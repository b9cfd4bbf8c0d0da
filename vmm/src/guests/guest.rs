//! [`Guest`]: what a guest is, whether or not it runs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use resources::config::{Name, VmConfig};
use serde::{Deserialize, Serialize};

use super::id::Id;

/// The version of the files of guests. A newer Carve reads those of older ones.
pub const VERSION: u32 = 1;

/// What a guest is. Fields are only ever added within a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// [`VERSION`].
    pub version: u32,
    /// What it is known by for good.
    pub id: Id,
    /// What it is called.
    pub name: Name,
    /// When it was created, in milliseconds since 1970.
    pub created_at: u64,
    /// The folder that relative paths of its configuration start from.
    pub folder: PathBuf,
    /// The KVM device.
    pub kvm_device: PathBuf,
    /// What the user noted about it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// When it is started again.
    #[serde(default)]
    pub restart: Restart,
    /// Whether it is removed when it has ended.
    #[serde(default)]
    pub remove: bool,
    /// Whether it runs without a terminal, watched by a monitor.
    pub detached: bool,
    /// What its user wants.
    #[serde(default)]
    pub wanted: Wanted,
    /// The machine.
    pub config: VmConfig,
}

/// What the user of a guest asked for last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wanted {
    /// That it runs; what follows an end is up to [`Restart`].
    Running,
    /// Nothing yet, or that it stops.
    #[default]
    Stopped,
    /// That it is killed.
    Killed,
}

/// When a guest is started again after its end. One that was stopped on request never is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Restart {
    /// Never.
    #[default]
    No,
    /// After an end with another exit code than 0.
    OnFailure {
        /// At most so often in a row; without a bound where it is none.
        limit: Option<u32>,
    },
    /// Always; at the start of the host only if it was not stopped before.
    UnlessStopped,
    /// Always; at the start of the host even if it was stopped before.
    Always,
}

impl Restart {
    /// Whether an end with `exit_code` is followed by another start, after `failures` in a row.
    pub fn follows(self, exit_code: u8, failures: u32) -> bool {
        match self {
            Self::No => false,
            Self::OnFailure { limit } => {
                exit_code != 0 && limit.is_none_or(|limit| failures < limit)
            }
            Self::UnlessStopped | Self::Always => true,
        }
    }
}

impl fmt::Display for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure { limit: None } => f.write_str("on-failure"),
            Self::OnFailure { limit: Some(limit) } => write!(f, "on-failure:{limit}"),
            Self::UnlessStopped => f.write_str("unless-stopped"),
            Self::Always => f.write_str("always"),
        }
    }
}

/// A text that is no [`Restart`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is no restart policy; use no, on-failure, on-failure:N with N from 1, unless-stopped or always", .0.escape_debug())]
pub struct NotARestart(String);

impl FromStr for Restart {
    type Err = NotARestart;

    fn from_str(text: &str) -> Result<Self, NotARestart> {
        let refused = || NotARestart(text.to_owned());
        Ok(match text {
            "no" => Self::No,
            "on-failure" => Self::OnFailure { limit: None },
            "unless-stopped" => Self::UnlessStopped,
            "always" => Self::Always,
            _ => {
                let limit = text.strip_prefix("on-failure:").ok_or_else(refused)?;
                let limit: u32 = limit.parse().map_err(|_| refused())?;
                if limit == 0 {
                    return Err(refused());
                }
                Self::OnFailure { limit: Some(limit) }
            }
        })
    }
}

impl TryFrom<String> for Restart {
    type Error = NotARestart;

    fn try_from(text: String) -> Result<Self, NotARestart> {
        text.parse()
    }
}

impl From<Restart> for String {
    fn from(restart: Restart) -> Self {
        restart.to_string()
    }
}

/// The host's clock in milliseconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod guest_test {
    use super::*;

    #[test]
    fn policies_read_back_as_they_are_written() {
        for text in ["no", "on-failure", "on-failure:5", "unless-stopped", "always"] {
            assert_eq!(text.parse::<Restart>().unwrap().to_string(), text);
        }
        for bad in ["", "on-failure:", "on-failure:0", "on-failure:-1", "Always"] {
            bad.parse::<Restart>().unwrap_err();
        }
    }

    #[test]
    fn failures_alone_count_for_on_failure_and_up_to_the_limit() {
        let policy = Restart::OnFailure { limit: Some(2) };
        assert!(!policy.follows(0, 0));
        assert!(policy.follows(1, 0) && policy.follows(1, 1) && !policy.follows(1, 2));
        assert!(Restart::Always.follows(0, 1000));
        assert!(!Restart::No.follows(1, 0));
    }
}
