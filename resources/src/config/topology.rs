//! [`Topology`]: how the vCPUs are arranged in sockets, cores and threads.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Sockets, cores per socket and threads per core, each at least 1 in a
/// [`VmConfig`](super::VmConfig). A part that is not given is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Topology {
    /// Processor packages.
    pub sockets: u32,
    /// Cores in each package.
    pub cores: u32,
    /// Hardware threads in each core.
    pub threads: u32,
}

impl Default for Topology {
    fn default() -> Self {
        Self { sockets: 1, cores: 1, threads: 1 }
    }
}

impl Topology {
    /// The vCPUs it holds. 64 bits cannot overflow where it matters: `None` only
    /// past 2⁶⁴, which no count of vCPUs equals.
    #[must_use]
    pub fn vcpus(&self) -> Option<u64> {
        u64::from(self.sockets)
            .checked_mul(u64::from(self.cores))?
            .checked_mul(u64::from(self.threads))
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sockets={},cores={},threads={}", self.sockets, self.cores, self.threads)
    }
}

/// Why a text is no topology.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a topology: {reason}; write it as in sockets=1,cores=4,threads=2")]
pub struct ParseTopologyError {
    /// What was written.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

impl FromStr for Topology {
    type Err = ParseTopologyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = |reason| ParseTopologyError { text: text.to_owned(), reason };
        let mut parts: [(&str, Option<u32>); 3] =
            [("sockets", None), ("cores", None), ("threads", None)];
        for part in text.split(',') {
            let (key, value) =
                part.split_once('=').ok_or_else(|| fail(format!("`{part}` has no value")))?;
            let (_, slot) = parts
                .iter_mut()
                .find(|(name, _)| *name == key)
                .ok_or_else(|| fail(format!("`{key}` is not sockets, cores or threads")))?;
            let number = value
                .parse()
                .map_err(|_| fail(format!("{key} `{value}` is not a whole number")))?;
            if slot.replace(number).is_some() {
                return Err(fail(format!("{key} is given twice")));
            }
        }
        let [sockets, cores, threads] = parts.map(|(_, value)| value.unwrap_or(1));
        Ok(Self { sockets, cores, threads })
    }
}

#[cfg(test)]
mod topology_test {
    use super::*;

    #[test]
    fn parts_come_in_any_order_and_default_to_one() {
        let topology = Topology { sockets: 2, cores: 1, threads: 4 };
        assert_eq!("threads=4,sockets=2".parse(), Ok(topology));
        assert_eq!(topology.to_string().parse(), Ok(topology));
        assert_eq!(topology.vcpus(), Some(8));
    }

    #[test]
    fn errors_name_the_part() {
        for (text, part) in [
            ("", "`` has no value"),
            ("cores", "`cores` has no value"),
            ("dies=2", "`dies` is not"),
            ("cores=x", "cores `x`"),
            ("cores=-1", "cores `-1`"),
            ("cores=1,cores=2", "cores is given twice"),
        ] {
            let error = text.parse::<Topology>().unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("write it as"), "{error}");
        }
    }

    #[test]
    fn a_product_past_64_bits_is_no_count() {
        let most = Topology { sockets: u32::MAX, cores: u32::MAX, threads: u32::MAX };
        assert_eq!(most.vcpus(), None);
    }
}
