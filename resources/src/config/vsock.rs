//! [`Vsock`]: the socket device of a VM, which connects AF_VSOCK sockets of the guest with unix
//! sockets of the host.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema_of::schema_of;

/// The CIDs a guest can have (virtio 1.3, 5.10.4): those below have meanings of their own, and so
/// does the one above.
const CIDS: std::ops::RangeInclusive<u32> = 3..=0xffff_fffe;

/// Bytes of the longest path of a unix socket, without the zero that ends it (unix(7)).
const LONGEST_PATH: usize = 107;
/// Bytes of the longest suffix that stands for a port: `_4294967295`.
const LONGEST_SUFFIX: usize = 11;

/// A socket device. There is no way to make one that breaks the rules of [`InvalidVsock`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct Vsock {
    /// The guest's context ID, 3 to 4294967294, different from those of all other guests it is
    /// to be told from.
    pub cid: u32,
    /// Where programs of the host connect to ports of the guest's. Connections of the guest's to
    /// port P of the host's arrive at the socket of this name with `_P` behind it.
    pub socket: PathBuf,
}

schema_of!(Vsock, |generator| Written::json_schema(generator));

/// [`Vsock`] as written.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Written {
    /// Wide, so that a number out of range is told apart from something else.
    cid: i64,
    socket: PathBuf,
}

/// A rule that a socket device breaks. Says value, reason and remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidVsock {
    /// A CID that no guest can have.
    #[error(
        "cid is {0}, but a guest's is from 3 to 4294967294 (0 to 2 and 4294967295 mean something \
         else); choose a number in that range"
    )]
    Cid(i64),
    /// No path.
    #[error("socket is an empty path; name the unix socket to make, such as vm.vsock")]
    EmptyPath,
    /// A path that leaves no room for ports.
    #[error(
        "socket {} has {} bytes, but with a port behind it (as in _1024) it is the path of a unix \
         socket and so has at most {most}; use a shorter one",
        .0.display(), .0.as_os_str().len(), most = LONGEST_PATH - LONGEST_SUFFIX
    )]
    PathTooLong(PathBuf),
    /// A path that cannot be one.
    #[error("socket has the character {1:?} in {0:?}, which no path has; leave it out")]
    Character(PathBuf, char),
    /// A flag's value that is not made of the two parts.
    #[error("`{text}` is not a socket device: {reason}; write it as in cid=3,socket=vm.vsock")]
    Syntax {
        /// What was written.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl TryFrom<Written> for Vsock {
    type Error = InvalidVsock;

    fn try_from(Written { cid, socket }: Written) -> Result<Self, InvalidVsock> {
        let in_range = u32::try_from(cid).ok().filter(|cid| CIDS.contains(cid));
        let vsock = Self { cid: in_range.ok_or(InvalidVsock::Cid(cid))?, socket };
        vsock.check_path().map(|()| vsock)
    }
}

impl Vsock {
    fn check_path(&self) -> Result<(), InvalidVsock> {
        let bytes = self.socket.as_os_str().as_encoded_bytes();
        if bytes.is_empty() {
            return Err(InvalidVsock::EmptyPath);
        }
        if bytes.contains(&0) {
            return Err(InvalidVsock::Character(self.socket.clone(), '\0'));
        }
        if bytes.len() > LONGEST_PATH - LONGEST_SUFFIX {
            return Err(InvalidVsock::PathTooLong(self.socket.clone()));
        }
        Ok(())
    }
}

impl fmt::Display for Vsock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cid={},socket={}", self.cid, self.socket.display())
    }
}

impl FromStr for Vsock {
    type Err = InvalidVsock;

    /// A comma ends the path: one with a comma in it can be given in a file only.
    fn from_str(text: &str) -> Result<Self, InvalidVsock> {
        let fail = |reason| InvalidVsock::Syntax { text: text.to_owned(), reason };
        let mut parts: [(&str, Option<&str>); 2] = [("cid", None), ("socket", None)];
        for part in text.split(',') {
            let (key, value) =
                part.split_once('=').ok_or_else(|| fail(format!("`{part}` has no value")))?;
            let (_, slot) = parts
                .iter_mut()
                .find(|(name, _)| *name == key)
                .ok_or_else(|| fail(format!("`{key}` is not cid or socket")))?;
            if slot.replace(value).is_some() {
                return Err(fail(format!("{key} is given twice")));
            }
        }
        let [cid, socket] =
            parts.map(|(name, value)| value.ok_or_else(|| fail(format!("{name} is missing"))));
        let (cid, socket) = (cid?, socket?);
        let cid = cid.parse().map_err(|_| fail(format!("cid `{cid}` is not a whole number")))?;
        Written { cid, socket: socket.into() }.try_into()
    }
}

#[cfg(test)]
#[path = "vsock_test.rs"]
mod vsock_test;
