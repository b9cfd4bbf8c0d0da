//! What can be changed about a guest while it runs: limits and sizes of its devices. A change is checked
//! whole before any of it is made, and holds over resets until the end of the run.

use std::fmt::Display;
use std::io;

use devices::token_bucket::{Limits, Rate};

use crate::api::types::{BalloonUpdate, DiskUpdate, LimitsUpdate, NetUpdate};
use crate::command::Refusal;
use crate::machine::networks;
use crate::machine::sources::Sources;

/// What was changed, in words; or why nothing was.
type Changed = Result<String, Refusal>;

/// How much of a second's worth passes at once after a rest, as where the configuration gives no burst.
pub(crate) const DISK_BURST: u64 = 10;

/// Changes the disk `name`.
pub(crate) fn disk(sources: &Sources, name: &str, update: &DiskUpdate) -> Changed {
    let disks = sources.disks();
    let Some(disk) = disks.named(name) else { return Err(unknown("disk", name, disks.names())) };
    let mut changes = Vec::new();
    if let Some(size) = update.size {
        disk.grow(size).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => Refusal::Invalid(format!(
                "the disk `{name}` cannot have {size} bytes: {error}; it has {}",
                disk.capacity()
            )),
            _ => Refusal::Failed(format!("the disk `{name}` stays as large as it is: {error}")),
        })?;
        changes.push(format!("size {size}"));
    }
    if let Some(update) = update.limits {
        let limits = disk.limits();
        limits.set(limited(limits.get(), &update, DISK_BURST));
        changes.extend(described("", &update));
    }
    summary(&format!("disk {name}"), &changes, "a size or limits")
}

/// Changes the network device `name`.
pub(crate) fn net(sources: &Sources, name: &str, update: &NetUpdate) -> Changed {
    let nets = sources.networks();
    let Some(net) = nets.handles().find(|net| net.short_name() == name) else {
        let names = nets.handles().map(networks::Handle::short_name);
        return Err(unknown("network device", name, names));
    };
    if net.is_vhost() && (update.receive.is_some() || update.send.is_some()) {
        return Err(Refusal::Invalid(format!(
            "the network device `{name}` cannot be limited: with vhost the host's kernel moves its packets, and it \
             knows no limits; leave vhost out when the guest is made"
        )));
    }
    let mut changes = Vec::new();
    if let Some(up) = update.link_up {
        net.link().set(up);
        changes.push(format!("link {}", if up { "up" } else { "down" }));
    }
    for (direction, limits, update) in [
        ("receive", net.receive_limits(), update.receive),
        ("send", net.send_limits(), update.send),
    ] {
        if let Some(update) = update {
            limits.set(limited(limits.get(), &update, networks::BURST));
            changes.extend(described(direction, &update));
        }
    }
    summary(&format!("net {name}"), &changes, "link_up, receive or send")
}

/// Changes the balloon of a guest with `memory` bytes.
pub(crate) fn balloon(sources: &Sources, memory: u64, update: &BalloonUpdate) -> Changed {
    let target = update.target;
    let Some(balloon) = sources.balloon() else {
        let reason = "the guest has no balloon; give it one with --balloon when it is made";
        return Err(Refusal::NotFound(reason.to_owned()));
    };
    if target > memory {
        let reason = format!("the balloon cannot take {target} bytes of a guest that has {memory}");
        return Err(Refusal::Invalid(reason));
    }
    balloon.handle().set_target_bytes(target);
    Ok(format!("balloon: target {target}"))
}

fn unknown<N: Display>(kind: &str, name: &str, names: impl Iterator<Item = N>) -> Refusal {
    let names: Vec<_> = names.map(|name| format!("`{name}`")).collect();
    Refusal::NotFound(match names.as_slice() {
        [] => format!("the guest has no {kind} `{name}`, and no other"),
        names => format!("the guest has no {kind} `{name}`; it has {}", names.join(", ")),
    })
}

/// Limits as they become: what `update` leaves out stays, and 0 lifts a limit.
fn limited(now: Limits, update: &LimitsUpdate, burst: u64) -> Limits {
    let rate = |now: Option<Rate>, asked: Option<u64>, at_once: Option<u64>| {
        let per_second = asked.or(now.map(|now| now.per_second)).filter(|&rate| rate > 0)?;
        let kept = now.filter(|_| asked.is_none()).map(|now| now.burst);
        let burst = at_once.or(kept).unwrap_or(per_second / burst);
        Some(Rate { per_second, burst: burst.max(1) })
    };
    Limits {
        bandwidth: rate(now.bandwidth, update.bytes_per_second, update.bytes_burst),
        operations: rate(now.operations, update.operations_per_second, update.operations_burst),
    }
}

fn described(direction: &str, update: &LimitsUpdate) -> impl Iterator<Item = String> {
    let limits = [
        ("bytes per second", update.bytes_per_second),
        ("operations per second", update.operations_per_second),
    ];
    let limits = limits.into_iter().filter_map(move |(unit, limit)| {
        let words = match limit? {
            0 => format!("{direction} no limit of {unit}"),
            limit => format!("{direction} {limit} {unit}"),
        };
        Some(words.trim_start().to_owned())
    });
    let bursts = [("bytes", update.bytes_burst), ("operations", update.operations_burst)];
    let bursts = bursts.into_iter().filter_map(move |(unit, burst)| {
        Some(format!("{direction} {} {unit} at once", burst?).trim_start().to_owned())
    });
    limits.chain(bursts)
}

/// Nothing is no change: whoever asks for it means something else.
fn summary(what: &str, changes: &[String], possible: &str) -> Changed {
    if changes.is_empty() {
        let reason = format!("nothing is to change about {what}; give {possible}");
        return Err(Refusal::Invalid(reason));
    }
    Ok(format!("{what}: {}", changes.join(", ")))
}

#[cfg(test)]
mod changes_test {
    use super::*;

    #[test]
    fn what_is_left_out_of_limits_stays_and_zero_lifts_them() {
        let rate = |per_second, burst| Some(Rate { per_second, burst });
        let now = Limits { bandwidth: rate(1000, 1), operations: rate(5, 5) };
        let update = LimitsUpdate { bytes_per_second: Some(2000), ..LimitsUpdate::default() };
        let then = Limits { bandwidth: rate(2000, 200), operations: rate(5, 5) };
        assert_eq!(limited(now, &update, 10), then);
        let update = LimitsUpdate { operations_per_second: Some(0), ..LimitsUpdate::default() };
        assert_eq!(limited(then, &update, 10), Limits { operations: None, ..then });
        let update = LimitsUpdate {
            bytes_per_second: Some(1),
            operations_per_second: Some(3),
            operations_burst: Some(9),
            ..LimitsUpdate::default()
        };
        let words: Vec<_> = described("send", &update).collect();
        let said = [
            "send 1 bytes per second",
            "send 3 operations per second",
            "send 9 operations at once",
        ];
        assert_eq!(words, said);
    }

    #[test]
    fn a_burst_is_the_one_given_or_follows_the_limit() {
        let now = Limits { bandwidth: None, operations: Some(Rate { per_second: 50, burst: 3 }) };
        let operations = |rate: Option<u64>, burst: Option<u64>| {
            let update = LimitsUpdate {
                operations_per_second: rate,
                operations_burst: burst,
                ..LimitsUpdate::default()
            };
            let rate = limited(now, &update, 10).operations;
            rate.map(|rate| (rate.per_second, rate.burst))
        };
        assert_eq!(operations(Some(100), None), Some((100, 10)));
        assert_eq!(operations(Some(100), Some(7)), Some((100, 7)));
        assert_eq!(operations(None, Some(7)), Some((50, 7)));
        assert_eq!(operations(None, None), Some((50, 3)));
        assert_eq!(operations(Some(0), Some(7)), None);
    }

    #[test]
    fn an_unknown_name_is_told_the_known_ones() {
        let none = unknown("disk", "x", [""; 0].iter()).to_string();
        assert_eq!(none, "the guest has no disk `x`, and no other");
        let some = unknown("disk", "x", ["root", "data"].iter()).to_string();
        assert_eq!(some, "the guest has no disk `x`; it has `root`, `data`");
    }
}
