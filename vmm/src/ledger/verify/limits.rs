//! Token buckets: the rates that a running guest is held to by its own devices, by its own word.

use std::time::Duration;

use resources::Size;
use resources::config::{Bandwidth, Net, VmConfig};

use crate::api::client::{Client, Error};
use crate::guests::Entry;

/// How long a guest's process may take to tell: one that hangs is a finding, and no reason to wait.
const PATIENCE: Duration = Duration::from_secs(3);

/// The configuration of the running guest of `entry`, as it is in force.
pub(in crate::ledger) fn in_force(entry: &Entry) -> Result<VmConfig, Error> {
    Client::connect_within(&entry.socket_path(), PATIENCE)?.get("/v1/config")
}

/// A limit: what it is of, what it should be and what it is, in words.
pub(super) struct Limit {
    pub what: String,
    pub expected: String,
    pub found: Option<String>,
}

/// Every rate of every device of `expected`, whether it is bounded or not.
pub(super) fn of(expected: &VmConfig, found: &VmConfig) -> Vec<Limit> {
    let mut limits = Vec::new();
    let mut add = |what: String, expected: String, found: Option<String>| {
        limits.push(Limit { what, expected, found });
    };
    for (name, disk) in &expected.disk {
        let other = found.disk.get(name);
        let operations = |(rate, burst): (u64, u64)| format!("{rate}/s, {burst} at once");
        add(
            format!("requests of disk {name}"),
            words(disk.operations_limit().map(operations)),
            other.map(|other| words(other.operations_limit().map(operations))),
        );
        let bytes = |(rate, burst): (u64, u64)| {
            format!("{}, {} at once", bandwidth(rate), Size::from_bytes(burst))
        };
        add(
            format!("bandwidth of disk {name}"),
            words(disk.bandwidth_limit().map(bytes)),
            other.map(|other| words(other.bandwidth_limit().map(bytes))),
        );
    }
    for (name, net) in &expected.net {
        let other = found.net.get(name);
        for (direction, is_received) in [("to", true), ("from", false)] {
            let side = |net: &Net| if is_received { net.receive } else { net.send };
            let packets = |net: &Net| words(side(net).packets.map(|rate| format!("{rate}/s")));
            let bytes = |net: &Net| {
                words(side(net).bandwidth.map(|rate| bandwidth(rate.bytes_per_second())))
            };
            let what = |kind: &str| format!("{kind} {direction} the guest by net {name}");
            add(what("packets"), packets(net), other.map(packets));
            add(what("bandwidth"), bytes(net), other.map(bytes));
        }
    }
    limits
}

fn bandwidth(rate: u64) -> String {
    Bandwidth::new(rate).map_or_else(|| format!("{rate}B/s"), |bandwidth| bandwidth.to_string())
}

fn words(limit: Option<String>) -> String {
    limit.unwrap_or_else(|| "no limit".to_owned())
}

#[cfg(test)]
mod limits_test {
    use resources::config::host::{Layers, Source};

    use super::*;

    fn machine(devices: &str) -> VmConfig {
        let text = format!("[vm.vm]\nkernel = \"/k\"\n{devices}");
        let source = Source { path: "f".into(), content: text.into_bytes() };
        let mut guests = Layers::parse(vec![source]).unwrap().resolve().unwrap().guests;
        guests.pop_first().unwrap().1.vm
    }

    fn wrong(expected: &str, found: &str) -> Vec<String> {
        let limits = of(&machine(expected), &machine(found));
        let wrong =
            limits.into_iter().filter(|limit| limit.found.as_ref() != Some(&limit.expected));
        let say = |limit: Limit| {
            let found = limit.found.unwrap_or_else(|| "nothing".to_owned());
            format!("{}: {} != {found}", limit.what, limit.expected)
        };
        wrong.map(say).collect()
    }

    #[test]
    fn each_rate_that_differs_is_named() {
        let is = "disk.d = { path = \"/d\", iops = 1000, bandwidth = \"8MB/s\" }\n\
                  net.n = { user = true, rx_bandwidth = \"1Gbit/s\", tx_packets = 500 }";
        assert_eq!(wrong(is, is), [""; 0]);
        let other = "disk.d = { path = \"/d\", iops = 2000, bandwidth = \"8MB/s\" }\n\
                     net.n = { user = true, tx_packets = 500 }";
        assert_eq!(
            wrong(is, other),
            [
                "requests of disk d: 1000/s, 100 at once != 2000/s, 200 at once",
                "bandwidth to the guest by net n: 125MB/s != no limit",
            ]
        );
    }

    #[test]
    fn a_burst_counts_whether_it_is_given_or_follows() {
        let with = |keys: &str| format!("disk.d = {{ path = \"/d\", iops = 1000{keys} }}");
        assert_eq!(wrong(&with(""), &with(", iops_burst = 100")), [""; 0]);
        let wrong = wrong(&with(", iops_burst = 7"), &with(""));
        assert_eq!(wrong, ["requests of disk d: 1000/s, 7 at once != 1000/s, 100 at once"]);
    }

    #[test]
    fn a_device_that_is_not_there_has_no_limits() {
        let wrong = wrong("disk.d = { path = \"/d\" }", "");
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(wrong[0].ends_with("!= nothing"), "{wrong:?}");
    }
}
