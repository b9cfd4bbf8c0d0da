//! [`MacAddress`]: the Ethernet address of a network device.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Name;
use super::schema_of::schema_of;

/// An address of one station, neither zero nor of a group. Written as six pairs of hexadecimal digits
/// joined by `:`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress([u8; 6]);

/// Why a text is no [`MacAddress`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not the MAC address of a network device: {reason}; use one such as {example}")]
pub struct InvalidMacAddress {
    /// What was written.
    pub text: String,
    /// Which rule it breaks.
    pub reason: &'static str,
    /// One that could have been written.
    pub example: MacAddress,
}

/// First bytes of addresses made here: locally administered, of one station.
const PREFIX: [u8; 2] = [0x02, 0xca];

impl MacAddress {
    /// The six bytes in the order of transmission.
    #[must_use]
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }

    /// The address of network device `index` of the VM `name`: always the same, so that leases and
    /// host configuration stay valid, and unlikely to be another VM's.
    #[must_use]
    pub fn derived(name: &Name, index: usize) -> Self {
        // FNV-1a: short, and fixed for ever, which a hash of the standard library is not.
        let bytes = name.as_str().bytes().chain([0]).chain((index as u64).to_le_bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self::local((hash ^ hash >> 32).to_le_bytes())
    }

    /// A locally administered address out of random bytes.
    #[must_use]
    pub fn local([a, b, c, d, ..]: [u8; 8]) -> Self {
        let [p, q] = PREFIX;
        Self([p, q, a, b, c, d])
    }
}

schema_of!(MacAddress, |_generator| {
    "type": "string",
    "pattern": "^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$",
});

impl TryFrom<[u8; 6]> for MacAddress {
    type Error = &'static str;

    fn try_from(bytes: [u8; 6]) -> Result<Self, Self::Error> {
        if bytes == [0; 6] {
            Err("it is all zeros")
        } else if bytes[0] & 1 != 0 {
            Err("it is the address of a group, as the first byte is odd")
        } else {
            Ok(Self(bytes))
        }
    }
}

impl FromStr for MacAddress {
    type Err = InvalidMacAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let example = Self::local([0x4e, 0x12, 0x34, 0x56, 0, 0, 0, 0]);
        let fail = |reason| InvalidMacAddress { text: text.to_owned(), reason, example };
        let form = || fail("it is not six pairs of hexadecimal digits joined by :");
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2 && !part.starts_with('+'));
            *byte = u8::from_str_radix(part.ok_or_else(form)?, 16).map_err(|_| form())?;
        }
        if parts.next().is_some() {
            return Err(form());
        }
        bytes.try_into().map_err(fail)
    }
}

impl TryFrom<String> for MacAddress {
    type Error = InvalidMacAddress;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(address: MacAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod mac_test {
    use super::*;

    #[test]
    fn addresses_of_stations_are_read_and_shown() {
        let address: MacAddress = "02:CA:4e:00:00:ff".parse().unwrap();
        assert_eq!(address.bytes(), [2, 0xca, 0x4e, 0, 0, 0xff]);
        assert_eq!(address.to_string(), "02:ca:4e:00:00:ff");
    }

    #[test]
    fn other_texts_are_refused_with_an_example() {
        for bad in [
            "",
            "02:ca:4e:00:00",
            "02:ca:4e:00:00:00:00",
            "02-ca-4e-00-00-00",
            "2:ca:4e:0:0:0",
            "+2:ca:4e:00:00:00",
            "zz:ca:4e:00:00:00",
            "00:00:00:00:00:00",
            "01:00:5e:00:00:01",
            "ff:ff:ff:ff:ff:ff",
        ] {
            let error = bad.parse::<MacAddress>().unwrap_err().to_string();
            assert!(error.contains(bad) && error.contains("such as 02:ca:4e"), "{error}");
        }
    }

    #[test]
    fn derived_addresses_stay_and_differ() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        let first = MacAddress::derived(&name("web"), 0);
        // Written down: a new version must not give VMs new addresses.
        assert_eq!(first.to_string(), "02:ca:77:30:f6:f6");
        let others = [("web", 1), ("web-1", 0), ("db", 0)];
        assert!(others.iter().all(|&(vm, index)| MacAddress::derived(&name(vm), index) != first));
        assert!(MacAddress::try_from(first.bytes()).is_ok());
    }
}
