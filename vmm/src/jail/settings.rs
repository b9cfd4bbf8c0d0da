//! What the user of a guest says about its confinement.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::seccomp;

/// How far a guest's VMM is confined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Settings {
    /// Whether the process is in a jail.
    #[serde(default)]
    pub jail: Switch,
    /// What is done about system calls that no thread needs.
    #[serde(default)]
    pub seccomp: seccomp::Mode,
}

/// Whether a guest's process is in a jail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// As far as the host lets it.
    #[default]
    On,
    /// In a complete one, or the guest does not start.
    Strict,
    /// It is not.
    Off,
}

/// Not a [`Switch`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is none of on, strict and off")]
pub struct NoSwitch(String);

impl FromStr for Switch {
    type Err = NoSwitch;

    fn from_str(text: &str) -> Result<Self, NoSwitch> {
        match text {
            "on" => Ok(Self::On),
            "strict" => Ok(Self::Strict),
            "off" => Ok(Self::Off),
            other => Err(NoSwitch(other.to_owned())),
        }
    }
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Strict => "strict",
            Self::Off => "off",
        })
    }
}

#[cfg(test)]
mod settings_test {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        for switch in [Switch::On, Switch::Strict, Switch::Off] {
            assert_eq!(switch.to_string().parse(), Ok(switch));
        }
        let error = "maybe".parse::<Switch>().unwrap_err().to_string();
        assert_eq!(error, "`maybe` is none of on, strict and off");
    }
}
