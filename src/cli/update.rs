//! Changes of devices of a guest, as `carve update` takes them: `NAME,KEY=VALUE,…`.

use std::str::FromStr;

use resources::Size;
use resources::config::{Bandwidth, Name};
use vmm::api::types::{DiskUpdate, LimitsUpdate, NetUpdate};

/// A change of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskChange(pub Name, pub DiskUpdate);

/// A change of a network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetChange(pub Name, pub NetUpdate);

/// Why a text is no change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; write it as in {example}")]
pub struct NoChange {
    reason: String,
    example: &'static str,
}

impl FromStr for DiskChange {
    type Err = NoChange;

    fn from_str(text: &str) -> Result<Self, NoChange> {
        let mut update = DiskUpdate::default();
        let name = parse(text, |key, value| match key {
            "size" => put(&mut update.size, size(value)?),
            "iops" => {
                put(&mut limits(&mut update.limits).operations_per_second, number(value, key)?)
            }
            "bandwidth" => put(&mut limits(&mut update.limits).bytes_per_second, rate(value)?),
            _ => Err(format!("`{key}` is not one of size, iops and bandwidth")),
        });
        let example = "disk0,size=20GiB,iops=1000,bandwidth=100MB (0 lifts a limit)";
        Ok(Self(name.map_err(|reason| NoChange { reason, example })?, update))
    }
}

impl FromStr for NetChange {
    type Err = NoChange;

    fn from_str(text: &str) -> Result<Self, NoChange> {
        let mut update = NetUpdate::default();
        let name = parse(text, |key, value| match key.replace('-', "_").as_str() {
            "link" => put(&mut update.link_up, link(value)?),
            "rx_bandwidth" => put(&mut limits(&mut update.receive).bytes_per_second, rate(value)?),
            "tx_bandwidth" => put(&mut limits(&mut update.send).bytes_per_second, rate(value)?),
            "rx_packets" => {
                put(&mut limits(&mut update.receive).operations_per_second, number(value, key)?)
            }
            "tx_packets" => {
                put(&mut limits(&mut update.send).operations_per_second, number(value, key)?)
            }
            _ => Err(format!(
                "`{key}` is not one of link, rx-bandwidth, rx-packets, tx-bandwidth and tx-packets"
            )),
        });
        let example = "net0,link=down,rx-bandwidth=100MB,tx-bandwidth=10MB (0 lifts a limit)";
        Ok(Self(name.map_err(|reason| NoChange { reason, example })?, update))
    }
}

/// The name before the first comma; what follows it goes to `set`, a key and its value each.
fn parse(
    text: &str,
    mut set: impl FnMut(&str, &str) -> Result<bool, String>,
) -> Result<Name, String> {
    let (name, changes) =
        text.split_once(',').ok_or_else(|| format!("`{text}` does not say what is to change"))?;
    let name = name.parse::<Name>().map_err(|error| error.to_string())?;
    for change in changes.split(',') {
        let (key, value) =
            change.split_once('=').ok_or_else(|| format!("`{change}` has no value"))?;
        if set(key, value)? {
            return Err(format!("{key} is given twice"));
        }
    }
    Ok(name)
}

/// Sets `slot`; true if it was set before.
#[expect(clippy::unnecessary_wraps, reason = "an arm beside those that fail")]
fn put<T>(slot: &mut Option<T>, value: T) -> Result<bool, String> {
    Ok(slot.replace(value).is_some())
}

fn limits(limits: &mut Option<LimitsUpdate>) -> &mut LimitsUpdate {
    limits.get_or_insert_default()
}

fn size(value: &str) -> Result<u64, String> {
    value.parse::<Size>().map(Size::bytes).map_err(|error| error.to_string())
}

fn number(value: &str, key: &str) -> Result<u64, String> {
    value.parse().map_err(|_| format!("{key} `{value}` is not a whole number"))
}

/// Bytes a second; 0 for no limit.
fn rate(value: &str) -> Result<u64, String> {
    if value == "0" {
        return Ok(0);
    }
    let rate = value.parse::<Bandwidth>().map_err(|error| error.to_string())?;
    Ok(rate.bytes_per_second())
}

fn link(value: &str) -> Result<bool, String> {
    match value {
        "up" => Ok(true),
        "down" => Ok(false),
        _ => Err(format!("link `{value}` is not up or down")),
    }
}

#[cfg(test)]
mod update_test {
    use super::*;

    #[test]
    fn a_change_of_a_disk_has_a_name_and_what_is_to_change() {
        let DiskChange(name, update) = "data,size=2GiB,iops=0,bandwidth=10MB".parse().unwrap();
        let limits = LimitsUpdate {
            bytes_per_second: Some(10_000_000),
            operations_per_second: Some(0),
            ..LimitsUpdate::default()
        };
        assert_eq!(name.as_str(), "data");
        assert_eq!(update, DiskUpdate { size: Some(2 << 30), limits: Some(limits) });
        let DiskChange(_, update) = "data,size=1k".parse().unwrap();
        assert_eq!(update, DiskUpdate { size: Some(1024), limits: None });
    }

    #[test]
    fn a_change_of_a_network_device_has_directions() {
        let NetChange(name, update) =
            "lan,link=down,rx-bandwidth=1MB/s,tx_packets=5".parse().unwrap();
        assert_eq!((name.as_str(), update.link_up), ("lan", Some(false)));
        assert_eq!(update.receive.unwrap().bytes_per_second, Some(1_000_000));
        assert_eq!(update.send.unwrap().operations_per_second, Some(5));
        let NetChange(_, update) = "lan,tx-bandwidth=0".parse().unwrap();
        assert_eq!(update.send.unwrap().bytes_per_second, Some(0));
    }

    #[test]
    fn what_is_no_change_says_what_is_wrong_and_how_it_is_written() {
        for (text, word) in [
            ("data", "what is to change"),
            ("data,", "no value"),
            ("data,size=x", "`x`"),
            ("data,colour=red", "`colour`"),
            ("data,iops=1,iops=2", "iops is given twice"),
            ("Data!,iops=1", "Data!"),
            ("data,iops=-1", "`-1`"),
        ] {
            let refused = text.parse::<DiskChange>().unwrap_err().to_string();
            assert!(refused.contains(word) && refused.contains("disk0,size="), "{text}: {refused}");
        }
        for text in ["lan,link=left", "lan,rx-bandwidth=fast", "lan,size=1", ",link=up"] {
            text.parse::<NetChange>().unwrap_err();
        }
    }
}
