//! [`Shortage`]: what of a guest's storage the host had no room for, as the record of a run keeps it and its end tells
//! it: a guest whose disk is full fails later, in its own ways.

use std::fmt::{self, Display};
use std::time::{Duration, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::now;
use crate::run::DISK_FULL;

/// Most of them in one record.
const MOST: usize = 64;

/// Storage of a guest that was full on the host. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Shortage {
    /// The disk whose writes failed; nothing where the guest was paused before any did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    /// The disk's file or device, or the folder whose file system was full.
    pub path: String,
    /// When it was noticed first.
    pub first: u64,
    /// When it was noticed last.
    pub last: u64,
}

impl Shortage {
    /// What is told by an event of a run; nothing if it is of another kind.
    pub(super) fn of(event: &str, details: &[(&str, String)]) -> Option<Self> {
        let detail = |key| Some(details.iter().find(|(name, _)| *name == key)?.1.clone());
        let (first, last) = (now(), now());
        let path = detail("path").or_else(|| detail("folder"));
        let path = path.filter(|_| event == DISK_FULL)?;
        Some(Self { disk: detail("disk"), path, first, last })
    }

    /// Adds this to those that are known: each disk and folder is there once.
    pub(super) fn add_to(self, known: &mut Vec<Self>) {
        let room = known.len() < MOST;
        let same = known.iter_mut().find(|one| one.disk == self.disk && one.path == self.path);
        match same {
            Some(one) => one.last = self.last,
            // No guest has as many disks; a VMM that was taken over may say that it does.
            None if !room => {}
            None => known.push(self),
        }
    }
}

impl Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match &self.disk {
            Some(disk) => write!(f, "the host had no room left for its disk {disk} ({path})")?,
            None => write!(f, "it had been paused because {path} was full")?,
        }
        match UNIX_EPOCH.checked_add(Duration::from_millis(self.last)) {
            Some(last) => write!(f, ", last at {}", humantime::format_rfc3339_seconds(last)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod shortage_test {
    use super::*;

    #[test]
    fn each_disk_and_folder_is_told_of_once_with_its_last_time() {
        let mut known = Vec::new();
        let disk = [("disk", "data".to_owned()), ("path", "/srv/data.raw".to_owned())];
        let folder = [("folder", "/pool".to_owned())];
        for details in [&disk[..], &folder[..], &disk[..]] {
            Shortage::of(DISK_FULL, details).unwrap().add_to(&mut known);
        }
        assert_eq!(known.len(), 2);
        known[0].last = 951_782_400_000;
        let text = "the host had no room left for its disk data (/srv/data.raw), last at 2000-02-29T00:00:00Z";
        assert_eq!(known[0].to_string(), text);
        assert!(known[1].to_string().starts_with("it had been paused because /pool was full"));
        assert_eq!(Shortage::of("paused", &disk), None);
    }
}
