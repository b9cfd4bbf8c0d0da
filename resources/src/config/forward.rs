//! [`Forward`]: a port of the host that leads into a guest.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::schema_of::schema_of;
use super::words::words;

words! {
    /// A protocol with ports.
    Protocol {
        /// TCP.
        #[default]
        Tcp = "tcp",
        /// UDP.
        Udp = "udp",
    }
}

/// What arrives at a port of the host goes to a port of the guest. Written as
/// `[PROTOCOL:][ADDRESS:]HOST[:GUEST]`: TCP, all addresses and the same port where left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Forward {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The host's address it listens at; all of them if none.
    pub address: Option<Ipv4Addr>,
    /// Port of the host, from 1.
    pub host: u16,
    /// Port of the guest, from 1.
    pub guest: u16,
}

/// Why a text is no [`Forward`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a port to forward: {reason}; write it as in 8080:80, udp:53:53 or 127.0.0.1:8080:80"
)]
pub struct ParseForwardError {
    /// What was written.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

schema_of!(Forward, |_generator| { "type": "string" });

impl FromStr for Forward {
    type Err = ParseForwardError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = |reason| ParseForwardError { text: text.to_owned(), reason };
        let mut parts = text.split(':').peekable();
        let protocol = parts.peek().and_then(|part| part.parse::<Protocol>().ok());
        parts.next_if(|_| protocol.is_some());
        let address = parts.peek().and_then(|part| part.parse::<Ipv4Addr>().ok());
        parts.next_if(|_| address.is_some());
        let port = |part: &str| match part.parse() {
            Ok(0) | Err(_) => Err(fail(format!("`{part}` is not a port from 1 to 65535"))),
            Ok(port) => Ok(port),
        };
        let host = port(parts.next().unwrap_or_default())?;
        let guest = parts.next().map_or(Ok(host), port)?;
        match parts.next() {
            Some(more) => Err(fail(format!("`{more}` follows the guest's port"))),
            None => Ok(Self { protocol: protocol.unwrap_or_default(), address, host, guest }),
        }
    }
}

impl Forward {
    /// Whether one port of the host cannot serve both.
    pub(super) fn clashes_with(&self, other: &Self) -> bool {
        let addresses = match (self.address, other.address) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        (self.protocol, self.host) == (other.protocol, other.host) && addresses
    }
}

impl TryFrom<String> for Forward {
    type Error = ParseForwardError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Forward> for String {
    fn from(forward: Forward) -> Self {
        forward.to_string()
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.protocol != Protocol::default() {
            write!(f, "{}:", self.protocol)?;
        }
        if let Some(address) = self.address {
            write!(f, "{address}:")?;
        }
        write!(f, "{}:{}", self.host, self.guest)
    }
}

#[cfg(test)]
mod forward_test {
    use super::*;

    #[test]
    fn parts_that_are_left_out_have_defaults() {
        for (text, shown) in [
            ("8080:80", "8080:80"),
            ("tcp:22", "22:22"),
            ("udp:53:53", "udp:53:53"),
            ("127.0.0.1:8080:80", "127.0.0.1:8080:80"),
            ("udp:10.0.0.1:53", "udp:10.0.0.1:53:53"),
        ] {
            let forward: Forward = text.parse().unwrap();
            assert_eq!(forward.to_string(), shown);
            assert_eq!(shown.parse(), Ok(forward));
        }
    }

    #[test]
    fn errors_name_the_part() {
        for (text, part) in [
            ("", "`` is not a port"),
            ("80:", "`` is not a port"),
            ("0:80", "`0` is not a port"),
            ("80:65536", "`65536` is not a port"),
            ("sctp:80:80", "`sctp` is not a port"),
            ("80:80:80", "`80` follows"),
        ] {
            let error = text.parse::<Forward>().unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("write it as"), "{error}");
        }
    }
}
